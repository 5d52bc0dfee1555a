// The editor: what there is to show, what is asked for, and where the answers go.

import { onUnauthorized, Problem, request } from "./api.js";
import { Brush } from "./brush.js";
import { readCatalogue } from "./catalogue.js";
import { onPicture } from "./load.js";
import { announce, clearProblem, showConnection, showProblem } from "./notices.js";
import { showRange } from "./range.js";
import { randomSeed, Rework } from "./rework.js";
import { Samples } from "./samples.js";
import { Sliders } from "./sliders.js";
import { EditorSocket } from "./socket.js";
import { Stage } from "./stage.js";
import { SubnetControls } from "./subnets.js";
import { tabs } from "./tabs.js";
import { askForToken } from "./token.js";

const SAMPLES = 12;
const at = (id) => document.getElementById(id);

const original = new Stage("original");
const edited = new Stage("edited");
const stages = { original, edited };
const rework = new Rework();

let catalogue = null;
/** Where pictures start: { seed }, or { name, codes, id } of a loaded picture, codes null where it has none. */
let source = { seed: 0 };
/** What the right picture is: "edit" while the sliders decide, else "fill" or "style". */
let shown = "edit";
let loads = 0;
/** Ids of codes that this connection's server holds. */
const stored = new Set();

const sliders = new Sliders(at("sliders"), (values, letGo) => edit(letGo && at("finish").checked));
const subnets = new SubnetControls(() => redraw());
const samples = new Samples(at("samples"), (seed) => start(seed));
const brush = new Brush(original, () => {
  at("fill").disabled = at("mask-clear").disabled = !brush.painted;
});
const panels = tabs(document.querySelector('[role="tablist"]'), (name) => brush.show(name === "inpaint"));

const socket = new EditorSocket("v1/editor", {
  state: (state, seconds) => {
    showConnection(state, seconds);
    if (state !== "open" && shown === "edit") edited.busy(false);
    if (state !== "open") original.busy(false);
  },
  opened: () => {
    stored.clear();
    redraw();
    samples.draw();
  },
  refused: () => askForToken(true),
  frame: showFrame,
  error: (message, header) => {
    if (header.code === "unknown_codes" && stored.delete(source.id)) return redraw();
    stages[header.view]?.busy(false);
    showProblem(new Problem(message), "drawing");
  },
});

/** The part of a message that says what to draw. It is made when it is sent, so it holds the newest values. */
function wanted(view, finalize) {
  const message = { psi: at("psi").valueAsNumber, finalize, ...subnets.wanted };
  message.values = view === "edited" ? sliders.values : {};
  if (source.codes === undefined) return { ...message, seed: source.seed };
  message.w_id = source.id;
  if (!stored.has(source.id)) message.w_plus = source.codes;
  stored.add(source.id);
  return message;
}

/** Ask for the edited picture. finalize: whether the full network is to follow the preview. */
function edit(finalize) {
  if (!catalogue?.subnets.length || source.codes === null) return;
  if (shown !== "edit") rework.abort();
  shown = "edit";
  // With channels and resolution chosen by hand, only the button goes beyond them.
  const whole = finalize === "button" || (finalize && at("auto").checked);
  socket.ask("edited", () => wanted("edited", whole));
  if (socket.pending("edited")) edited.busy(true);
}

/** Ask for both pictures again. */
function redraw() {
  if (!catalogue?.subnets.length) return;
  if (source.codes === undefined) {
    socket.ask("original", () => wanted("original", at("auto").checked));
    if (socket.pending("original")) original.busy(true);
  }
  if (shown === "edit") edit(at("finish").checked);
}

/** Start from a seed. */
function start(seed) {
  clearProblem();
  source = { seed };
  at("seed").value = seed;
  samples.mark(seed);
  sliders.enable(true);
  at("edit-hint").hidden = true;
  shown = "edit";
  rework.abort();
  redraw();
}

