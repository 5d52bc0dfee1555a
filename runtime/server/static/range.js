// Fills the track of a range input up to its value. The style sheet draws it between --low and --high.

/** Show the value of a range that was changed by a program; those that people change are followed by themselves. */
export function showRange(input) {
  const [least, most] = [Number(input.min), Number(input.max)];
  const share = (value) => (100 * (value - least)) / (most - least);
  const [zero, value] = [share(Math.max(0, least)), share(input.valueAsNumber)];
  input.style.setProperty("--low", `${Math.min(zero, value)}%`);
  input.style.setProperty("--high", `${Math.max(zero, value)}%`);
}

document.addEventListener("input", (event) => event.target.type === "range" && showRange(event.target));
for (const input of document.querySelectorAll('input[type="range"]')) showRange(input);
