// JSON that is still being written: what is there, as a tree.
//
// A node is { kind, done } with, for an object, `entries` of [name, node] (the last name may be unfinished, its node then
// null), for an array, `items`; for a string, `text`; for a number, `true`, `false` and `null`, `text` as it was written:
// an account number of twenty digits must not become 1.2e19.

const SPACE = /[ \t\r\n]*/y;
const SCALAR = /[-+.0-9A-Za-z]+/y;
const ESCAPES = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };

/** The tree of a text, or null where none has begun. Throws SyntaxError where the text can become no JSON. */
export function parsePartial(text) {
  const reader = { text, at: 0 };
  skip(reader, SPACE);
  if (ended(reader)) return null;
  const node = value(reader);
  skip(reader, SPACE);
  if (node.done && !ended(reader)) throw wrong(reader);
  return node;
}

const ended = (reader) => reader.at >= reader.text.length;
const peek = (reader) => reader.text[reader.at];
const wrong = (reader) => new SyntaxError(`not JSON at character ${reader.at}`);

function skip(reader, pattern) {
  pattern.lastIndex = reader.at;
  const found = pattern.exec(reader.text);
  if (found) reader.at = pattern.lastIndex;
  return found ? found[0] : "";
}

function value(reader) {
  switch (peek(reader)) {
    case "{": return list(reader, "object", "}", entry);
    case "[": return list(reader, "array", "]", item);
    case '"': return string(reader);
    default: return scalar(reader);
  }
}

/** An object or an array: `element` reads one and says whether it is whole. */
function list(reader, kind, close, element) {
  const node = kind === "object" ? { kind, entries: [], done: false } : { kind, items: [], done: false };
  reader.at += 1;
  for (let first = true; ; first = false) {
    skip(reader, SPACE);
    if (ended(reader)) return node;
    if (peek(reader) === close) {
      reader.at += 1;
      node.done = true;
      return node;
    }
    if (!first) {
      if (peek(reader) !== ",") throw wrong(reader);
      reader.at += 1;
      skip(reader, SPACE);
      if (ended(reader)) return node;
    }
    if (!element(reader, node)) return node;
  }
}

function entry(reader, node) {
  if (peek(reader) !== '"') throw wrong(reader);
  const name = string(reader);
  const pair = [name.text, null];
  node.entries.push(pair);
  skip(reader, SPACE);
  if (!name.done || ended(reader)) return false;
  if (peek(reader) !== ":") throw wrong(reader);
  reader.at += 1;
  skip(reader, SPACE);
  if (ended(reader)) return false;
  pair[1] = value(reader);
  return pair[1].done;
}

function item(reader, node) {
  const child = value(reader);
  node.items.push(child);
  return child.done;
}

function string(reader) {
  const node = { kind: "string", text: "", done: false };
  reader.at += 1;
  while (!ended(reader)) {
    const char = peek(reader);
    reader.at += 1;
    if (char === '"') {
      node.done = true;
      return node;
    }
    if (char !== "\\") {
      node.text += char;
      continue;
    }
    // An escape that is not whole yet shows nothing.
    if (ended(reader)) return node;
    const code = peek(reader);
    reader.at += 1;
    if (code !== "u") {
      if (!(code in ESCAPES)) throw wrong(reader);
      node.text += ESCAPES[code];
      continue;
    }
    const digits = reader.text.slice(reader.at, reader.at + 4);
    if (!/^[0-9a-fA-F]*$/.test(digits)) throw wrong(reader);
    reader.at += digits.length;
    if (digits.length < 4) return node;
    node.text += String.fromCharCode(parseInt(digits, 16));
  }
  return node;
}

function scalar(reader) {
  const text = skip(reader, SCALAR);
  if (text === "") throw wrong(reader);
  const done = !ended(reader);
  const kind = /^[-0-9]/.test(text) ? "number" : "literal";
  if (kind === "literal" && !["true", "false", "null"].some((word) => (done ? word === text : word.startsWith(text)))) {
    throw wrong(reader);
  }
  return { kind, text, done };
}
