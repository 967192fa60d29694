// The conversation: what is written, and answers as they come.

import { postStream, setKey } from "./api.js";
import { acceptDocuments } from "./documents.js";
import { showFields } from "./fields.js";
import { watch } from "./gauges.js";
import { parsePartial } from "./partial_json.js";

const byId = (id) => document.getElementById(id);
const [log, message, schema] = [byId("log"), byId("message"), byId("schema")];

/** The conversation as the server is told it. */
let messages = [];
/** Ends the answer that is coming, if one is. */
let running = null;

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** Keeps the end in sight, unless the reader has scrolled up. */
function following() {
  const page = document.scrollingElement;
  const place = log.scrollHeight > log.clientHeight + 1 ? log : page;
  const near = place.scrollHeight - place.scrollTop - place.clientHeight < 80;
  return () => {
    if (near) place.scrollTop = place.scrollHeight;
  };
}

// --- What is asked for

/** The schema that was typed, null for none; throws where it is no JSON. */
function typedSchema() {
  const text = schema.value.trim();
  if (text === "") return null;
  const value = JSON.parse(text);
  if (value === null || typeof value !== "object") throw new SyntaxError("a schema is an object");
  return value;
}

function checkSchema() {
  let [state, error] = ["", ""];
  try {
    state = typedSchema() === null ? "none: the answer is a text" : "the answer is JSON";
  } catch (problem) {
    [state, error] = ["", `Not JSON yet: ${problem.message}`];
  }
  byId("schema-state").textContent = state;
  byId("schema-error").textContent = error;
  schema.setAttribute("aria-invalid", error !== "");
  return error === "";
}

/** A number field's value under its name in requests; nothing where it is empty. */
function number(id, name) {
  const value = byId(id).valueAsNumber;
  return Number.isNaN(value) ? {} : { [name]: value };
}

function body() {
  const wanted = typedSchema();
  const format = { type: "json_schema", json_schema: { name: "answer", schema: wanted } };
  return {
    model: byId("model").textContent,
    messages,
    stream: true,
    stream_options: { include_usage: true },
    ...number("temperature", "temperature"),
    ...number("max-tokens", "max_tokens"),
    ...number("seed", "seed"),
    ...(wanted === null ? {} : { response_format: format }),
  };
}

// --- An answer

/** Shows an answer's text, or its fields, as it grows. */
class AnswerView {
  constructor(isJson) {
    this.isJson = isJson;
    this.asFields = isJson;
    this.text = "";
    this.place = element("div", "text caret");
    this.about = element("div", "about");
    this.turn = element("article", "turn assistant");
    this.turn.setAttribute("aria-busy", "true");
    this.turn.append(this.place, this.about);
    this.frame = 0;
  }

  push(piece) {
    this.text += piece;
    // Many pieces may come between two pictures.
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = 0;
    const follow = following();
    if (this.asFields && !this.drawFields()) this.asFields = false;
    if (!this.asFields) this.place.textContent = this.text;
    follow();
  }

  drawFields() {
    try {
      showFields(this.place, parsePartial(this.text));
      this.place.classList.remove("text", "caret");
      return true;
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      return false;
    }
  }

  end(facts) {
    cancelAnimationFrame(this.frame);
    this.draw();
    this.turn.removeAttribute("aria-busy");
    for (const place of [this.place, ...this.place.querySelectorAll(".caret")]) place.classList.remove("caret");
    this.about.append(...facts.map((fact) => element("span", "", fact)));
    if (this.text === "") this.place.remove();
    else if (this.isJson) this.about.append(this.toggle());
  }

  /** The other view of a JSON answer. */
  toggle() {
    const button = element("button", "", "Show as text");
    button.type = "button";
    button.addEventListener("click", () => {
      this.asFields = !this.asFields;
      button.textContent = this.asFields ? "Show as text" : "Show as fields";
      const fresh = element("div", this.asFields ? "" : "text code");
      this.place.replaceWith(fresh);
      this.place = fresh;
      this.draw();
    });
    return button;
  }
}

const ENDS = { length: "ended by its limit", stopped: "stopped" };

