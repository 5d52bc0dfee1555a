// Painting a mask over the original, with a pointer or with the keyboard.

const SIDE = 512; // pixels of the mask's longer side; it is scaled to the picture when it is sent

/** `changed()` is called when something was painted or cleared. */
export class Brush {
  constructor(stage, changed) {
    this.stage = stage;
    this.changed = changed;
    this.canvas = document.getElementById("mask");
    this.cursor = document.getElementById("cursor");
    this.size = document.getElementById("brush");
    this.at = { x: 0.5, y: 0.5 }; // of the mask's sides
    this.painted = false;
    this.last = null;
    this.size.addEventListener("input", () => {
      document.getElementById("brush-value").value = `${this.size.value}%`;
      this.place();
    });
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.canvas.setPointerCapture(event.pointerId);
      this.last = null;
      this.stroke(event);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (this.canvas.hasPointerCapture(event.pointerId)) {
        for (const one of event.getCoalescedEvents?.() ?? [event]) this.stroke(one);
      } else {
        this.at = this.position(event);
        this.place();
      }
    });
    this.canvas.addEventListener("pointerup", () => (this.last = null));
    this.canvas.addEventListener("pointerenter", () => this.place(true));
    this.canvas.addEventListener("pointerleave", () => this.place(false));
    this.canvas.addEventListener("focus", () => this.place(this.canvas.matches(":focus-visible")));
    this.canvas.addEventListener("blur", () => this.place(false));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  /** Show or hide the mask; a picture of other proportions gets an empty one. */
  show(is) {
    const { width, height } = this.stage.canvas;
    const scale = SIDE / Math.max(width, height);
    const [wide, high] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
    if (wide !== this.canvas.width || high !== this.canvas.height) {
      this.canvas.width = wide;
      this.canvas.height = high;
      this.painted = false;
      this.changed();
    }
    this.canvas.hidden = !is;
    if (!is) this.cursor.hidden = true;
  }

  clear() {
    this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.painted = false;
    this.changed();
  }

  maskMiddle() {
    const { width, height } = this.canvas;
    this.ink("paint").fillRect(width / 4, height / 4, width / 2, height / 2);
    this.painted = true;
    this.changed();
  }

  /** White where it was painted, on black: a PNG of the picture's size. */
  png(width, height) {
    const made = document.createElement("canvas");
    Object.assign(made, { width, height });
    const context = made.getContext("2d", { willReadFrequently: true });
    context.drawImage(this.canvas, 0, 0, width, height);
    const pixels = context.getImageData(0, 0, width, height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data.fill(pixels.data[i + 3] > 127 ? 255 : 0, i, i + 3);
      pixels.data[i + 3] = 255;
    }
    context.putImageData(pixels, 0, 0);
    return new Promise((resolve, reject) => {
      made.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no mask"))), "image/png");
    });
  }

  /** Where the mask lies in its frame, in CSS pixels: it is fitted in like the picture. */
  area() {
    const box = this.canvas.getBoundingClientRect();
    const scale = Math.min(box.width / this.canvas.width, box.height / this.canvas.height);
    const [width, height] = [this.canvas.width * scale, this.canvas.height * scale];
    const [left, top] = [(box.width - width) / 2, (box.height - height) / 2];
    return { left, top, width, height, x: box.left + left, y: box.top + top };
  }

  position(event) {
    const area = this.area();
    return { x: (event.clientX - area.x) / area.width, y: (event.clientY - area.y) / area.height };
  }

  /** Diameter in pixels of the mask. */
  get diameter() {
    return (this.size.valueAsNumber / 100) * Math.max(this.canvas.width, this.canvas.height);
  }

  ink(what) {
    const context = this.canvas.getContext("2d");
    context.globalCompositeOperation = what === "erase" ? "destination-out" : "source-over";
    this.hatching ??= context.createPattern(hatched(), "repeat");
    context.fillStyle = context.strokeStyle = this.hatching;
    return context;
  }

  stroke(event) {
    this.at = this.position(event);
    this.place(true);
    this.paint();
  }

  paint() {
    const what = document.querySelector('input[name="stroke"]:checked').value;
    const context = this.ink(what);
    const [x, y] = [this.at.x * this.canvas.width, this.at.y * this.canvas.height];
    context.lineWidth = this.diameter;
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(this.last?.x ?? x, this.last?.y ?? y);
    context.lineTo(x, y);
    context.stroke();
    this.last = { x, y };
    this.painted ||= what === "paint";
    this.changed();
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (step) {
      const far = event.shiftKey ? 0.1 : 0.02;
      this.at.x = Math.min(1, Math.max(0, this.at.x + step[0] * far));
      this.at.y = Math.min(1, Math.max(0, this.at.y + step[1] * far));
      this.last = null;
      this.place(true);
    } else if (event.key === " ") {
      this.last = null;
      this.paint();
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.clear();
    } else {
      return;
    }
    event.preventDefault();
  }

  /** Draw the ring that shows where the brush is and how large. */
  place(shown = !this.cursor.hidden) {
    this.cursor.hidden = !shown;
    if (!shown) return;
    const area = this.area();
    const wide = (this.size.valueAsNumber / 100) * Math.max(area.width, area.height);
    for (const [name, value] of Object.entries({
      left: area.left + this.at.x * area.width,
      top: area.top + this.at.y * area.height,
      width: wide,
      height: wide,
    })) {
      this.cursor.style.setProperty(name, `${value}px`);
    }
  }
}

/** Stripes of two colours: whatever the picture's is, one of them is seen. */
function hatched() {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 16;
  const context = tile.getContext("2d");
  context.fillStyle = "#c2107a";
  context.fillRect(0, 0, 16, 16);
  context.strokeStyle = "#fff";
  context.lineWidth = 4;
  for (const shift of [-16, 0, 16]) {
    context.moveTo(shift - 4, 20);
    context.lineTo(shift + 20, -4);
  }
  context.stroke();
  return tile;
}
