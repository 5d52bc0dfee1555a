"""Train a digit generator: python -m recipes.digits.gans dcgan|mlp --data DIR --out DIR

Two networks, one loss: the discriminator's cross entropy, and for the generator the form that does not saturate
(arXiv 1406.2661). ``dcgan`` is the convolutional pair of arXiv 1511.06434 on digits enlarged to 64 px, with its
initialisation and momentum; ``mlp`` is the pair of linear layers at 28 px. What is shown and shipped is the running average of
the generator's weights with batch-norm statistics measured for that average.

Every step draws from a stream of its own, so that a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from anycost.networks.dcgan import Dcgan
from anycost.networks.digits import SIDE, MlpGan
from recipes.digits import judge as judges
from recipes.digits.data import Digits
from recipes.track import Track

FEATURES = 24
SETTLING = 20  # Batches of 250 that batch-norm statistics are measured on.


class ConvDiscriminator(nn.Module):
    """image [N, 1, 64, 64] -> logit [N]: the mirror of DCGAN's generator."""

    def __init__(self, features: int = FEATURES):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, features, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for width in (features, 2 * features, 4 * features):
            layers += [nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*layers, nn.Conv2d(8 * features, 1, 4, bias=False))

    def forward(self, image: Tensor) -> Tensor:
        return self.main(image).flatten()


