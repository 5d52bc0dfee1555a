// Filling the masked part of a picture, and drawing a picture in another style: one request, one picture back.

import { madeBy, request } from "./api.js";

/** What both need: the request that is under way, so that a newer one replaces it. */
export class Rework {
  abort() {
    this.controller?.abort();
  }

  /** -> { blob, made }. Rejects with an AbortError when a newer one came. */
  async send(path, fields) {
    this.abort();
    this.controller = new AbortController();
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) {
      if (value instanceof Blob) form.append(name, value, `${name}.png`);
      else if (value !== null && value !== "") form.append(name, value);
    }
    const answer = await request(path, { method: "POST", body: form, signal: this.controller.signal });
    return { blob: await answer.blob(), made: madeBy(answer) };
  }

  fill(image, mask, network) {
    return this.send("v1/inpaint", { image, mask, network });
  }

  translate(image, network, seed) {
    return this.send("v1/translate", { image, network, seeds: seed === null ? null : String(seed) });
  }
}

/** A whole number from 0 to 999999, for "Random" buttons: short enough to be remembered. */
export function randomSeed() {
  return Math.floor(Math.random() * 1e6);
}
