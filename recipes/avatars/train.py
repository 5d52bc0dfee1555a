"""Train the elastic avatar generator by regression: python -m recipes.avatars.train --data DIR [DIR ...] --out DIR

First the mapping network is built: w holds nearly one-hot attributes of z (winner.py). Nothing is trained in it. Then
regression to the rendered picture of each z. The full network learns alone first; its channels are sorted by importance, and
from there on every step runs it and one narrower sub-network. Both answer at every resolution of the grid in one pass
(multi-resolution), the narrower one also against the full one's answer (distillation). ``--begin`` starts from another run:
one at a lower resolution, which grows, or one that drew in another style. Anycost GAN (arXiv 2103.03243) samples its
sub-networks the same way; what differs is that no discriminator is needed to begin with, because the picture that belongs to a
z is known. It joins afterwards: adversarial.py.

Stops and resumes at any moment; runs on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch

from anycost.export.deploy import bind, static_synthesis, synthesis_bindings
from anycost.networks.channels import RATIOS
from anycost.networks.stylegan2 import fir_kernel
from recipes.avatars import sheet, winner
from recipes.avatars.data import Blocks, Pictures, pyramid
from recipes.avatars.importance import order_channels
from recipes.avatars.losses import attribute_accuracy, image_loss
from recipes.avatars.state import STYLE_DIM, Run
from recipes.track import Track

HERE = Path(__file__).parent
HELD_OUT = 512
BASE_RATE = 5e-3
# The full network alone learns the pictures first; the narrower ones then follow it. Of one that begins from another run only
# the last block can be new.
FULL_ALONE, FULL_ALONE_BEGUN = 0.6, 0.05


def start_mapping(run: Run, blocks: Blocks, device: torch.device, log) -> None:
    """Build the mapping and measure its styles."""
    winner.build(run.generator, blocks)
    run.ema.load_state_dict(run.generator.state_dict())
    run.measure_styles()
    z = torch.randn(20_000, STYLE_DIM, device=device)
    with torch.no_grad():
        scores = run.generator.mapping(z)
    log(stage="mapping", accuracy=round(attribute_accuracy(scores, blocks.labels_of(z), blocks), 4))


def answers(run: Run, w_plus: torch.Tensor, ratio: float) -> dict[int, torch.Tensor]:
    """The images of one pass at every resolution of the grid, in [-1, 1] and by side; random noise."""
    arch = run.generator.arch
    net = arch.subnet(arch.resolution, ratio)
    tensors = bind(synthesis_bindings(arch, net), dict(run.generator.named_parameters()))
    tensors["input"] = tensors["input"].to(memory_format=torch.channels_last)
    noise = run.generator.noise("random", net, len(w_plus))
    kernel = fir_kernel(4.0)[None, None].to(w_plus.device)
    # bfloat16 convolutions are twice as fast here, and the weights they update stay float32.
    with torch.autocast(w_plus.device.type, dtype=torch.bfloat16):
        images = static_synthesis(net, tensors, w_plus, noise, kernel)
    sides = sheet.sides_of(run.generator)
    return {image.shape[-1]: image.float() for image in images if image.shape[-1] in sides}


def train_step(run: Run, z: torch.Tensor, pictures: torch.Tensor, narrow: float | None) -> dict[str, float]:
    """One step on a batch, with a narrower sub-network of ratio ``narrow`` or without; returns its losses."""
    sides = sheet.sides_of(run.generator)
    targets = pyramid(pictures, sides)
    # The mapping stays as it was built.
    w_plus = run.styles(z)
    full = answers(run, w_plus, 1.0)
    found = {"full": sum(image_loss(full[side], targets[side]) for side in sides)}
    total = found["full"]
    if narrow:
        narrower = answers(run, w_plus, narrow)
        found["narrow"] = sum(image_loss(narrower[side], targets[side]) for side in sides)
        found["distilled"] = sum(image_loss(narrower[side], full[side].detach()) for side in sides)
        total = total + found["narrow"] + 0.5 * found["distilled"]
    run.optimizer.zero_grad()
    total.backward()
    run.optimizer.step()
    return {name: value.item() for name, value in found.items()}


def learning_rate(step: int, steps: int) -> float:
    """Warm-up over 20 steps, then a cosine to a hundredth."""
    progress = min(1.0, step / steps)
    return BASE_RATE * min(1.0, (step + 1) / 20) * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * progress)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders written by render.mjs")
    parser.add_argument(
        "--out", type=Path, required=True, help="checkpoint, log and sheets; resumed when it has a checkpoint"
    )
    parser.add_argument("--resolution", type=int, default=64, help="of the full network")
    parser.add_argument("--begin", type=Path, help="folder of a run, at this resolution or a lower one, to begin from")
    parser.add_argument("--steps", type=int, default=12_000, help="the learning rate ends with them")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1.0, help="scales the learning rate")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop, with a checkpoint, after this long")
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    blocks = Blocks.load(HERE / "attributes.json")
    pictures = Pictures.load(args.data)
    held_pictures = Pictures.load(args.data[:1], "validation")
    side = min(args.resolution, pictures.side)
    track = Track(args.out, args.minutes)

    run = Run.start(device, args.resolution)
    if track.checkpoint.exists():
        run.load(track.checkpoint)
    elif args.begin:
        run.begin_from(args.begin / "checkpoint.pt")
    else:
        start_mapping(run, blocks, device, track.log)

    held, held_labels = held_pictures.batch(np.arange(min(HELD_OUT, len(held_pictures))), side)
    held_z = blocks.latents_for(held_labels, STYLE_DIM, torch.Generator().manual_seed(7))
    sheet_z = torch.randn(8, STYLE_DIM, generator=torch.Generator().manual_seed(0))
    alone = int(args.steps * (FULL_ALONE_BEGUN if args.begin else FULL_ALONE))
    np.random.seed(run.step)
    last = time.monotonic()
    sums: dict[str, float] = {}
    while run.step < args.steps and not track.expired:
        run.rate(args.rate * learning_rate(run.step, args.steps))
        if run.step == alone:
            # The blocks of an earlier run already have an order, which their sub-networks learned with.
            run.reorder(lambda generator: order_channels(generator, args.resolution if args.begin else 4))
        x, labels = pictures.batch(np.random.randint(0, len(pictures), args.batch), side)
        z = blocks.latents_for(labels, STYLE_DIM)
        narrow = float(np.random.choice(RATIOS[:-1])) if run.step >= alone else None
        losses = train_step(run, z.to(device), x.to(device), narrow)
        run.step += 1
        run.images += args.batch
        run.average(min(0.999, (1 + run.step) / (10 + run.step)))
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value / 100
        if run.step % 100 == 0:
            now = time.monotonic()
            track.log(
                stage=f"regression at {args.resolution} px",
                step=run.step,
                images_per_s=round(100 * args.batch / (now - last), 1),
                **{k: round(v, 4) for k, v in sums.items()},
            )
            sums, last = {}, now
        if run.step % 500 == 0 or run.step == args.steps:
            track.log(step=run.step, psnr_db=sheet.figures(run.folded(), held_z.to(device), held.to(device)))
            sheet.write(args.out / "sheet.png", run.folded(), sheet_z.to(device))
        if track.due:
            track.save(run.values())
    track.save(run.values())


if __name__ == "__main__":
    main()
