// Asking for the bearer token.

import { token } from "./api.js";

const dialog = document.getElementById("token");
const input = document.getElementById("token-value");
const hint = document.getElementById("token-hint");
let asking = null;

/** Resolves to true when a token was given, however many ask at once. */
export function askForToken(wasWrong) {
  asking ??= new Promise((resolve) => {
    if (wasWrong) {
      token.clear();
      hint.textContent = "That token was not accepted. Try another one.";
    }
    input.value = "";
    dialog.returnValue = "";
    dialog.showModal();
    dialog.addEventListener(
      "close",
      () => {
        asking = null;
        const given = dialog.returnValue === "send" ? input.value.trim() : "";
        if (given) token.set(given);
        resolve(given !== "");
      },
      { once: true },
    );
  });
  return asking;
}
