"""Sharpen a trained avatar generator: python -m recipes.avatars.adversarial --run DIR --data DIR [DIR ...] --out DIR

As Anycost GAN is trained (arXiv 2103.03243): one discriminator for every resolution of the grid, conditioned on the
architecture vector of the sub-network that made the picture; every step samples a resolution and a channel ratio; the sampled
sub-network is distilled from the full one. Non-saturating logistic loss, lazy R1 (StyleGAN2, arXiv 1912.04958, appendix B) and
an exponential average. The regression loss of train.py stays, so that a z keeps its picture.

Path length is regularised in a cheap form: StyleGAN2 takes the norm of J^T y, which needs a second derivative; here it is the
norm of (G(w + e u) - G(w)) / e for a random unit u, at 32 px, which has the same mean square up to a constant.

Stops and resumes at any moment; runs on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anycost.networks.channels import RATIOS
from anycost.networks.discriminators import MultiResolutionDiscriminator, architecture_vector
from recipes.avatars import sheet
from recipes.avatars.data import Blocks, Pictures, pyramid
from recipes.avatars.losses import image_loss
from recipes.avatars.state import CHANNEL_MAX, MULTIPLIER, STYLE_DIM, Run
from recipes.avatars.train import HELD_OUT, HERE, answers
from recipes.track import Track

GENERATOR_RATE, DISCRIMINATOR_RATE = 1e-3, 3e-3
# The discriminator learns alone first: an untrained one would only add noise to a generator that already draws.
WARM_UP = 300
R1_EVERY, R1_GAMMA = 16, 0.05
PATH_EVERY, PATH_STEP, PATH_SIDE, PATH_WEIGHT, PATH_DECAY = 16, 0.05, 32, 0.1, 0.01
# Of the adversarial loss; the regression loss has weight 1 for each of the four resolutions.
ADVERSARIAL = 0.1
DISTILLATION = 0.5
# How often each resolution is the one that the discriminator sees, the highest first.
SHARES = (0.5, 0.3, 0.15, 0.05)


class Adversary:
    """The discriminator, its optimizer and what the regularisers carry on."""

    def __init__(self, run: Run, device: torch.device):
        torch.manual_seed(1)
        self.sides = sheet.sides_of(run.generator)
        self.network = MultiResolutionDiscriminator(
            run.resolution, MULTIPLIER, CHANNEL_MAX // 2, n_res=len(self.sides), modulate=True
        ).to(device)
        # Lazy regularisation: rate and betas to the power of k / (k + 1), as in StyleGAN2.
        lazy = R1_EVERY / (R1_EVERY + 1)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=DISCRIMINATOR_RATE * lazy, betas=(0.0, 0.99**lazy)
        )
        self.path_mean = torch.zeros((), device=device)
        arch = run.generator.arch
        self.g_arch = {
            ratio: architecture_vector(arch, arch.subnet(arch.resolution, ratio)).to(device) for ratio in RATIOS
        }

    def logits(self, images: Tensor, ratio: float) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            return self.network(images, self.g_arch[ratio]).float()

    def step(self, real: Tensor, fake: Tensor, ratio: float) -> float:
        """One logistic step on pictures and generated images of one side."""
        loss = F.softplus(-self.logits(real, ratio)).mean() + F.softplus(self.logits(fake, ratio)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def regularise(self, real: Tensor, ratio: float) -> float:
        """Lazy R1: gamma / 2 |grad D(x)|^2 on pictures, times how seldom it runs; float32, for its second derivative."""
        real = real.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.network(real, self.g_arch[ratio]).sum(), real, create_graph=True)
        penalty = gradient.square().sum([1, 2, 3]).mean()
        self.optimizer.zero_grad()
        (R1_GAMMA / 2 * R1_EVERY * penalty).backward()
        self.optimizer.step()
        return penalty.item()

    def values(self) -> dict[str, object]:
        return {
            "discriminator": self.network.state_dict(),
            "discriminator_optimizer": self.optimizer.state_dict(),
            "path_mean": self.path_mean,
        }

    def load(self, values: dict) -> None:
        self.network.load_state_dict(values["discriminator"])
        self.optimizer.load_state_dict(values["discriminator_optimizer"])
        self.path_mean = values["path_mean"].to(self.path_mean.device)


def generator_step(
    run: Run, adversary: Adversary, z: Tensor, pictures: Tensor, narrow: float, side: int, judged: float
) -> dict[str, float]:
    """One step of the full network and of the sub-network of ratio ``narrow``; the discriminator sees the one of ratio
    ``judged`` (one of the two) at ``side`` px. A ``side`` of 0 leaves the discriminator out."""
    sides = adversary.sides
    targets = pyramid(pictures, sides)
    w_plus = run.styles(z)
    images = {1.0: answers(run, w_plus, 1.0), narrow: answers(run, w_plus, narrow)}
    found = {
        "full": sum(image_loss(images[1.0][s], targets[s]) for s in sides),
        "narrow": sum(image_loss(images[narrow][s], targets[s]) for s in sides),
        "distilled": sum(image_loss(images[narrow][s], images[1.0][s].detach()) for s in sides),
    }
    # The narrow one follows the full one more than the pictures: what makes the full one sharp is not in the pictures alone.
    total = found["full"] + 0.5 * found["narrow"] + 2 * DISTILLATION * found["distilled"]
    if side:
        found["fooling"] = F.softplus(-adversary.logits(images[judged][side], judged)).mean()
        total = total + ADVERSARIAL * len(sides) * found["fooling"]
    run.optimizer.zero_grad()
    total.backward()
    run.optimizer.step()
    return {name: value.item() for name, value in found.items()}


def path_step(run: Run, adversary: Adversary, z: Tensor) -> float:
    """One step on the spread of path lengths around their running mean; returns the mean length."""
    w_plus = run.styles(z)
    offset = F.normalize(torch.randn(len(z), STYLE_DIM, device=z.device), dim=1) * PATH_STEP
    # The same noise for both, or the difference would be that of the noise.
    state = torch.get_rng_state()
    here = answers(run, w_plus, 1.0)[PATH_SIDE]
    torch.set_rng_state(state)
    there = answers(run, w_plus + offset[:, None], 1.0)[PATH_SIDE]
    lengths = (there - here).square().sum([1, 2, 3]).add(1e-8).sqrt() / PATH_STEP / PATH_SIDE
    mean = lengths.mean().detach()
    adversary.path_mean = mean if adversary.path_mean == 0 else adversary.path_mean.lerp(mean, PATH_DECAY)
    run.optimizer.zero_grad()
    (PATH_WEIGHT * PATH_EVERY * (lengths - adversary.path_mean).square().mean()).backward()
    run.optimizer.step()
    return mean.item()


def edge_energy(images: Tensor) -> float:
    """Mean |difference| of neighbours: what softness loses."""
    return float((images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the finished regression")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders written by render.mjs")
    parser.add_argument("--out", type=Path, required=True, help="resumed when it has a checkpoint")
    parser.add_argument("--resolution", type=int, default=128, help="of the full network")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop, with a checkpoint, after this long")
    args = parser.parse_args()
    if args.batch % 4:
        raise SystemExit(f"--batch {args.batch} is not a multiple of 4, the discriminator's groups")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    blocks = Blocks.load(HERE / "attributes.json")
    pictures = Pictures.load(args.data)
    held_pictures = Pictures.load(args.data[:1], "validation")
    track = Track(args.out, args.minutes)
    run = Run.start(device, args.resolution)
    adversary = Adversary(run, device)
    values = track.load()
    if values:
        run.load(track.checkpoint)
        adversary.load(values)
    else:
        run.load(args.run / "checkpoint.pt")
        # What ships of the regression is its average, so that is what goes on.
        run.generator.load_state_dict(copy.deepcopy(run.ema.state_dict()))
        run.optimizer.state.clear()
        run.step = 0

    side = min(args.resolution, pictures.side)
    held, held_labels = held_pictures.batch(np.arange(min(HELD_OUT, len(held_pictures))), side)
    held, held_z = (
        held.to(device),
        blocks.latents_for(held_labels, STYLE_DIM, torch.Generator().manual_seed(7)).to(device),
    )
    sheet_z = torch.randn(8, STYLE_DIM, generator=torch.Generator().manual_seed(0)).to(device)

    def figures() -> None:
        folded = run.folded()
        with torch.no_grad():
            generated = sheet.images_of(folded, held_z[:64])[f"1@{args.resolution}"]
        track.log(
            step=run.step,
            psnr_db=sheet.figures(folded, held_z, held),
            edges=round(edge_energy(generated) / edge_energy(held[:64]), 3),
        )
        sheet.write(args.out / "sheet.png", folded, sheet_z)

    if not values:
        figures()
    rng = np.random.default_rng(run.step)
    last = time.monotonic()
    sums: dict[str, list[float]] = {}

    def add(found: dict[str, float]) -> None:
        for name, value in found.items():
            sums.setdefault(name, []).append(value)

    while run.step < args.steps and not track.expired:
        progress = run.step / args.steps
        run.rate(GENERATOR_RATE * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * progress))))
        shown = int(rng.choice(sorted(adversary.sides, reverse=True), p=SHARES))
        narrow = float(rng.choice(RATIOS[:-1]))
        # The discriminator judges the full network as often as the sub-networks together.
        judged = narrow if rng.random() < 0.5 else 1.0
        x, labels = pictures.batch(rng.integers(0, len(pictures), args.batch), side)
        z = blocks.latents_for(labels, STYLE_DIM).to(device)
        x = x.to(device)
        with torch.no_grad():
            fake = answers(run, run.styles(z), judged)[shown]
        # Other pictures than the fakes belong to, so that realism is judged and not the pairing.
        real, _ = pictures.batch(rng.integers(0, len(pictures), args.batch), shown)
        real = real.to(device)
        add({"discriminating": adversary.step(real, fake, judged)})
        if run.step % R1_EVERY == 0:
            add({"r1": adversary.regularise(real, judged)})
        if run.step >= WARM_UP:
            add(generator_step(run, adversary, z, x, narrow, shown, judged))
            if run.step % PATH_EVERY == 0:
                add({"path": path_step(run, adversary, z[: len(z) // 2])})
            run.average(min(0.998, (1 + run.step) / (10 + run.step)))
        run.step += 1
        run.images += args.batch
        if run.step % 50 == 0:
            now = time.monotonic()
            track.log(
                stage="adversarial",
                step=run.step,
                images_per_s=round(50 * args.batch / (now - last), 1),
                **{name: round(float(np.mean(v)), 4) for name, v in sums.items()},
            )
            last = now
            sums.clear()
        if run.step % 250 == 0 or run.step == args.steps:
            figures()
            last = time.monotonic()
        if track.due:
            track.save(run.values() | adversary.values())
    track.save(run.values() | adversary.values())


if __name__ == "__main__":
    main()
