"""Turn training runs into an embedded model: python -m recipes.avatars.ship --runs DIR [DIR ...] --data DIR [--name avatars]

The last run's averaged weights ship; the runs before it are those that it began from, in their order. Writes
weights/embedded/NAME.safetensors (fp16), NAME.png (the same faces in every sub-network), NAME.log.jsonl (the training logs) and
NAME.md (the model card). The figures on the card are of the shipped fp16 weights. ``--quality FILE`` takes what
``anycost bench quality`` measured of them, writes NAME.quality.json, by which the runtime ranks sub-networks, and the card anew.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from anycost.errors import AnycostError
from anycost.networks.channels import Architecture, macs, parameters
from anycost.networks.registry import STYLEGAN2
from anycost.runtime import quality as qualities
from anycost.runtime.files import record_of
from anycost.runtime.quality import Quality
from anycost.weights.checkpoint import read
from anycost.weights.save import save
from recipes.avatars import sheet
from recipes.avatars.data import Blocks, Pictures
from recipes.avatars.state import STYLE_DIM, Run
from recipes.avatars.train import HELD_OUT, HERE

EMBEDDED = HERE.parents[1] / "weights" / "embedded"
CREDITS = {
    "avataaars": (
        "Trained on pictures rendered from 'Avataaars' by Pablo Stanley (https://avataaars.com/, free for personal and "
        "commercial use), as remixed by DiceBear (https://www.dicebear.com/)."
    ),
    "micah": (
        "Trained on pictures rendered from 'Avatar Illustration System' by Micah Lanier "
        "(https://www.figma.com/community/file/829741575478342595), CC BY 4.0, as remixed by DiceBear "
        "(https://www.dicebear.com/)."
    ),
}
CARD = """# {name}: {title}

{credit}

| | |
|---|---|
| network | elastic StyleGAN2 generator (Anycost GAN's parameter names) |
| shape | {resolution} px, channel multiplier {multiplier:g}, at most {cap} channels, style_dim {style_dim} |
| sub-networks | resolutions {sides} x channel ratios 1/4, 1/2, 3/4, 1 |
| parameters | {parameters:.2f} million in the synthesis network; fp16, {size:.1f} MB |
| data | {pictures} pictures rendered by `recipes/avatars/render.mjs`, and {held_out} held out |
| training | {training}; two CPU cores |
| licence | Apache-2.0 for the weights as for the code; the credit line above stays with them |

![The same eight faces in every sub-network: resolution by resolution, the narrowest first]({name}.png)

## Recipe
{recipe}
`recipes/avatars/README.md` has the commands; the log beside this file has every figure.

## Figures
PSNR in dB against {held_out} held-out pictures, each at the sub-network's own resolution (stored noise, fp16 weights).{measured}

{table}

## Limits
Made to show an elastic generator at work, and trained on two CPU cores in a few hours where such models take GPU-days: not a
benchmark of image quality. Small parts stay soft (eyes, mouths, the narrowest sub-networks most of all), and a latent near the
border between two options gives a blend of both. The faces are drawings with skin, hair and clothes drawn uniformly from a
palette: they stand for nobody, and the model says nothing about real faces.
"""
BUILT = """The picture that belongs to a latent is known, because every attribute owns a block of z and its option is the largest
coordinate of the block. So the mapping is built, not trained: a winner-take-all competition in every block, which leaves w
nearly one-hot (`winner.py`). The synthesis network was trained by regression to the rendered pictures at every resolution of
the grid at once, the full network together with one narrower sub-network a step, the narrower also against the full one's
answer (distillation), first at 64 px and then, grown by a block, at 128 px. Channels are sorted by importance before narrower
sub-networks join (`train.py`); of this model only those of the 128 px block were, because the 64 px run is older than that step.
"""
SHARPENED = """
Then adversarially (`adversarial.py`): a multi-resolution discriminator conditioned on the architecture vector of the
sub-network, lazy R1, exponential average, a cheap form of path length, distillation to the full network. In the steps that
there was time for, the discriminator hardly got past chance (its loss stayed near 2 ln 2 = 1.386, see the log), so the pictures
are still those of regression: this stage is where a GPU should go on, from its checkpoint.
"""
RESTYLED = """Fine-tuned from `avatars` by the same regression, to the same people drawn in the other style: the mapping is the
same, so a z is the same person in both, and the two networks' layers correspond, which is what blending needs
(`anycost blend`).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="run folders in order; the last one ships")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="the folders that it was trained on")
    parser.add_argument("--name", default="avatars")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--quality", type=Path, help="quality.json of a bundle of these weights")
    args = parser.parse_args()
    style = json.loads((args.data[0] / "data.json").read_text())["style"]
    run = Run.start(torch.device("cpu"), args.resolution)
    run.load(args.runs[-1] / "checkpoint.pt")
    generator = run.folded()
    target = EMBEDDED / f"{args.name}.safetensors"
    metadata = {
        "network": STYLEGAN2,
        "arguments": json.dumps(asdict(generator.arch), sort_keys=True),
        "credit": CREDITS[style],
        "recipe": "recipes/avatars",
    }
    tensors = {name: tensor.half() for name, tensor in generator.state_dict().items()}
    save(target, tensors | {"mean_style": generator.mean_style(100_000)}, metadata)
    shipped = read(target).generator()
    z = torch.randn(8, STYLE_DIM, generator=torch.Generator().manual_seed(0))
    sheet.write(EMBEDDED / f"{args.name}.png", shipped, z, 96)
    logs = [(folder / "log.jsonl").read_text() for folder in args.runs]
    (EMBEDDED / f"{args.name}.log.jsonl").write_text("".join(logs))
    blocks, pictures = Blocks.load(HERE / "attributes.json"), Pictures.load(args.data)
    held = Pictures.load(args.data[:1], "validation")
    images, labels = held.batch(np.arange(min(HELD_OUT, len(held))), args.resolution)
    z = blocks.latents_for(labels, STYLE_DIM, torch.Generator().manual_seed(7))
    figures = sheet.figures(shipped, z, images)
    quality = _quality(args.quality, target, EMBEDDED / f"{args.name}.quality.json")
    arch = generator.arch
    adversarial = '"adversarial"' in logs[-1]
    (EMBEDDED / f"{args.name}.md").write_text(
        CARD.format(
            name=args.name,
            title="the embedded elastic generator"
            if style == "avataaars"
            else f"the same people as `{style}` draws them",
            credit=CREDITS[style],
            resolution=arch.resolution,
            multiplier=arch.channel_multiplier,
            cap=arch.channel_max,
            style_dim=arch.style_dim,
            sides=", ".join(map(str, sheet.sides_of(generator))),
            parameters=parameters(arch.full(), arch.style_dim) / 1e6,
            size=target.stat().st_size / 1e6,
            pictures=len(pictures),
            held_out=len(images),
            training=", then ".join(_stages(args.runs, logs)),
            recipe=RESTYLED if style != "avataaars" else BUILT + (SHARPENED if adversarial else ""),
            measured=_measured(quality),
            table=_table(figures, quality, arch),
        )
    )
    print(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB) after {run.step} steps: {figures}")


