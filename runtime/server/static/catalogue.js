// What the bundle holds, in the page's own words. The only place that knows how the server lists it.

import { getJson } from "./api.js";

const INPAINTERS = ["context-encoder", "context-encoder-256"];
const STYLED = "gans-n-roses";
const TRANSLATORS = [STYLED, "cyclegan", "discogan"];
const SAMPLE_SIDE = 64; // pixels of a sample's small picture

/**
 * -> { bundle, budget: the server's in words, empty for none, subnets: [{ name, resolution, ratio, macs }],
 *      directions: [name], encoder: whether there is one, inpainters: [name], translators: [{ name, styles }],
 *      sampler: name of the sub-network that draws the samples, or null }
 */
export async function readCatalogue() {
  const models = await getJson("v1/models");
  const subnets = models.generator?.subnets ?? [];
  const networks = models.networks ?? [];
  const named = (kinds) => networks.filter((one) => kinds.includes(one.kind));
  return {
    bundle: models.bundle ?? "",
    budget: models.budget === "no limit" ? "" : (models.budget ?? "").replaceAll("<=", "≤"),
    subnets,
    directions: models.generator?.directions ? await readDirections() : [],
    encoder: named(["encoder"]).length > 0,
    inpainters: named(INPAINTERS).map((one) => one.name),
    translators: named(TRANSLATORS).map((one) => ({ name: one.name, styles: one.kind === STYLED })),
    sampler: sampler(subnets)?.name ?? null,
  };
}

async function readDirections() {
  const { directions } = await getJson("v1/directions");
  return directions.map((one) => one.name);
}

/** The best of the smallest resolution that is large enough for a sample, else the best there is. */
function sampler(subnets) {
  const enough = subnets.filter((net) => net.resolution >= SAMPLE_SIDE);
  const least = Math.min(...enough.map((net) => net.resolution));
  const of = enough.length ? enough.filter((net) => net.resolution === least) : subnets;
  return of.reduce((best, net) => (best && best.macs >= net.macs ? best : net), null);
}