/** One answer from its first piece to its last. */
async function answer() {
  const [request, conversation] = [body(), messages];
  const view = new AnswerView("response_format" in request);
  log.append(view.turn);
  following()();
  const abort = new AbortController();
  running = abort;
  setRunning(true);
  const start = performance.now();
  let [first, usage, end, failed] = [0, null, null, null];
  try {
    for await (const data of postStream("v1/chat/completions", request, abort.signal)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw Object.assign(new Error(chunk.error.message), chunk.error);
      usage = chunk.usage ?? usage;
      const choice = chunk.choices?.[0];
      end = choice?.finish_reason ?? end;
      if (choice?.delta?.content) {
        first ||= performance.now();
        view.push(choice.delta.content);
        byId("progress").textContent = `${((performance.now() - start) / 1000).toFixed(1)} s`;
      }
    }
    if (end === null) throw new Error("The connection ended before the answer did.");
  } catch (error) {
    if (abort.signal.aborted) end = "stopped";
    else failed = error;
  }
  view.end(facts(usage, end, start, first));
  if (view.text !== "") conversation.push({ role: "assistant", content: view.text });
  if (failed) showFailure(view.turn, failed);
  running = null;
  setRunning(false);
}

function facts(usage, end, start, first) {
  const now = performance.now();
  const list = [];
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens;
    list.push(`${usage.prompt_tokens} prompt tokens${cached ? ` (${cached} cached)` : ""}`);
    list.push(`${usage.completion_tokens} generated`);
    const rate = ((usage.completion_tokens - 1) * 1000) / (now - first);
    if (usage.completion_tokens > 1 && now > first) list.push(`${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s`);
  }
  if (first) list.push(`first after ${Math.round(first - start)} ms`);
  if (ENDS[end]) list.push(ENDS[end]);
  return list;
}

function showFailure(turn, error) {
  const follow = following();
  const box = element("div", "failure");
  box.setAttribute("role", "alert");
  const told = error.status === undefined && error.name === "TypeError";
  box.append(element("p", "", told ? "The server does not answer. Is it still running?" : error.message));
  const about = [error.param && `field: ${error.param}`, error.code && `code: ${error.code}`].filter(Boolean);
  if (about.length > 0) box.append(element("p", "hint", about.join(" · ")));
  const retry = element("button", "", "Try again");
  retry.type = "button";
  retry.addEventListener("click", () => {
    if (running) return;
    // An answer that broke off is not part of the conversation.
    if (messages.at(-1)?.role === "assistant") messages.pop();
    turn.remove();
    answer();
  });
  box.append(retry);
  turn.append(box);
  if (error.status === 401) askForKey();
  follow();
}

function setRunning(is) {
  byId("stop").hidden = !is;
  byId("send").disabled = is;
  if (!is) byId("progress").textContent = "";
}

// --- What is pressed

function send() {
  if (running || message.value.trim() === "") return;
  if (!checkSchema()) {
    byId("schema-options").open = true;
    schema.focus();
    return;
  }
  byId("empty").hidden = true;
  const turn = element("article", "turn user");
  turn.append(element("div", "text", message.value));
  log.append(turn);
  messages.push({ role: "user", content: message.value });
  message.value = "";
  // The answer wants the room.
  for (const options of document.querySelectorAll(".options")) options.open = false;
  answer();
}

function clear() {
  running?.abort();
  messages = [];
  log.replaceChildren(byId("empty"));
  byId("empty").hidden = false;
  message.focus();
}

function askForKey() {
  const form = byId("key-form");
  if (!form.hidden) return;
  form.hidden = false;
  byId("key").focus();
}

/** A document that the demo model reads, and a question that any other understands. */
async function example() {
  const response = await fetch("page/example.txt");
  const question = "Read this accounting document and answer with one JSON object.";
  message.value = `${question}\nOur business: Brightwater Studio Ltd\n\n${(await response.text()).trim()}`;
  const wanted = ["document_type", "direction", "party", "number", "date", "currency", "total"];
  schema.value = JSON.stringify(Object.fromEntries(wanted.map((name) => [name, "string"])), null, 2);
  byId("schema-options").open = true;
  checkSchema();
  message.focus();
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
message.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
byId("stop").addEventListener("click", () => running?.abort());
byId("clear").addEventListener("click", clear);
byId("example").addEventListener("click", example);
schema.addEventListener("input", checkSchema);
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(byId("key").value);
  byId("key").value = "";
  byId("key-form").hidden = true;
  message.focus();
});

checkSchema();
watch(askForKey);
acceptDocuments(askForKey);
message.focus();