def _stages(runs: list[Path], logs: list[str]) -> list[str]:
    found = []
    for folder, log in zip(runs, logs, strict=True):
        lines = [json.loads(line) for line in log.splitlines()]
        steps = max(line.get("step", 0) for line in lines)
        stage = next((line["stage"] for line in reversed(lines) if isinstance(line.get("stage"), str)), "")
        if not stage:
            raise SystemExit(f"{folder}/log.jsonl does not say what was trained")
        found.append(f"{steps} steps of {stage}")
    return found


def _quality(given: Path | None, weights: Path, kept: Path) -> Quality | None:
    """What was measured of exactly these weights: taken from ``given``, else what is kept of an earlier ship."""
    try:
        quality = qualities.read(given or kept) if given or kept.is_file() else None
    except AnycostError as error:
        raise SystemExit(str(error)) from None
    if quality is None:
        return None
    if quality.source_sha256 != record_of(weights).sha256:
        if given:
            raise SystemExit(f"{given} was measured of other weights than those of {weights}: build and measure again")
        kept.unlink()
        return None
    if given:
        qualities.write(kept, quality.model_copy(update={"engines": {}, "networks": {}}))
    return quality


def _measured(quality: Quality | None) -> str:
    if quality is None:
        return ""
    return (
        f" {quality.measure} to the data ({quality.data}) with its 95% interval, path length and attribute consistency are over "
        f"{quality.images} seeds, by `anycost bench quality`."
    )


def _table(figures: dict[str, float], quality: Quality | None, arch: Architecture) -> str:
    head = ["sub-network", "MACs", "PSNR"]
    if quality:
        head += [quality.measure, "PPL", "consistency"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    for net in arch.grid():
        cells = [net.name, f"{macs(net, arch.style_dim) / 1e6:.1f} M", f"{figures[net.name]:.2f}"]
        if quality:
            found = quality.subnets[net.name]
            fd = found.fd_data
            cells += [
                f"{fd.value:.2f} ({fd.low:.2f} to {fd.high:.2f})" if fd else "-",
                "-" if found.ppl is None else f"{found.ppl:.1f}",
                "-" if found.consistency is None else f"{100 * found.consistency:.1f}%",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
