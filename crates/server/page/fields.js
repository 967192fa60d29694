// A tree of partial_json.js as rows of names and values. Rows stay where they are while the tree grows, so that what is
// selected stays selected. All text goes in as text, never as markup.

/** Shows `node` in `place`, changing only what changed. */
export function showFields(place, node) {
  place.classList.add("fields");
  show(place, wrap(node));
}

/** What is no object or array stands alone in one row. */
function wrap(node) {
  return node === null || node.kind === "object" || node.kind === "array" ? node : { kind: "array", items: [node] };
}

function show(place, node) {
  if (node === null) return fill(place, "none", "");
  if (node.kind === "object") return rows(place, node.entries, node.done);
  if (node.kind === "array") return rows(place, node.items.map((child, i) => [`${i + 1}`, child]), node.done);
  fill(place, node.kind, node.text);
  place.classList.toggle("caret", node.done === false);
}

function rows(place, pairs, done) {
  if (pairs.length === 0) {
    fill(place, "none", done ? "none" : "");
    return;
  }
  if (place.dataset.kind !== "rows") {
    place.replaceChildren();
    place.dataset.kind = "rows";
    place.classList.remove("caret");
  }
  pairs.forEach(([name, node], i) => {
    const row = place.children[i] ?? place.appendChild(newRow());
    const [label, value] = row.children;
    if (label.textContent !== name) label.textContent = name;
    const nested = node !== null && (node.kind === "object" || node.kind === "array");
    row.classList.toggle("nested", nested && value.dataset.kind === "rows");
    show(value, node);
    row.classList.toggle("nested", value.dataset.kind === "rows");
  });
}

function newRow() {
  const row = document.createElement("div");
  row.className = "row";
  for (const part of ["name", "value"]) {
    const cell = document.createElement("div");
    cell.className = part;
    row.append(cell);
  }
  return row;
}

function fill(place, kind, text) {
  place.dataset.kind = kind;
  if (place.textContent !== text) place.textContent = text;
}
