"""Turning a run of encoder.py into the embedded encoder, its picture and its card."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from anycost.networks.resnet import Encoder
from anycost.weights.checkpoint import read, read_any
from anycost.weights.save import save
from recipes.avatars.data import Blocks, Pictures
from recipes.avatars.encoder import SIZE, Answers, figures
from recipes.avatars.ship import CREDITS
from recipes.avatars.train import HERE
from recipes.track import Track

HELD_OUT = 256
CARD = """# avatars-encoder: from a face to its code

{credit}

| | |
|---|---|
| network | W+ encoder: bottleneck ResNet, stages (blocks, width) {stages} |
| shape | picture [N, 3, {size}, {size}] in [-1, 1] to w+ [N, {n_style}, {style_dim}] of `avatars` |
| parameters | {parameters:.2f} million; fp16, {bytes:.1f} MB |
| data | {pictures} pictures rendered by `recipes/avatars/render.mjs`, a quarter of each batch generated; {held} held out |
| training | {steps} steps of {batch} pictures; one CPU core |
| licence | Apache-2.0 for the weights as for the code; the credit line above stays with them |

![Pictures, and what 1@{top}, 0.5@{top} and 0.25@{small} make of their codes](avatars-encoder.png)

## Recipe
`recipes/avatars/encoder.py`: squared error and pyramid distance (LPIPS-like in its use, never in its values) between a picture
and the generator's answer to its code, for the full network and a sampled sub-network in every step, plus the squared error of
the code itself. It begins with the trunk of `avatars-attributes`, and a last layer fitted to known codes by ridge regression.

## Figures
{held} held-out pictures, shipped fp16 weights. PSNR (dB) and pyramid distance of a sub-network's answer to the picture at its
own resolution; *known code* is what the same sub-network makes of the w that belongs to the picture, which is about the best a
code can do; *agreement* is the PSNR between the sub-network's answer and the full network's, reduced to its side.

| sub-network | PSNR | PSNR of the known code | pyramid distance | agreement |
|---|--:|--:|--:|--:|
{table}

## Limits
Knows drawings of this one style: a photograph gives the nearest avatar it can think of. What the generator cannot draw, its
codes cannot hold; `anycost project` refines a code where the seconds for it are there.
"""


def ship(args: argparse.Namespace, folder: Path, stages: Sequence[tuple[int, int]]) -> None:
    """folder: to write to. stages: (blocks, width) of the encoder."""
    values = Track(args.out).load()
    if values is None:
        raise SystemExit(f"{args.out} holds no checkpoint: train first")
    generator = read(args.model).generator()
    arch = generator.arch
    target = folder / "avatars-encoder.safetensors"
    arguments = {"n_style": arch.n_style, "style_dim": arch.style_dim, "stages": stages, "size": SIZE}
    tensors = {
        name: tensor.half() for name, tensor in values["ema"].items() if not name.endswith("num_batches_tracked")
    }
    metadata = {
        "network": "encoder",
        "arguments": json.dumps(arguments, sort_keys=True),
        "credit": CREDITS["avataaars"],
        "recipe": "recipes/avatars",
    }
    save(target, tensors, metadata)
    encoder = read_any(target).module()
    answers, held = Answers(generator), Pictures.load(args.data[:1], "validation")
    blocks = Blocks.load(HERE / "attributes.json")
    with torch.no_grad():
        z = blocks.latents_for(held.labels[:HELD_OUT], arch.style_dim, torch.Generator().manual_seed(7))
        found = figures(encoder, answers, held, generator.mapping(z), HELD_OUT)
    lines = [
        f"| {name} | {f['psnr']:.2f} | {f['known_psnr']:.2f} | {f['distance']:.3f} | {f['agreement']:.2f} |"
        for name, f in found.items()
    ]
    picture(folder / "avatars-encoder.png", encoder, answers, held)
    (folder / "avatars-encoder.md").write_text(
        CARD.format(
            credit=CREDITS["avataaars"],
            stages=", ".join(map(str, stages)),
            size=SIZE,
            top=arch.resolution,
            small=arch.resolution // 2,
            n_style=arch.n_style,
            style_dim=arch.style_dim,
            parameters=sum(p.numel() for p in encoder.parameters()) / 1e6,
            bytes=target.stat().st_size / 1e6,
            pictures=len(Pictures.load(args.data)),
            held=min(HELD_OUT, len(held)),
            steps=values["step"],
            batch=args.batch,
            table="\n".join(lines),
        )
    )
    print(f"wrote {target}: {found[f'1@{arch.resolution}']}")


@torch.no_grad()
def picture(path: Path, encoder: Encoder, answers: Answers, held: Pictures) -> None:
    """Rows: eight held-out pictures, and three sub-networks' answers to their codes."""
    x, _ = held.batch(np.arange(min(8, len(held))), SIZE)
    w_plus = encoder(x)
    top = answers.sides[-1]
    rows = [x, answers(w_plus, 1.0)[top], answers(w_plus, 0.5)[top], answers(w_plus, 0.25)[top // 2]]
    strips = []
    for row in rows:
        row = row.repeat_interleave(SIZE // row.shape[-1], 2).repeat_interleave(SIZE // row.shape[-1], 3)
        pixels = row.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
        strips.append(np.concatenate(list(pixels), axis=1))
    Image.fromarray(np.concatenate(strips)).save(path, optimize=True)
