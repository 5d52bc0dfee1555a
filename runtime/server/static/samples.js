// The list of samples: a button with a small picture for each of the first seeds.

import { postJson } from "./api.js";

const NO_HURRY = { latency_ms: 60000 }; // the server's budget is for what somebody waits for

/** `picked(seed)`. Pictures are fetched one after the other, so that the list never stands in an edit's way. */
export class Samples {
  constructor(place, picked) {
    this.place = place;
    this.picked = picked;
    this.buttons = new Map();
  }

  fill(seeds, subnet) {
    this.subnet = subnet;
    this.place.replaceChildren();
    this.buttons.clear();
    for (const seed of seeds) {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-label", `Sample of seed ${seed}`);
      button.setAttribute("aria-pressed", "false");
      const canvas = document.createElement("canvas");
      const number = document.createElement("span");
      number.textContent = seed;
      button.append(canvas, number);
      button.addEventListener("click", () => this.picked(seed));
      item.append(button);
      this.place.append(item);
      this.buttons.set(seed, button);
    }
  }

  /** Draw those that have no picture yet. Ends at the first that fails: the buttons work without, and there is a next time. */
  async draw() {
    if (this.drawing) return;
    this.drawing = true;
    try {
      for (const [seed, button] of this.buttons) {
        if (button.dataset.drawn) continue;
        const wanted = { seeds: [seed], subnet: this.subnet, budget: NO_HURRY, format: "png" };
        const answer = await postJson("v1/generate", wanted);
        const bitmap = await createImageBitmap(await answer.blob());
        const canvas = button.querySelector("canvas");
        Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
        canvas.getContext("2d").drawImage(bitmap, 0, 0);
        bitmap.close();
        button.dataset.drawn = "yes";
      }
    } catch {
      // Overload or a lost server: the socket tells of both.
    } finally {
      this.drawing = false;
    }
  }

  mark(seed) {
    for (const [number, button] of this.buttons) button.setAttribute("aria-pressed", String(number === seed));
  }
}
