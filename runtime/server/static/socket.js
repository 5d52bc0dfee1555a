// The editor's WebSocket. It comes back by itself after a loss, and sends no more than the server can answer.

import { sentence, token } from "./api.js";

const WAITS_MS = [300, 1000, 2000, 4000, 8000];
const LOST_MS = 20000; // a preview that takes longer than this is not coming
const REFUSED = 4401; // the server's close code for a wrong token

/**
 * `on` has: state("open" | "lost" | "waiting", seconds until the next try), frame(header, bytes), error(message, header),
 * refused() -> a promise of whether there is another token to try, opened().
 */
export class EditorSocket {
  constructor(path, on) {
    this.url = new URL(path, location.href);
    this.url.protocol = this.url.protocol === "https:" ? "wss:" : "ws:";
    this.on = on;
    this.id = 0;
    this.losses = 0;
    // For each view, what is being worked on and what is to be sent after it.
    this.views = new Map();
    window.addEventListener("online", () => this.retryNow());
    document.addEventListener("visibilitychange", () => document.hidden || this.retryNow());
  }

  connect() {
    clearTimeout(this.timer);
    this.timer = undefined;
    const socket = new WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.addEventListener("open", () => {
      if (token.get()) socket.send(JSON.stringify({ token: token.get() }));
      this.on.state("open");
      this.on.opened();
    });
    socket.addEventListener("message", (event) => {
      this.receive(event.data);
    });
    socket.addEventListener("close", async (event) => {
      if (this.socket !== socket) return;
      this.views.clear();
      if (event.code === REFUSED) {
        this.on.state("lost", 0);
        if (await this.on.refused()) this.connect();
        return;
      }
      const wait = WAITS_MS[Math.min(this.losses, WAITS_MS.length - 1)];
      this.losses += 1;
      this.on.state("lost", wait / 1000);
      this.timer = setTimeout(() => this.connect(), wait);
    });
  }

  retryNow() {
    if (this.timer !== undefined) this.connect();
  }

  get open() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  /**
   * Ask for a picture of a view ("original", "edited"); `make` gives the message when it is sent. A newer request replaces
   * an older one that is not sent yet; while a preview is being made, the newest waits for it, so that a slider that is
   * dragged shows pictures all the time.
   */
  ask(view, make) {
    if (!this.open) return; // asked again by opened()
    const state = this.views.get(view) ?? { busy: false, next: null, since: 0 };
    this.views.set(view, state);
    if (state.busy && performance.now() - state.since < LOST_MS) {
      state.next = make;
      return;
    }
    this.id += 1;
    Object.assign(state, { busy: true, next: null, since: performance.now(), id: this.id, settled: false });
    this.socket.send(JSON.stringify({ ...make(), view, id: this.id }));
  }

  receive(data) {
    const { header, bytes } = parse(data);
    const state = this.views.get(header.view);
    if (state === undefined || header.id !== state.id) {
      // Of a request that was replaced, or of none: only a failure of the socket as a whole is of interest.
      if (header.id == null && header.stage === "error") this.on.error(sentence(header.message), header);
      return;
    }
    this.losses = 0;
    state.busy = false;
    if (header.stage === "error") {
      state.settled = true;
      this.on.error(sentence(header.message), header);
    } else {
      state.settled = header.last ?? header.stage === "final";
      this.on.frame(header, bytes);
    }
    if (state.next) this.ask(header.view, state.next);
  }

  /** Whether the newest picture of a view is still to come. */
  pending(view) {
    const state = this.views.get(view);
    return Boolean(state && !state.settled);
  }
}

/** A frame: length of the header as 4 bytes, the header as JSON, the bytes of the picture. */
function parse(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return { header, bytes: new Uint8Array(buffer, 4 + length) };
}
