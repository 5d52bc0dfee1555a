"""The embedded attribute predictor: python -m recipes.avatars.attributes train --data DIR [DIR ...] --out DIR, then ship

A narrow bottleneck ResNet (arXiv 1512.03385) with Anycost GAN's head: two logits, no and yes, for every attribute. It judges
generated images too, soft ones and those of sub-networks of 16, 32 and 64 px, so it is trained on pictures that were moved,
reduced and enlarged again, blurred and recoloured. Its pooled features are what FD-avatar is measured on: ``ship`` writes those
of the validation pictures beside the weights.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anycost.benchmarks.quality.features import NETWORK_SHA256, avatar_features
from anycost.networks.resnet import AttributePredictor
from anycost.weights.checkpoint import read_any
from anycost.weights.save import save
from recipes.avatars.attribute_names import GROUPS, Questions
from recipes.avatars.data import Pictures
from recipes.avatars.ship import CREDITS, EMBEDDED
from recipes.avatars.train import HERE
from recipes.track import Track

STAGES = ((1, 24), (1, 32), (2, 48), (2, 64))
SIZE, RATE, DECAY = 128, 2e-3, 1e-4
CARD = """# avatars-attributes: what a face shows

{credit}

| | |
|---|---|
| network | attribute predictor: bottleneck ResNet, stages (blocks, width) {stages} |
| shape | picture [N, 3, {size}, {size}] in [-1, 1] to logits [N, {count}, 2] (no, yes) |
| parameters | {parameters:.2f} million; fp16, {bytes:.1f} MB |
| data | {pictures} pictures rendered by `recipes/avatars/render.mjs`, and {held} held out |
| training | {steps} steps of {batch} pictures; one CPU core |
| licence | Apache-2.0 for the weights as for the code; the credit line above stays with them |

## Recipe
`recipes/avatars/attributes.py`: cross-entropy of every (no, yes) pair, on pictures moved by a few pixels, recoloured, and half
of the time reduced to 16, 32 or 64 px and enlarged again, because it judges images of small sub-networks as well.
The pooled features before the last layer ([N, {features}]) are what the measure called FD-avatar is taken on. It is not FID,
and its values compare only with other values of it. `avatars-features.safetensors` holds the features of the held-out pictures.

## Figures
Balanced accuracy (mean of those of yes and no) on the {held} held-out pictures, of the shipped fp16 weights, in percent:

{table}

