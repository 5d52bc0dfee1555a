"""Turn a training run into the embedded model: python -m recipes.avatars.ship --run DIR --data DIR [DIR ...]

Writes weights/embedded/avatars.safetensors (fp16), avatars.png (the grid of sub-networks), avatars.log.jsonl (the training
log) and avatars.md (the model card). The figures on the card are of the shipped fp16 weights.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from anycost.networks.channels import Architecture, macs, parameters
from anycost.networks.registry import STYLEGAN2
from anycost.weights.checkpoint import read
from anycost.weights.save import save
from recipes.avatars import sheet
from recipes.avatars.data import Blocks, Pictures
from recipes.avatars.state import STYLE_DIM, Run
from recipes.avatars.train import HELD_OUT, HERE

EMBEDDED = HERE.parents[1] / "weights" / "embedded"
CREDIT = (
    "Trained on pictures rendered from 'Avataaars' by Pablo Stanley (https://avataaars.com/, free for personal and commercial "
    "use), as remixed by DiceBear (https://www.dicebear.com/)."
)
CARD = """# avatars: the embedded elastic generator

{credit}

| | |
|---|---|
| network | elastic StyleGAN2 generator (Anycost GAN's parameter names) |
| shape | {resolution} px, channel multiplier {multiplier:g}, at most {cap} channels, style_dim {style_dim} |
| sub-networks | resolutions 16, 32, 64 x channel ratios 1/4, 1/2, 3/4, 1 |
| parameters | {parameters:.2f} million in the synthesis network; fp16, {size:.1f} MB |
| data | {pictures} pictures rendered by `recipes/avatars/render.mjs`, {held_out} of them held out |
| training | {steps} steps of 16 pictures; CPU |
| licence | Apache-2.0 for the weights as for the code; the credit line above stays with them |

## Recipe
The picture that belongs to a latent is known, because every attribute owns a block of z and its option is the largest
coordinate of the block. So the mapping is built, not trained: a winner-take-all competition in every block, which leaves w
nearly one-hot (`winner.py`). The synthesis network is trained by regression to the
rendered pictures at 16, 32 and 64 px at once, the full network together with one narrower sub-network a step, the narrower
also against the full one's answer (distillation). There is no discriminator yet.
`recipes/avatars/README.md` has the commands; the log beside this file has every figure.

## Figures
PSNR in dB against {held_out} held-out pictures, each at the sub-network's own resolution (stored noise, fp16 weights):

{table}

## Limits
Made to show an elastic generator at work, small and quick to train; not a benchmark of image quality. Regression without a
discriminator leaves small parts soft (eyes, mouths, the narrowest sub-networks most of all), and a latent near the border
between two options gives a blend of both. The faces are drawings with skin, hair and clothes drawn uniformly from a palette:
they stand for nobody, and the model says nothing about real faces.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder that train wrote")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="the folders that it was trained on")
    args = parser.parse_args()
    blocks = Blocks.load(HERE / "attributes.json")
    run = Run.start(torch.device("cpu"))
    run.load(args.run / "checkpoint.pt")
    generator = run.folded()
    arch = generator.arch
    target = EMBEDDED / "avatars.safetensors"
    tensors = {name: tensor.half() for name, tensor in generator.state_dict().items()}
    metadata = {
        "network": STYLEGAN2,
        "arguments": json.dumps(asdict(arch), sort_keys=True),
        "credit": CREDIT,
        "recipe": "recipes/avatars",
    }
    save(target, tensors | {"mean_style": generator.mean_style(100_000)}, metadata)
    shipped = read(target).generator()
    sheet.write(
        EMBEDDED / "avatars.png", shipped, torch.randn(12, STYLE_DIM, generator=torch.Generator().manual_seed(0)), 64
    )
    (EMBEDDED / "avatars.log.jsonl").write_text((args.run / "log.jsonl").read_text())
    pictures = Pictures.load(args.data)
    held, labels = pictures.batch(np.arange(len(pictures) - HELD_OUT, len(pictures)))
    figures = sheet.figures(shipped, blocks.latents_for(labels, STYLE_DIM, torch.Generator().manual_seed(7)), held)
    (EMBEDDED / "avatars.md").write_text(
        CARD.format(
            credit=CREDIT,
            resolution=arch.resolution,
            multiplier=arch.channel_multiplier,
            cap=arch.channel_max,
            style_dim=arch.style_dim,
            parameters=parameters(arch.full(), arch.style_dim) / 1e6,
            size=target.stat().st_size / 1e6,
            pictures=len(pictures),
            held_out=HELD_OUT,
            steps=run.step,
            table=_table(figures, arch),
        )
    )
    print(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB) after {run.step} steps: {figures}")


def _table(figures: dict[str, float], arch: Architecture) -> str:
    lines = ["| sub-network | MACs | PSNR |", "|---|---|---|"]
    for net in arch.grid():
        lines.append(f"| {net.name} | {macs(net, arch.style_dim) / 1e6:.1f} M | {figures[net.name]:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
