"""Train the elastic avatar generator: python -m recipes.avatars.train --data DIR [DIR ...] --out DIR

Stage 1 builds the mapping network: w holds nearly one-hot attributes of z (winner.py). Nothing is trained in it.
Stage 2 is regression to the rendered picture of each z. Every step runs the full network and one narrower sub-network;
both answer at 16, 32 and 64 px in one pass (multi-resolution), the narrower one also against the full one's answer
(distillation). Anycost GAN (arXiv 2103.03243) samples its sub-networks the same way; what differs is that no
discriminator is needed to begin with, because the picture that belongs to a z is known.

Stops and resumes at any moment; runs on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import json
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
from recipes.avatars.losses import attribute_accuracy, image_loss
from recipes.avatars.state import STYLE_DIM, Run

HERE = Path(__file__).parent
HELD_OUT = 512
BASE_RATE = 5e-3
# The full network alone learns the pictures first; the narrower ones then follow it.
FULL_ALONE = 0.6


def start_mapping(run: Run, blocks: Blocks, device: torch.device, log) -> None:
    """Stage 1: build the mapping and measure its styles."""
    winner.build(run.generator, blocks)
    run.ema.load_state_dict(run.generator.state_dict())
    run.measure_styles()
    z = torch.randn(20_000, STYLE_DIM, device=device)
    with torch.no_grad():
        scores = run.generator.mapping(z)
    log(stage=1, accuracy=round(attribute_accuracy(scores, blocks.labels_of(z), blocks), 4))


def train_step(run: Run, z: torch.Tensor, pictures: torch.Tensor, narrow: float | None) -> dict[str, float]:
    """Stage 2: one step on a batch, with a narrower sub-network of ratio ``narrow`` or without; returns its losses."""
    generator = run.generator
    arch = generator.arch
    device = z.device
    targets = pyramid(pictures, sheet.SIDES)
    state = dict(generator.named_parameters())
    kernel = fir_kernel(4.0)[None, None].to(device)
    # The mapping stays as stage 1 built it.
    w_plus = run.styles(z)
    found: dict[str, torch.Tensor] = {}
    total = torch.zeros((), device=device)
    teacher: dict[int, torch.Tensor] = {}
    for ratio in (1.0, narrow) if narrow else (1.0,):
        net = generator.subnet(arch.resolution, ratio)
        tensors = bind(synthesis_bindings(arch, net), state)
        tensors["input"] = tensors["input"].to(memory_format=torch.channels_last)
        noise = generator.noise("random", net, len(z))
        # bfloat16 convolutions are twice as fast here, and the weights they update stay float32.
        with torch.autocast(device.type, dtype=torch.bfloat16):
            images = static_synthesis(net, tensors, w_plus, noise, kernel)
        answers = {image.shape[-1]: image.float() for image in images if image.shape[-1] in sheet.SIDES}
        name = "full" if ratio == 1 else "narrow"
        found[name] = sum(image_loss(answers[side], targets[side]) for side in sheet.SIDES)
        total = total + found[name]
        if ratio == 1:
            teacher = {side: image.detach() for side, image in answers.items()}
        else:
            found["distilled"] = sum(image_loss(answers[side], teacher[side]) for side in sheet.SIDES)
            total = total + 0.5 * found["distilled"]
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
    parser.add_argument("--steps", type=int, default=20_000, help="steps of stage 2 (the learning rate ends with them)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop, with a checkpoint, after this long")
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    blocks = Blocks.load(HERE / "attributes.json")
    pictures = Pictures.load(args.data)
    if len(pictures) < HELD_OUT + args.batch:
        raise SystemExit(f"train: {len(pictures)} pictures are too few: render at least {HELD_OUT + args.batch}")
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint, log_file = args.out / "checkpoint.pt", args.out / "log.jsonl"

    def log(**values) -> None:
        line = json.dumps(values)
        print(line, flush=True)
        with log_file.open("a") as file:
            file.write(line + "\n")

    run = Run.start(device)
    if checkpoint.exists():
        run.load(checkpoint)
    else:
        start_mapping(run, blocks, device, log)
        run.save(checkpoint)

    held_rows = np.arange(len(pictures) - HELD_OUT, len(pictures))
    held, held_labels = pictures.batch(held_rows)
    held_z = blocks.latents_for(held_labels, STYLE_DIM, torch.Generator().manual_seed(7))
    sheet_z = torch.randn(12, STYLE_DIM, generator=torch.Generator().manual_seed(0))
    np.random.seed(run.step)
    started = last = saved = time.monotonic()
    sums: dict[str, float] = {}
    while run.step < args.steps and time.monotonic() - started < args.minutes * 60:
        run.rate(learning_rate(run.step, args.steps))
        x, labels = pictures.batch(np.random.randint(0, len(pictures) - HELD_OUT, args.batch))
        z = blocks.latents_for(labels, STYLE_DIM)
        narrow = float(np.random.choice(RATIOS[:-1])) if run.step > FULL_ALONE * args.steps else None
        losses = train_step(run, z.to(device), x.to(device), narrow)
        run.step += 1
        run.images += args.batch
        run.average(min(0.999, (1 + run.step) / (10 + run.step)))
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value / 100
        if run.step % 100 == 0:
            now = time.monotonic()
            log(
                stage=2,
                step=run.step,
                images_per_s=round(100 * args.batch / (now - last), 1),
                **{k: round(v, 4) for k, v in sums.items()},
            )
            sums, last = {}, now
        if run.step % 500 == 0 or run.step == args.steps:
            log(stage=2, step=run.step, psnr_db=sheet.figures(run.folded(), held_z.to(device), held.to(device)))
            sheet.write(args.out / "sheet.png", run.folded(), sheet_z.to(device))
        if time.monotonic() - saved > 180:
            run.save(checkpoint)
            saved = time.monotonic()
    run.save(checkpoint)


if __name__ == "__main__":
    main()