## Limits
Knows drawings in one style and nothing of photographs. At 16 px glasses, eyes and mouths are a handful of pixels, and the
figures above say how far they can still be told. Options that look alike in this crop (two shirts under a beard) cannot be told
at any size.
"""


def shuffled(x: Tensor, generator: torch.Generator) -> Tensor:
    """[N, 3, R, R] moved, recoloured, and half of them as a smaller image would show them."""
    n, _, side, _ = x.shape
    dx, dy = torch.randint(-6, 7, (2,), generator=generator).tolist()
    x = F.pad(x, (6, 6, 6, 6), mode="replicate")[:, :, 6 + dy : 6 + dy + side, 6 + dx : 6 + dx + side]
    small = (128, 128, 128, 64, 32, 16)[int(torch.randint(6, (1,), generator=generator))]
    if small < side:
        x = F.interpolate(F.interpolate(x, (small, small), mode="area"), (side, side), mode="bilinear")
    contrast = 1 + 0.1 * torch.randn(n, 1, 1, 1, generator=generator)
    shift = 0.05 * torch.randn(n, 3, 1, 1, generator=generator)
    noise = 0.03 * torch.rand(1, generator=generator) * torch.randn(x.shape, generator=generator)
    return x * contrast + shift + noise


@torch.no_grad()
def accuracies(network: AttributePredictor, pictures: Pictures, questions: Questions, side: int) -> np.ndarray:
    """Balanced accuracy of every question on pictures reduced to ``side`` px and enlarged again: [questions]."""
    right = np.zeros((2, len(questions)))
    seen = np.zeros((2, len(questions)))
    for start in range(0, len(pictures), 100):
        x, labels = pictures.batch(np.arange(start, min(start + 100, len(pictures))), SIZE)
        if side < SIZE:
            x = F.interpolate(F.interpolate(x, (side, side), mode="area"), (SIZE, SIZE), mode="bilinear")
        expected = questions.answers(labels).numpy()
        found = network(x).argmax(2).numpy()
        for answer in (0, 1):
            right[answer] += ((found == answer) & (expected == answer)).sum(0)
            seen[answer] += (expected == answer).sum(0)
    return (right / np.maximum(seen, 1)).mean(0)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(0)
    questions, pictures = Questions.load(HERE / "attributes.json"), Pictures.load(args.data)
    held = Pictures.load(args.data[:1], "validation")
    network = AttributePredictor(len(questions), STAGES, SIZE).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    track = Track(args.out, args.minutes)
    step = 0
    values = track.load()
    if values:
        network.load_state_dict(values["network"])
        optimizer.load_state_dict(values["optimizer"])
        step = values["step"]

    def state() -> dict:
        return {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step}

    last, losses = time.monotonic(), []
    while step < args.steps and not track.expired:
        # All of a step's randomness is drawn from its number: a run that was stopped goes on as if it had not been.
        generator, rng = torch.Generator().manual_seed(step), np.random.default_rng(step)
        network.train()
        for group in optimizer.param_groups:
            group["lr"] = (
                RATE * min(1, (step + 1) / 50) * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * step / args.steps)))
            )
        x, labels = pictures.batch(rng.integers(0, len(pictures), args.batch), SIZE)
        x = shuffled(x, generator).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(x)
        loss = F.cross_entropy(logits.float().flatten(0, 1), questions.answers(labels).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        losses.append(loss.item())
        if step % 100 == 0:
            now = time.monotonic()
            track.log(
                stage="attributes",
                step=step,
                images_per_s=round(100 * args.batch / (now - last), 1),
                loss=round(float(np.mean(losses)), 4),
            )
            last, losses = now, []
        if step % 500 == 0 or step == args.steps:
            found = accuracies(network.eval(), held, questions, SIZE)
            track.log(step=step, balanced_accuracy=round(float(found.mean()), 4))
            last = time.monotonic()
        if track.due:
            track.save(state())
    track.save(state())


def ship(args: argparse.Namespace) -> None:
    values = Track(args.out).load()
    if values is None:
        raise SystemExit(f"{args.out} holds no checkpoint: train first")
    questions = Questions.load(HERE / "attributes.json")
    target = EMBEDDED / "avatars-attributes.safetensors"
    arguments = {"attributes": len(questions), "stages": STAGES, "size": SIZE}
    tensors = {
        name: tensor.half() for name, tensor in values["network"].items() if not name.endswith("num_batches_tracked")
    }
    metadata = {
        "network": "attributes",
        "arguments": json.dumps(arguments, sort_keys=True),
        "labels": json.dumps(questions.names),
        "credit": CREDITS["avataaars"],
        "recipe": "recipes/avatars",
    }
    save(target, tensors, metadata)
    held = Pictures.load(args.data[:1], "validation")
    extractor = avatar_features(target)
    features = extractor(held.pixels(np.arange(len(held))))
    data = json.loads((args.data[0] / "data.json").read_text())
    save(
        EMBEDDED / "avatars-features.safetensors",
        {"features": torch.from_numpy(features).half()},
        {
            NETWORK_SHA256: extractor.network_sha256,
            "data": f"{len(held)} validation pictures of {data['style']}, {data['size']} px, seed {data['seed']}",
            "credit": CREDITS["avataaars"],
        },
    )
    network = read_any(target).module()
    by_side = {side: accuracies(network, held, questions, side) for side in (SIZE, 64, 32, 16)}
    (EMBEDDED / "avatars-attributes.md").write_text(
        CARD.format(
            credit=CREDITS["avataaars"],
            stages=", ".join(map(str, STAGES)),
            size=SIZE,
            count=len(questions),
            features=extractor.dim,
            parameters=sum(p.numel() for p in network.parameters()) / 1e6,
            bytes=target.stat().st_size / 1e6,
            pictures=len(Pictures.load(args.data)),
            held=len(held),
            steps=values["step"],
            batch=args.batch,
            table=_table(questions, by_side),
        )
    )
    print(f"wrote {target}: balanced accuracy {by_side[SIZE].mean():.4f}")


def _table(questions: Questions, by_side: dict[int, np.ndarray]) -> str:
    names = json.loads((HERE / "attributes.json").read_text())["attributes"]
    lines = ["| | " + " | ".join(f"{side} px" for side in by_side) + " |", "|---|" + "--:|" * len(by_side)]
    lines.append("| **all** | " + " | ".join(f"**{100 * found.mean():.1f}**" for found in by_side.values()) + " |")
    for i in range(len(GROUPS)):
        lines.append(f"| {questions.names[i]} | " + " | ".join(f"{100 * f[i]:.1f}" for f in by_side.values()) + " |")
    for a, attribute in enumerate(names):
        rows = [i for i in range(len(GROUPS), len(questions)) if questions.of(i) == a]
        cells = " | ".join(f"{100 * found[rows].mean():.1f}" for found in by_side.values())
        lines.append(f"| options of {attribute['name']} ({len(rows)}) | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("train", "ship"))
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders written by render.mjs")
    parser.add_argument("--out", type=Path, required=True, help="resumed when it has a checkpoint")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=math.inf)
    args = parser.parse_args()
    (train if args.do == "train" else ship)(args)


if __name__ == "__main__":
    main()
