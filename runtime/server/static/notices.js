// What is told in words: problems, the state of the connection, and results for those who do not see them.

const box = document.getElementById("problem");
const text = document.getElementById("problem-text");
const connection = document.getElementById("connection");
const announcer = document.getElementById("announcer");

document.getElementById("problem-close").addEventListener("click", () => clearProblem());

/** kind: what went wrong, so that what goes right later takes away its own problems only. */
export function showProblem(error, kind = "") {
  if (error.name === "AbortError") return; // replaced by something newer
  text.textContent = error.message || "Something went wrong.";
  box.dataset.kind = kind;
  box.hidden = false;
}

/** Any problem, or only one of a kind. */
export function clearProblem(kind = null) {
  if (kind === null || box.dataset.kind === kind) box.hidden = true;
}

/** state: "open", "lost" (tried again in some seconds) or "waiting". */
export function showConnection(state, seconds = 0) {
  connection.dataset.state = state;
  const lost = seconds ? `Connection lost, retry in ${Math.max(1, Math.round(seconds))} s` : "Not connected";
  connection.textContent = { open: "Connected", waiting: "Connecting", lost }[state];
}

let timer;
/** For screen readers. Only the last of several in a short time is spoken. */
export function announce(message) {
  clearTimeout(timer);
  timer = setTimeout(() => (announcer.textContent = message), 400);
}
