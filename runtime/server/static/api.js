// Requests to the server: the bearer token is added, and what goes wrong becomes a sentence.

const TOKEN = "anycost-token";

/** A failure that can be shown to people as it is. `status` is the HTTP status, 0 where there was no answer. */
export class Problem extends Error {
  constructor(message, status = 0, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  set: (value) => sessionStorage.setItem(TOKEN, value),
  clear: () => sessionStorage.removeItem(TOKEN),
};

let askToken = async () => false;

/** `ask` is called when the server refuses the token, and resolves to true once there is another one to try. */
export function onUnauthorized(ask) {
  askToken = ask;
}

/** fetch() of a path of this server; rejects with a Problem unless the answer is 2xx. */
export async function request(path, options = {}) {
  const headers = new Headers(options.headers);
  const sent = token.get();
  if (sent) headers.set("Authorization", `Bearer ${sent}`);
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server does not answer. Check that it still runs.");
  }
  // Another request may have asked for the token meanwhile: then there is one to try already.
  if (answer.status === 401 && (token.get() !== sent || (await askToken(Boolean(sent))))) return request(path, options);
  if (answer.ok) return answer;
  throw await problemOf(answer);
}

async function problemOf(answer) {
  let told = {};
  try {
    told = (await answer.json()).error ?? {};
  } catch {
    // Not one of the server's own answers, such as a proxy's: the status has to do.
  }
  const wait = answer.headers.get("Retry-After");
  const later = answer.status === 503 && wait ? ` Try again in ${wait} s.` : "";
  const message = told.message ? sentence(told.message) : `The server answered with status ${answer.status}.`;
  return new Problem(message + later, answer.status, told.code ?? "");
}

/** "a mask is empty" -> "A mask is empty." */
export function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(whole) ? whole : `${whole}.`;
}

export async function getJson(path) {
  return (await request(path)).json();
}

export function postJson(path, body, signal) {
  return request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
}

/** What the headers of an answer with a picture say of how it was made. */
export function madeBy(answer) {
  return {
    subnet: answer.headers.get("X-Anycost-Subnet") ?? "",
    engine: answer.headers.get("X-Anycost-Engine") ?? "",
    elapsed_ms: Number(answer.headers.get("X-Anycost-Elapsed-Ms") ?? NaN),
  };
}
