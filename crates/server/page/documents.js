// Documents: dropped, read by the server, and shown with the fields that were found outlined on their pages.

import { postStream } from "./api.js";

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

/** Ends the reading that is under way, if one is. */
let running = null;
/** Pictures that are shown, to be let go. */
let urls = [];

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function names() {
  return byId("document-fields").value.split(",").map((name) => name.trim()).filter(Boolean);
}

/** Sends a document and shows what comes back. */
async function read(file, onKey) {
  running?.abort();
  const abort = new AbortController();
  running = abort;
  byId("document").dataset.state = "reading";
  tell(`Reading ${file.name}`);
  const form = new FormData();
  form.append("stream", "true");
  form.append("pictures", "20");
  if (names().length > 0) form.append("fields", names().join(","));
  form.append("file", file);
  try {
    let result = null;
    for await (const data of postStream("extract", form, abort.signal)) {
      const event = JSON.parse(data);
      if (event.error) throw Object.assign(new Error(event.error.message), event.error);
      if (event.stage) tell(progress(event));
      else result = event;
    }
    if (result === null) throw new Error("The connection ended before the answer did.");
    show(file, result);
  } catch (error) {
    if (abort.signal.aborted) return;
    byId("document").dataset.state = "failed";
    tell(error.message, true);
    if (error.status === 401) onKey();
  } finally {
    if (running === abort) running = null;
  }
}

function progress({ stage, pages_done: done, pages, parts_done: partsDone, parts }) {
  if (stage === "reading") return `Reading: ${done} of ${pages} pages`;
  if (stage === "fields") return parts > 1 ? `Looking for fields: ${partsDone} of ${parts} parts` : "Looking for fields";
  return "Answering";
}

function tell(text, isError = false) {
  const place = byId("document-state");
  place.textContent = text;
  place.classList.toggle("error", isError);
}

function show(file, result) {
  byId("document").dataset.state = "done";
  const missing = result.ungrounded?.length ?? 0;
  tell(`${file.name}: ${result.pages.length} page${result.pages.length === 1 ? "" : "s"}, `
    + `${result.processing_time_seconds.toFixed(1)} s${missing ? `; ${missing} said but not found` : ""}`);
  for (const url of urls) URL.revokeObjectURL(url);
  urls = [];
  byId("document-result").replaceChildren(pages(result), facts(result));
}

// --- Pages

function pages(result) {
  const place = element("div", "pages");
  for (const picture of result.pictures ?? []) place.append(page(picture, result.found ?? []));
  if (place.children.length === 0) {
    // What has no pages to look at is shown as text, with what was found marked.
    place.append(marked(result));
  } else if (result.pages.length > place.children.length) {
    place.append(element("p", "hint", `${result.pages.length - place.children.length} more pages`));
  }
  return place;
}

function page(picture, found) {
  const place = element("figure", "page");
  const image = element("img", "");
  const bytes = Uint8Array.from(atob(picture.png_base64), (c) => c.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  urls.push(url);
  image.src = url;
  image.alt = `Page ${picture.page}`;
  const outlines = document.createElementNS(SVG, "svg");
  outlines.setAttribute("viewBox", `0 0 ${picture.page_width} ${picture.page_height}`);
  outlines.setAttribute("aria-hidden", "true");
  for (const field of found.filter((field) => field.page === picture.page)) {
    for (const box of field.boxes) {
      const outline = document.createElementNS(SVG, "rect");
      const margin = 1.5;
      for (const [name, value] of Object.entries({
        x: box.x0 - margin, y: box.y0 - margin, rx: 1.5,
        width: box.x1 - box.x0 + 2 * margin, height: box.y1 - box.y0 + 2 * margin,
      })) outline.setAttribute(name, value);
      outline.dataset.path = field.path;
      const title = document.createElementNS(SVG, "title");
      title.textContent = field.path;
      outline.append(title);
      outlines.append(outline);
    }
  }
  place.append(image, outlines);
  return place;
}

/** The text with the first place of each field marked, as far as it stands there as it was found. */
function marked(result) {
  const place = element("pre", "document-text");
  const marks = [];
  for (const field of result.found ?? []) {
    const at = result.text.indexOf(field.text);
    if (at >= 0) marks.push([at, at + field.text.length, field.path]);
  }
  let end = 0;
  for (const [from, to, path] of marks.sort((a, b) => a[0] - b[0])) {
    if (from < end) continue;
    const mark = element("mark", "", result.text.slice(from, to));
    mark.dataset.path = path;
    mark.title = path;
    place.append(result.text.slice(end, from), mark);
    end = to;
  }
  place.append(result.text.slice(end));
  return place;
}

// --- Fields

function facts(result) {
  const place = element("div", "facts");
  if (result.fields) {
    const list = element("dl", "found");
    for (const [path, value] of leaves(result.fields)) list.append(...row(path, value, result));
    place.append(list);
    const checks = result.checks.filter((check) => check.status !== "not_applicable");
    if (checks.length > 0) place.append(element("h2", "", "Checks"), ...checks.map(checked));
  }
  for (const warning of result.warnings) place.append(element("p", "hint", warning.message));
  return place;
}

function* leaves(value, path = "") {
  if (value === null || typeof value !== "object") {
    yield [path, value];
    return;
  }
  for (const [key, child] of Object.entries(value)) {
    const step = Array.isArray(value) ? `[${key}]` : (path && ".") + key;
    yield* leaves(child, path + step);
  }
}

function row(path, value, result) {
  const found = result.found.find((field) => field.path === path);
  const said = result.ungrounded.find((field) => field.path === path);
  const name = element("dt", "", path);
  const place = element("dd", value === null ? "none" : "", value === null ? "not in the document" : `${value}`);
  place.dataset.path = path;
  if (found) {
    const where = `page ${found.page}${found.ambiguous ? `, ambiguous: ${found.ambiguous}` : ""}`;
    place.append(" ", element("span", "hint", where));
  } else if (said) {
    place.append(" ", element("span", "hint", `the model said ${JSON.stringify(said.said)}`));
  } else if (value !== null) {
    place.append(" ", element("span", "hint", "chosen by the model"));
  }
  return [name, place];
}

function checked(check) {
  const line = element("p", `check ${check.status}`);
  line.append(element("strong", "", check.status), ` ${check.rule}`);
  if (check.status === "failed" && check.expected !== null) {
    line.append(element("span", "hint", ` expected ${check.expected}, is ${check.actual}`));
  } else if (check.reason !== null) {
    line.append(element("span", "hint", ` ${check.reason}`));
  }
  return line;
}

/** Lights up a field wherever it is shown. */
function point(event) {
  const path = event.target.closest("[data-path]")?.dataset.path;
  for (const part of byId("document-result").querySelectorAll("[data-path]")) {
    part.classList.toggle("lit", part.dataset.path === path);
  }
}

/** Makes the drop zone work; `onKey` asks for an API key. */
export function acceptDocuments(onKey) {
  const [zone, input] = [byId("drop"), byId("file")];
  const take = (files) => {
    if (files.length > 1) tell("One document at a time, please.", true);
    else if (files.length === 1) read(files[0], onKey);
  };
  input.addEventListener("change", () => {
    take(input.files);
    // The same file may be chosen again.
    input.value = "";
  });
  for (const name of ["dragenter", "dragover"]) {
    zone.addEventListener(name, (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
  }
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(event.dataTransfer.files);
  });
  byId("document-result").addEventListener("mouseover", point);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running) {
      running.abort();
      byId("document").dataset.state = "empty";
      tell("Stopped.");
    }
  });
}
