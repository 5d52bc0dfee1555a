// One slider for each direction, from -100 to 100.

import { showRange } from "./range.js";

/** `changed(values, whether the slider was let go)`. */
export class Sliders {
  constructor(place, changed) {
    this.place = place;
    this.changed = changed;
    this.inputs = new Map();
  }

  fill(names) {
    this.place.replaceChildren();
    this.inputs.clear();
    names.forEach((name, i) => {
      const label = document.createElement("label");
      label.className = "slider";
      label.htmlFor = `direction-${i}`;
      const line = document.createElement("span");
      const output = document.createElement("output");
      output.htmlFor = `direction-${i}`;
      line.append(name.charAt(0).toUpperCase() + name.slice(1), output);
      const input = document.createElement("input");
      Object.assign(input, { type: "range", id: `direction-${i}`, min: -100, max: 100, step: 1, value: 0 });
      input.dataset.direction = name;
      label.append(line, input);
      this.place.append(label);
      this.inputs.set(name, input);
      const show = () => {
        output.value = input.value > 0 ? `+${input.value}` : input.value.replace("-", "−");
        label.classList.toggle("moved", input.value !== "0");
        showRange(input);
      };
      input.show = show;
      show();
      input.addEventListener("input", () => {
        show();
        this.changed(this.values, false);
      });
      input.addEventListener("change", () => this.changed(this.values, true));
      input.addEventListener("dblclick", () => {
        input.value = 0;
        show();
        this.changed(this.values, true);
      });
    });
  }

  /** Those that were moved, by name. */
  get values() {
    const moved = [...this.inputs].filter(([, input]) => input.value !== "0");
    return Object.fromEntries(moved.map(([name, input]) => [name, Number(input.value)]));
  }

  reset() {
    for (const input of this.inputs.values()) {
      input.value = 0;
      input.show();
    }
  }

  enable(is) {
    for (const input of this.inputs.values()) input.disabled = !is;
  }
}
