// What the engine does at the moment, once a second.

import { getJson } from "./api.js";

const EVERY_MS = 1000;
const SHOWN = 60;

const byId = (id) => document.getElementById(id);
const rates = [];

/** Asks once a second; `onKey` is called where the server wants an API key. */
export function watch(onKey) {
  const ask = async () => {
    if (!document.hidden) {
      try {
        show(await getJson("stats", AbortSignal.timeout(5000)));
      } catch (error) {
        if (error.status === 401) {
          setState("unknown", "API key needed");
          onKey();
        } else {
          setState("unreachable", error.status ? error.message : "no answer");
        }
      }
    }
    setTimeout(ask, EVERY_MS);
  };
  ask();
}

function setState(state, text) {
  const place = byId("state");
  place.dataset.state = state;
  if (place.textContent !== text) place.textContent = text;
}

function show(stats) {
  setState(stats.state, stats.state);
  const { model, engine, rates: now } = stats;
  byId("model").textContent = model?.name ?? "";
  document.title = model ? `${model.name} · halfbyte` : "halfbyte";
  plan(model, stats.build);
  if (!engine) return;
  byId("running").textContent = engine.running;
  byId("waiting").textContent = engine.waiting;
  const rate = now.generated_tokens_per_second;
  byId("rate").textContent = rate === null ? "–" : rate < 10 ? rate.toFixed(1) : Math.round(rate);
  draw(rate ?? 0);
  byId("hits").textContent = now.prefix_hit_share === null ? "–" : percent(now.prefix_hit_share);
  meter(engine);
}

const percent = (share) => `${Math.round(100 * share)} %`;

function meter({ used_blocks: used, cached_blocks: cached, total_blocks: total }) {
  const share = (blocks) => (total > 0 ? blocks / total : 0);
  byId("kv").textContent = percent(share(used));
  const place = byId("kv-meter");
  place.setAttribute("aria-valuenow", Math.round(100 * share(used)));
  place.querySelector(".used").style.width = `${100 * share(used)}%`;
  place.querySelector(".cached").style.width = `${100 * share(cached)}%`;
}

/** The last minute as a line, from the right. */
function draw(rate) {
  rates.push(rate);
  if (rates.length > SHOWN) rates.shift();
  const most = Math.max(...rates, 1);
  const x = (i) => 120 - ((rates.length - 1 - i) * 120) / (SHOWN - 1);
  const points = rates.map((r, i) => `${x(i).toFixed(1)},${(30 - (28 * r) / most).toFixed(1)}`);
  const shape = (name, list) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    element.setAttribute("points", list.join(" "));
    return element;
  };
  const area = [`${x(0).toFixed(1)},32`, ...points, "120,32"];
  byId("rates").replaceChildren(shape("polygon", area), shape("polyline", points));
}

const UNITS = ["bytes", "KiB", "MiB", "GiB"];

/** Bytes as people say them. */
export function bytes(count) {
  const step = count > 0 ? Math.min(Math.floor(Math.log2(count) / 10), UNITS.length - 1) : 0;
  const value = count / 1024 ** step;
  return `${step > 0 && value < 100 ? value.toFixed(1) : Math.round(value)} ${UNITS[step]}`;
}

function plan(model, build) {
  const lines = model
    ? [
        ["Name", model.name],
        ["Device", model.device],
        ["Context", `${model.context.toLocaleString("en")} tokens`],
        ["Weights", bytes(model.plan.weights_bytes)],
        ["Keys and values", bytes(model.plan.kv_bytes)],
        ["which is", `${model.plan.kv_tokens.toLocaleString("en")} tokens`],
        ["Workspace", bytes(model.plan.workspace_bytes)],
        ["Together", bytes(model.plan.weights_bytes + model.plan.kv_bytes + model.plan.workspace_bytes)],
      ]
    : [["Model", "not loaded yet"]];
  lines.push(["Build", build]);
  const place = byId("plan");
  const text = JSON.stringify(lines);
  if (place.dataset.shown === text) return;
  place.dataset.shown = text;
  place.replaceChildren(
    ...lines.flatMap(([name, value]) => {
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      dt.textContent = name;
      dd.textContent = value;
      return [dt, dd];
    }),
  );
}
