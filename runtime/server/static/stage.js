// One of the two pictures: a canvas, what is shown in it, and a line about it.

export class Stage {
  constructor(name) {
    this.canvas = document.getElementById(name);
    this.frame = document.getElementById(`${name}-frame`);
    this.note = document.getElementById(`${name}-note`);
    this.blob = null;
    this.turn = 0;
  }

  /** Show an encoded picture. Pictures that are decoded late never replace newer ones. Resolves to whether it is shown. */
  async show(blob, { note, label }) {
    const turn = ++this.turn;
    const bitmap = await createImageBitmap(blob);
    if (turn !== this.turn) {
      bitmap.close();
      return false;
    }
    this.draw(bitmap);
    bitmap.close();
    this.blob = blob;
    this.note.textContent = note;
    this.note.title = note;
    this.canvas.setAttribute("aria-label", label);
    return true;
  }

  draw(bitmap) {
    if (this.canvas.width !== bitmap.width || this.canvas.height !== bitmap.height) {
      this.canvas.width = bitmap.width;
      this.canvas.height = bitmap.height;
    }
    this.canvas.getContext("2d").clearRect(0, 0, bitmap.width, bitmap.height);
    this.canvas.getContext("2d").drawImage(bitmap, 0, 0);
  }

  busy(is) {
    this.frame.setAttribute("aria-busy", String(is));
  }

  /** The canvas as PNG: without the metadata of what was loaded, and upright. */
  png() {
    return new Promise((resolve, reject) => {
      this.canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no picture"))), "image/png");
    });
  }
}