/** Start from a picture: it is shown as it is, and its codes are looked for so that it can be edited. */
async function startFrom(blob, name) {
  clearProblem();
  loads += 1;
  const mine = (source = { name, codes: null, id: `picture-${loads}` });
  samples.mark(null);
  shown = "edit";
  rework.abort();
  await original.show(blob, { note: name, label: `Original picture: ${name}` });
  original.busy(false);
  await edited.show(blob, { note: "not edited yet", label: `Edited picture: ${name}, not edited yet` });
  showFacts({});
  if (brush.canvas.hidden === false) brush.show(true);
  const editable = Boolean(catalogue.encoder && catalogue.subnets.length);
  at("edit-hint").hidden = editable;
  at("edit-hint").textContent = "This bundle has no encoder, so loaded pictures cannot be edited with sliders.";
  sliders.enable(false);
  if (!editable) return;
  edited.busy(true);
  try {
    const answer = await request("v1/encode", { method: "POST", headers: { "Content-Type": "image/png" }, body: blob });
    const { w_plus: codes } = await answer.json();
    if (source !== mine) return;
    mine.codes = Array.isArray(codes[0][0]) ? codes[0] : codes;
    sliders.enable(true);
    edit(at("finish").checked);
  } catch (error) {
    edited.busy(false);
    showProblem(error);
  }
}

async function showFrame(header, bytes) {
  const stage = stages[header.view];
  stage.busy(socket.pending(header.view));
  if (header.view === "edited" && shown !== "edit") return;
  if (header.view === "original" && source.codes !== undefined) return;
  const name = source.name ?? `seed ${source.seed}`;
  const moved = Object.keys(sliders.values).length;
  const unmoved = source.codes ? "reconstructed" : "as the original";
  const what = header.view === "original" ? name : moved ? `${moved} ${moved > 1 ? "edits" : "edit"}` : unmoved;
  const label = header.view === "original" ? `Original picture: ${name}` : `Edited picture: ${name}, ${what}`;
  const blob = new Blob([bytes], { type: `image/${header.format}` });
  if (!(await stage.show(blob, { note: what, label }))) return;
  if (header.view !== "edited") return;
  clearProblem("drawing");
  showFacts(header);
}

/** The line below the pictures; final results are spoken as well. */
function showFacts({ elapsed_ms: time, subnet, engine, stage }) {
  // "0.5@64/openvino-fp16": the sub-network has a place of its own.
  const runs = engine?.slice(engine.lastIndexOf("/") + 1);
  const spent = Number.isFinite(time) ? `${time < 10 ? time.toFixed(1) : Math.round(time)} ms` : "–";
  const names = { preview: "Preview", step: "Drawing", final: "Final", fill: "Filled", style: "Styled" };
  at("fact-time").textContent = spent;
  at("fact-subnet").textContent = subnet || "–";
  at("fact-engine").textContent = runs || "–";
  at("fact-stage").textContent = names[stage] ?? "–";
  if (stage && stage !== "step") announce(`${names[stage]} picture, ${[subnet, runs, spent].filter(Boolean).join(", ")}`);
}

/** Run a rework of the original and show it at the right. */
async function remake(kind, note, work) {
  clearProblem();
  shown = kind;
  edited.busy(true);
  try {
    const { blob, made } = await work();
    if (shown !== kind) return;
    if (await edited.show(blob, { note, label: `Edited picture: ${note}` })) showFacts({ ...made, stage: kind });
    edited.busy(false);
  } catch (error) {
    if (error.name !== "AbortError") edited.busy(false);
    showProblem(error);
  }
}

async function fill() {
  const image = await original.png();
  const mask = await brush.png(original.canvas.width, original.canvas.height);
  await remake("fill", "filled", () => rework.fill(image, mask, at("inpainter").value));
}

async function applyStyle() {
  if (!at("style-seed").reportValidity()) return;
  const chosen = catalogue.translators.find((one) => one.name === at("translator").value);
  const seed = chosen.styles ? at("style-seed").valueAsNumber : null;
  const image = await original.png();
  await remake("style", seed === null ? chosen.name : `style ${seed}`, () => rework.translate(image, chosen.name, seed));
}

