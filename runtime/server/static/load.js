// Loading a picture: picked, dropped or pasted. It is made upright, small enough and free of metadata before it is sent.

import { Problem } from "./api.js";

const LONGEST = 2048; // pixels of the longer side

/** `loaded(PNG blob, name)`, `failed(Problem)`. */
export function onPicture(drop, input, loaded, failed) {
  const take = async (file) => {
    if (!file) return;
    try {
      loaded(await upright(file), file.name || "pasted picture");
    } catch (error) {
      failed(error);
    }
  };
  input.addEventListener("change", () => {
    take(input.files[0]);
    input.value = ""; // so that the same file can be picked again
  });
  // Anywhere on the page: a picture that misses the field would otherwise replace the page.
  let inside = 0;
  const over = (is) => drop.classList.toggle("over", is);
  document.addEventListener("dragenter", () => over(++inside > 0));
  document.addEventListener("dragleave", () => over(--inside > 0));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    inside = 0;
    over(false);
    take(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => take(event.clipboardData?.files[0]));
}

async function upright(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Problem(`${file.name || "What was pasted"} is not a picture that this browser can read.`);
  }
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff"; // below what is transparent, as the server has it
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Problem("The picture could not be read."))), "image/png");
  });
}
