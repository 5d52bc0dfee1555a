// Which sub-network draws: the budget's choice, or channels and resolution by hand.

const FRACTIONS = new Map([[0.25, "¼"], [0.5, "½"], [0.75, "¾"], [1, "Full"]]);
const SPOKEN = new Map([[0.25, "a quarter"], [0.5, "half"], [0.75, "three quarters"], [1, "all"]]);

/** `changed()` is called after every change; `wanted` is what to ask the server for. */
export class SubnetControls {
  constructor(changed) {
    this.changed = changed;
    this.nets = [];
    this.auto = document.getElementById("auto");
    this.budget = document.getElementById("budget");
    this.hint = document.getElementById("network-hint");
    this.auto.addEventListener("change", () => {
      this.show();
      changed();
    });
    this.budget.addEventListener("change", () => {
      this.show();
      if (this.budget.reportValidity()) changed();
    });
  }

  /** nets: [{name, resolution, ratio or null}]; budget: the server's, in words. */
  fill(nets, budget) {
    this.server = budget;
    this.nets = nets;
    const ratios = [...new Set(nets.filter((net) => net.ratio !== null).map((net) => net.ratio))].sort((a, b) => a - b);
    const sizes = [...new Set(nets.map((net) => net.resolution))].sort((a, b) => a - b);
    const channels = ratios.map((ratio) => ({
      value: `ratio:${ratio}`,
      text: FRACTIONS.get(ratio) ?? String(ratio),
      spoken: `${SPOKEN.get(ratio) ?? ratio} of the channels`,
    }));
    // A flexible sub-network has a width of its own in every layer, and one resolution.
    for (const net of nets.filter((one) => one.ratio === null)) {
      channels.push({ value: `net:${net.name}`, text: net.name, spoken: `sub-network ${net.name}` });
    }
    radios("channels", channels, channels.findLast((one) => one.value.startsWith("ratio:"))?.value ?? channels[0]?.value);
    const choices = sizes.map((size) => ({ value: String(size), text: String(size), spoken: `${size} pixels` }));
    radios("resolutions", choices, choices.at(-1)?.value);
    for (const name of ["channels", "resolutions"]) {
      document.getElementById(name).addEventListener("change", () => {
        this.show();
        this.changed();
      });
    }
    this.show();
  }

  /** Offer only the pairs that the bundle holds, and say what is chosen. */
  show() {
    const auto = this.auto.checked;
    document.getElementById("automatic").hidden = !auto;
    document.getElementById("manual").hidden = auto;
    const held = this.ofChannels();
    for (const input of document.querySelectorAll('input[name="resolutions"]')) {
      input.disabled = !held.some((net) => String(net.resolution) === input.value);
    }
    const size = document.querySelector('input[name="resolutions"]:checked');
    if (size?.disabled) [...document.querySelectorAll('input[name="resolutions"]:enabled')].at(-1).checked = true;
    const own = this.wanted.budget ? `p95 ≤ ${this.budget.value} ms` : this.server;
    this.hint.textContent = auto
      ? own
        ? `The best sub-network within the budget (${own}) answers each change.`
        : "There is no budget, so the best sub-network answers each change."
      : `Every picture is drawn by sub-network ${this.chosen()?.name ?? "none"}.`;
  }

  ofChannels() {
    const value = document.querySelector('input[name="channels"]:checked')?.value ?? "";
    return this.nets.filter((net) => value === `net:${net.name}` || (net.ratio !== null && value === `ratio:${net.ratio}`));
  }

  chosen() {
    const size = document.querySelector('input[name="resolutions"]:checked')?.value;
    return this.ofChannels().find((net) => String(net.resolution) === size);
  }

  get wanted() {
    if (!this.auto.checked) return { subnet: this.chosen()?.name ?? null };
    const limit = this.budget.valueAsNumber;
    return Number.isFinite(limit) && this.budget.validity.valid ? { budget: { latency_ms: limit } } : {};
  }
}

function radios(name, choices, checked) {
  const parts = choices.map(({ value, text, spoken }) => {
    const label = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name, value, checked: value === checked });
    input.setAttribute("aria-label", spoken);
    const shown = document.createElement("span");
    shown.textContent = text;
    shown.setAttribute("aria-hidden", "true");
    label.append(input, shown);
    return label;
  });
  document.getElementById(name).replaceChildren(...parts);
}