class LinearDiscriminator(nn.Module):
    """image [N, 1, 28, 28] -> logit [N]. Dropout, because a few thousand digits are soon known by heart."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for entering, leaving in ((784, 512), (512, 256)):
            layers += [nn.Linear(entering, leaving), nn.LeakyReLU(0.2), nn.Dropout(0.3)]
        self.model = nn.Sequential(*layers, nn.Linear(256, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image).flatten()


@dataclass(frozen=True)
class Setting:
    """How one kind is trained. network: its kind in the registry. rates: of generator and discriminator at the start.

    noise: deviation of what is added to every image that the discriminator sees, at the start. Without it a convolutional
    discriminator tells exact background from nearly exact background within a hundred steps, and the generator learns no more.
    """

    network: str
    arguments: dict[str, Any]
    generator: Callable[..., nn.Module]
    discriminator: Callable[[], nn.Module]
    side: int
    batch: int
    steps: int
    rates: tuple[float, float]
    noise: float
    averaging: float


SETTINGS = {
    "dcgan": Setting(
        "dcgan",
        {"nz": 100, "features": FEATURES, "channels": 1},
        Dcgan,
        ConvDiscriminator,
        side=64,
        batch=64,
        steps=3600,
        rates=(3e-4, 1e-4),
        noise=0.3,
        averaging=0.995,
    ),
    "mlp": Setting(
        "mlp-gan",
        {"nz": 100},
        MlpGan,
        LinearDiscriminator,
        side=28,
        batch=128,
        steps=12000,
        rates=(2e-4, 2e-4),
        noise=0.0,
        averaging=0.998,
    ),
}


class Run:
    """Networks, the running average, optimizers and the number of steps taken."""

    def __init__(self, setting: Setting):
        torch.manual_seed(0)
        self.setting, self.step, self.noise = setting, 0, setting.noise
        self.generator = setting.generator(**setting.arguments)
        self.discriminator = setting.discriminator()
        for network in (self.generator, self.discriminator):
            network.apply(_start).to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.generator).requires_grad_(False)
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=rate, betas=(0.5, 0.999))
            for network, rate in zip((self.generator, self.discriminator), setting.rates, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        networks = {"generator": self.generator, "discriminator": self.discriminator, "ema": self.ema}
        found: dict[str, Any] = {name: network.state_dict() for name, network in networks.items()}
        return found | {"optimizers": [o.state_dict() for o in self.optimizers], "step": self.step}

    def load(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.ema.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]

    def pace(self, progress: float) -> None:
        """For progress 0..1: rates constant for the first half, then falling to a twentieth; noise falling to nothing."""
        self.noise = (1 - progress) * self.setting.noise
        factor = min(1.0, max(0.05, 2 - 2 * progress))
        for optimizer, rate in zip(self.optimizers, self.setting.rates, strict=True):
            optimizer.param_groups[0]["lr"] = factor * rate

    def train_step(self, digits: Digits) -> dict[str, float]:
        """One step of the discriminator and one of the generator; returns their losses."""
        torch.manual_seed(self.step + 1)
        batch = min(self.setting.batch, len(digits))
        real = digits.images[torch.randperm(len(digits))[:batch]]
        z = torch.randn(2, batch, self.setting.arguments["nz"])
        for_generator, for_discriminator = self.optimizers
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fake = self.generator(z[0])
        fake = fake.float()
        loss_d = F.softplus(-self.judged(real)).mean() + F.softplus(self.judged(fake.detach())).mean()
        for_discriminator.zero_grad()
        loss_d.backward()
        for_discriminator.step()
        self.discriminator.requires_grad_(False)
        loss_g = F.softplus(-self.judged(fake)).mean()
        for_generator.zero_grad()
        loss_g.backward()
        for_generator.step()
        self.discriminator.requires_grad_(True)
        self.step += 1
        keep = min(self.setting.averaging, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.ema.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(value.detach(), 1 - keep)
        return {"d": loss_d.item(), "g": loss_g.item()}

    def judged(self, image: Tensor) -> Tensor:
        """The discriminator's logits of noisy images, float32."""
        if self.noise:
            image = image + self.noise * torch.randn_like(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.discriminator(image).float()

    def settled(self) -> nn.Module:
        """The average of the weights, in evaluation mode, with batch-norm statistics of its own."""
        network = copy.deepcopy(self.ema).train()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = None  # A plain mean over all the batches that follow.
        draws = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for _ in range(SETTLING):
                network(torch.randn(250, self.setting.arguments["nz"], generator=draws))
        return network.eval()


def _start(layer: nn.Module) -> None:
    """DCGAN's initialisation of what is convolved; linear layers keep PyTorch's."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)


@torch.no_grad()
def samples(network: nn.Module, count: int, nz: int, seed: int = 0) -> Tensor:
    """count images of standard normal z, the same for the same seed."""
    z = torch.randn(count, nz, generator=torch.Generator().manual_seed(seed))
    return torch.cat([network(part) for part in z.split(250)])


def write_sheet(path: Path, images: Tensor, columns: int = 16) -> None:
    """As many of images [N, 1, S, S] in [-1, 1] as make whole rows; those of 28 px at twice their size."""
    pixels = images[: len(images) // columns * columns].clamp(-1, 1).add(1).mul(127.5).round().byte()[:, 0]
    if pixels.shape[-1] == SIDE:
        pixels = pixels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    side = pixels.shape[-1]
    sheet = pixels.reshape(-1, columns, side, side).permute(0, 2, 1, 3).reshape(-1, columns * side)
    Image.fromarray(sheet.numpy()).save(path, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(SETTINGS))
    parser.add_argument("--data", type=Path, required=True, help="folder written by export.mjs")
    parser.add_argument(
        "--out", type=Path, required=True, help="checkpoint, log and sheet; resumed when it has a checkpoint"
    )
    parser.add_argument("--steps", type=int, help="the learning rate falls towards their end")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop, with a checkpoint, after this long")
    args = parser.parse_args(arguments)
    setting = SETTINGS[args.kind]
    steps = args.steps or setting.steps
    digits = Digits.load(args.data, side=setting.side)
    held_out = Digits.load(args.data, "validation", setting.side)
    judge = judges.trained(args.data)
    track = Track(args.out, args.minutes, seconds=60)
    run = Run(setting)
    if saved := track.load():
        run.load(saved)

    def report() -> None:
        made = samples(run.settled(), len(held_out), setting.arguments["nz"])
        track.log(step=run.step, **judges.figures(judge, made, held_out.images))
        write_sheet(args.out / "sheet.png", made[:128])

    sums = {"d": 0.0, "g": 0.0}
    reported = last = time.monotonic()
    while run.step < steps and not track.expired:
        run.pace(run.step / steps)
        for name, value in run.train_step(digits).items():
            sums[name] += value / 100
        if run.step % 100 == 0:
            now = time.monotonic()
            track.log(step=run.step, ms_a_step=round(10 * (now - last), 1), **{k: round(v, 3) for k, v in sums.items()})
            sums, last = {"d": 0.0, "g": 0.0}, now
        if track.due:
            track.save(run.state())
        if time.monotonic() - reported > 60:
            report()
            reported = last = time.monotonic()
    track.save(run.state())
    report()


if __name__ == "__main__":
    main()