function reset() {
  sliders.reset();
  at("psi").value = 1;
  showRange(at("psi"));
  at("psi-value").value = "1.00";
  if (brush.painted) brush.clear();
  rework.abort();
  shown = "edit";
  if (source.codes === null && original.blob) {
    edited.show(original.blob, { note: "not edited yet", label: "Edited picture: not edited yet" });
    showFacts({});
  }
  redraw();
  announce("Reset");
}

function save() {
  if (!edited.blob) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(edited.blob);
  const kind = edited.blob.type.split("/")[1] || "png";
  link.download = `anycost-${source.codes === undefined ? `seed-${source.seed}` : "picture"}.${kind === "jpeg" ? "jpg" : kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function offer(select, field, names) {
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  field.hidden = names.length < 2;
}

function showStyles() {
  const chosen = catalogue.translators.find((one) => one.name === at("translator").value);
  at("style-seed-field").hidden = at("style-random").hidden = !chosen?.styles;
}

/** Show the controls for what the bundle holds, and hide the others. */
function arrange() {
  const draws = catalogue.subnets.length > 0;
  at("bundle").textContent = catalogue.bundle;
  document.querySelector(".generated").hidden = document.querySelector(".generator").hidden = !draws;
  at("finalize").hidden = at("tab-edit").hidden = !draws;
  at("tab-inpaint").hidden = catalogue.inpainters.length === 0;
  at("tab-style").hidden = catalogue.translators.length === 0;
  subnets.fill(catalogue.subnets, catalogue.budget);
  sliders.fill(catalogue.directions);
  if (draws && catalogue.directions.length === 0) {
    at("edit-hint").hidden = false;
    at("edit-hint").textContent = "This bundle has no editing directions.";
  }
  offer(at("inpainter"), at("inpainter-field"), catalogue.inpainters);
  offer(at("translator"), at("translator-field"), catalogue.translators.map((one) => one.name));
  showStyles();
  const first = ["edit", "inpaint", "style"].find((name) => !at(`tab-${name}`).hidden);
  document.querySelector(".tools").hidden = !first;
  if (first) panels.select(first);
}

function listen() {
  at("seed").addEventListener("change", () => at("seed").reportValidity() && start(at("seed").valueAsNumber || 0));
  at("random-seed").addEventListener("click", () => start(randomSeed()));
  at("psi").addEventListener("input", () => {
    at("psi-value").value = at("psi").valueAsNumber.toFixed(2);
    redraw();
  });
  at("finalize").addEventListener("click", () => edit("button"));
  at("reset").addEventListener("click", reset);
  at("save").addEventListener("click", save);
  at("fill").addEventListener("click", fill);
  at("mask-center").addEventListener("click", () => brush.maskMiddle());
  at("mask-clear").addEventListener("click", () => brush.clear());
  at("translator").addEventListener("change", showStyles);
  at("style-apply").addEventListener("click", applyStyle);
  at("style-random").addEventListener("click", () => {
    at("style-seed").value = randomSeed();
    applyStyle();
  });
  onPicture(at("drop"), at("file"), startFrom, showProblem);
}

async function open() {
  onUnauthorized(askForToken);
  showConnection("waiting");
  try {
    catalogue = await readCatalogue();
  } catch (error) {
    // Without a token nothing comes of trying again; a server that starts will be there soon.
    const again = error.status !== 401;
    showConnection("lost", again ? 3 : 0);
    showProblem(again ? error : new Problem("This server needs a token. Reload the page to give one."));
    if (again) setTimeout(open, 3000);
    return;
  }
  clearProblem();
  arrange();
  listen();
  if (!catalogue.subnets.length) return showConnection("open");
  samples.fill([...Array(SAMPLES).keys()], catalogue.sampler);
  samples.mark(source.seed);
  socket.connect();
}

open();
