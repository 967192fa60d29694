// Requests to the server that this page came from, and the API key that they carry.

const KEY = "halfbyte-api-key";

/** An error as the server words it. */
export class ApiError extends Error {
  constructor(status, detail) {
    super(detail?.message ?? `the server answered ${status}`);
    this.status = status;
    this.param = detail?.param ?? null;
    this.code = detail?.code ?? detail?.type ?? null;
  }
}

export function setKey(key) {
  sessionStorage.setItem(KEY, key);
}

function headers() {
  const key = sessionStorage.getItem(KEY);
  return key ? { authorization: `Bearer ${key}` } : {};
}

/** An answer that is JSON. */
export async function getJson(path, signal) {
  const response = await fetch(path, { headers: headers(), signal, cache: "no-store" });
  if (!response.ok) throw await failure(response);
  return response.json();
}

/** The data of each server-sent event that answers `body`: JSON, or a form. */
export async function* postStream(path, body, signal) {
  const response = await fetch(path, {
    method: "POST",
    // A browser writes the type of a form itself: it knows where the parts end.
    headers: body instanceof FormData ? headers() : { ...headers(), "content-type": "application/json" },
    body: body instanceof FormData ? body : JSON.stringify(body),
    signal,
  });
  if (!response.ok) throw await failure(response);
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of chunks(response.body)) {
    rest += decoder.decode(bytes, { stream: true });
    // Events end with an empty line; lines end as the server likes.
    const events = rest.split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (data.length > 0) yield data.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

/** Not every browser lets a stream be iterated. */
async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    // Ends the request if the reader was left early.
    await reader.cancel().catch(() => {});
  }
}

async function failure(response) {
  const body = await response.json().catch(() => null);
  return new ApiError(response.status, body?.error);
}
