"""The embedded GANs N' Roses pair: python -m recipes.avatars.roses train --a DIR --b DIR ... --out DIR, then ship

Chong and Forsyth, arXiv 2106.06561: content is what moves when a picture is moved, style what does not. There it is learned
from unpaired pictures over days of GPU time. Here the pictures are rendered, so what a translation should be can be rendered
as well: the face of one picture in the colours of another, drawn in the other manner. Stage one regresses to that; the content
comes from a moved picture and must move with it, the style from another picture, and styles are kept standard normal, so that
a random one means something. Stage two adds the paper's losses: discriminators that see each picture in several styles at once
(their minibatch deviation asks for diversity), there and back, and a random style found again in what it made.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from anycost.networks.discriminators import Discriminator
from anycost.networks.gans_n_roses import GansNRoses
from anycost.networks.perceptual import PyramidDistance
from anycost.networks.stylegan2 import ModulatedConv2d, fir_kernel, rsqrt_plus
from recipes.avatars.data import Pictures
from recipes.avatars.losses import image_loss, psnr
from recipes.track import Track

SIZE, LATENT = 64, 8
SHAPE = {
    "size": SIZE,
    "num_down": 3,
    "latent_dim": LATENT,
    "n_mlp": 3,
    "n_res": 1,
    "channels": {64: 24, 32: 48, 16: 64, 8: 96, 4: 96},
    "style_dim": 128,
}
RATE, JUDGE_RATE = 5e-3, 2e-3
CYCLE, PERCEPTUAL, STYLE, FOUND, NORMAL = 2.0, 0.2, 1.0, 0.5, 4.0
FOOLING = 0.1
MEMORY = 16  # Batches whose styles are remembered.
R1_EVERY, R1_GAMMA = 16, 1.0
WAYS = ("a2b", "b2a")


@dataclass
class Pair:
    """Both directions, their averages, and a discriminator of each domain."""

    ways: nn.ModuleDict
    ema: nn.ModuleDict
    judges: nn.ModuleDict
    optimizer: torch.optim.Adam
    judge_optimizer: torch.optim.Adam
    step: int = 0
    recent: dict[str, list[Tensor]] = field(default_factory=lambda: {"a": [], "b": []})

    @classmethod
    def start(cls, shape: dict | None = None) -> Pair:
        torch.manual_seed(0)
        ways = nn.ModuleDict({way: GansNRoses(**(shape or SHAPE)) for way in WAYS})
        size = ways["a2b"].size
        # The judge of a domain is called after the way that leads there.
        judges = nn.ModuleDict({way: Discriminator(size, 0.0625, 96) for way in WAYS})
        lazy = R1_EVERY / (R1_EVERY + 1)
        return cls(
            ways=ways,
            ema=copy.deepcopy(ways).requires_grad_(False),
            judges=judges,
            optimizer=torch.optim.Adam(ways.parameters(), lr=RATE, betas=(0.5, 0.99)),
            judge_optimizer=torch.optim.Adam(judges.parameters(), lr=JUDGE_RATE * lazy, betas=(0.0, 0.99**lazy)),
        )

    def values(self) -> dict:
        parts = ("ways", "ema", "judges", "optimizer", "judge_optimizer")
        return {name: getattr(self, name).state_dict() for name in parts} | {
            "step": self.step,
            "recent": dict(self.recent),
        }

    def load(self, values: dict) -> None:
        for name in ("ways", "ema", "judges", "optimizer", "judge_optimizer"):
            getattr(self, name).load_state_dict(values[name])
        self.step, self.recent = values["step"], dict(values["recent"])

    def remembered(self, domain: str, styles: Tensor) -> Tensor:
        """These styles and those of the batches before, which say more about a distribution than a few can."""
        found = torch.cat([styles, *self.recent[domain]])
        self.recent[domain] = [styles.detach(), *self.recent[domain]][:MEMORY]
        return found

    @torch.no_grad()
    def average(self, decay: float) -> None:
        for kept, new in zip(self.ema.parameters(), self.ways.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)


def modulated(conv: ModulatedConv2d, x: Tensor, w: Tensor) -> Tensor:
    """A modulated convolution with static weights: exactly equal, and one convolution for the whole batch
    (``export/deploy.py`` says why); the grouped form is several times slower on a CPU."""
    style = conv.modulation(w)
    weight = conv.scale * conv.weight[0]
    x = x * style[:, :, None, None]
    if hasattr(conv, "blur"):
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        x = F.conv2d(x, conv.blur.kernel.expand(x.shape[1], 1, 4, 4), padding=1, groups=x.shape[1])
    else:
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    if not conv.demodulate:
        return x
    energy = style.square() @ weight.square().sum([2, 3]).T
    return x * rsqrt_plus(energy)[:, :, None, None]


def decode_pyramid(net: GansNRoses, content: Tensor, style: Tensor) -> list[Tensor]:
    """``GansNRoses.decode`` by ``modulated``, with the image so far at every resolution, the smallest first."""
    w = net.mapping(style)

    def styled(layer, x: Tensor) -> Tensor:
        return F.leaky_relu(modulated(layer.conv, x, w) + layer.activate.bias[:, None, None], 0.2) * sqrt(2)

    x = content
    for block in net.adain_bottleneck:
        x = (x + styled(block.conv2, styled(block.conv1, x))) / sqrt(2)
    x = styled(net.conv1, x)
    images = [modulated(net.to_rgb1.conv, x, w) + net.to_rgb1.bias]
    kernel = fir_kernel(4.0).expand(3, 1, 4, 4)
    for i, to_rgb in enumerate(net.to_rgbs):
        x = styled(net.convs[2 * i + 1], styled(net.convs[2 * i], x))
        before = F.conv_transpose2d(images[-1], kernel, stride=2, padding=1, groups=3)
        images.append(before + modulated(to_rgb.conv, x, w) + to_rgb.bias)
    return images


def decode(net: GansNRoses, content: Tensor, style: Tensor) -> Tensor:
    return decode_pyramid(net, content, style)[-1]


def moved(*images: Tensor) -> tuple[Tensor, ...]:
    """Each [N, 3, R, R], turned by up to 10 degrees, scaled by up to 10% and shifted by up to 6%: row i of all of them alike."""
    n = len(images[0])
    angle = (torch.rand(n) - 0.5) * math.radians(20)
    scale = 1 + (torch.rand(n) - 0.5) * 0.2
    shift = (torch.rand(n, 2) - 0.5) * 0.24
    cos, sin = angle.cos() * scale, angle.sin() * scale
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(theta, list(images[0].shape), align_corners=False)
    return tuple(F.grid_sample(x, grid, padding_mode="border", align_corners=False) for x in images)


@dataclass(frozen=True)
class Quartet:
    """Pictures [N, 3, R, R]: a and b, each of other people, and what translating them in each other's style should give."""

    a: Tensor
    b: Tensor
    a_as_b: Tensor
    b_as_a: Tensor

    def moved(self) -> Quartet:
        """The contents moved, and their translations with them."""
        a, a_as_b = moved(self.a, self.a_as_b)
        b, b_as_a = moved(self.b, self.b_as_a)
        return Quartet(a, b, a_as_b, b_as_a)


def normality(styles: Tensor) -> Tensor:
    """How far a batch of styles [N, latent_dim] is from mean 0, deviation 1 and no correlation; 0 for enough standard normal
    ones. Of deviations, not variances: at styles that are all alike the gradient of a variance is 0."""
    centred = styles - styles.mean(0)
    covariance = centred.T @ centred / len(styles)
    deviation = (covariance.diagonal() + 1e-8).sqrt()
    correlation = (covariance / deviation[:, None] / deviation).fill_diagonal_(0)
    return styles.mean(0).square().sum() + (deviation - 1).square().sum() + correlation.square().sum() / len(deviation)


def paired_losses(pair: Pair, still: Quartet) -> dict[str, Tensor]:
    """Stage one, of one batch. Every resolution is compared, not the largest alone: the small ones learn at once what goes
    where, and the others from there. That a style does not depend on where its picture is follows from the target, which
    moves with the content alone."""
    pictures = still.moved()
    ways = pair.ways
    with torch.autocast("cpu", dtype=torch.bfloat16):
        content_a, own_a = ways["a2b"].encode(pictures.a)
        content_b, own_b = ways["b2a"].encode(pictures.b)
        made = {
            "a2b": decode_pyramid(ways["a2b"], content_a, with_noise(own_b)),
            "b2a": decode_pyramid(ways["b2a"], content_b, with_noise(own_a)),
        }
    found = {
        "a2b": pyramid_loss(made["a2b"], pictures.a_as_b),
        "b2a": pyramid_loss(made["b2a"], pictures.b_as_a),
        "normal": normality(pair.remembered("a", own_a.float())) + normality(pair.remembered("b", own_b.float())),
    }
    found["total"] = found["a2b"] + found["b2a"] + NORMAL * found["normal"] / LATENT
    return found


def pyramid_loss(images: list[Tensor], target: Tensor) -> Tensor:
    """``image_loss`` at every resolution; the largest counts as much as all others together."""
    losses = [image_loss(image.float(), F.avg_pool2d(target, target.shape[-1] // image.shape[-1])) for image in images]
    return losses[-1] + sum(losses[:-1], torch.zeros(())) / max(1, len(losses) - 1)


def with_noise(style: Tensor) -> Tensor:
    """A little, so that neighbouring styles look alike and no style is an island."""
    return style + 0.1 * torch.randn_like(style)


def twice(x: Tensor) -> Tensor:
    """Two augmentations of each picture: [2 N, ...], the halves in the same order."""
    return torch.cat([*moved(x), *moved(x)])


def translate(pair: Pair, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """One pass there and back for both domains; every tensor in float32, named by what it is."""
    found: dict[str, Tensor] = {}
    ways = pair.ways
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for way, back, x in (("a2b", "b2a", a), ("b2a", "a2b", b)):
            content, own = ways[way].encode(x)
            # One random style a picture, the same for its two augmentations.
            z = torch.randn(len(x) // 2, LATENT).repeat(2, 1)
            made = decode(ways[way], content, z)
            content_back, style_back = ways[back].encode(made)
            # The style of the other augmentation: it is the same picture's.
            again = decode(ways[back], content_back, own.roll(len(x) // 2, 0))
            found |= {
                f"{way} own": own,
                f"{way} z": z,
                f"{way} made": made,
                f"{way} found": style_back,
                f"{way} again": again,
            }
    return {name: value.float() for name, value in found.items()}


def unpaired_losses(pair: Pair, distance: PyramidDistance, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Stage two, of a batch of two augmentations of each picture."""
    made = translate(pair, a, b)
    found = {name: torch.zeros(()) for name in ("cycle", "perceptual", "style", "found", "fooling")}
    for way, x in (("a2b", a), ("b2a", b)):
        found["cycle"] = found["cycle"] + F.l1_loss(made[f"{way} again"], x)
        found["perceptual"] = found["perceptual"] + distance(made[f"{way} again"], x).mean()
        first, second = made[f"{way} own"].chunk(2)
        found["style"] = found["style"] + (first - second).square().mean()
        found["found"] = found["found"] + (made[f"{way} found"] - made[f"{way} z"]).abs().mean()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = pair.judges[way](made[f"{way} made"])
        found["fooling"] = found["fooling"] + F.softplus(-logits.float()).mean()
    found["total"] = (
        CYCLE * found["cycle"]
        + PERCEPTUAL * found["perceptual"]
        + STYLE * found["style"]
        + FOUND * found["found"]
        + FOOLING * found["fooling"]
    )
    return found | {"a2b made": made["a2b made"], "b2a made": made["b2a made"]}


def judge_step(pair: Pair, real: dict[str, Tensor], made: dict[str, Tensor], regularise: bool) -> float:
    """One step of both discriminators. real, made: by way, pictures of the domain it leads to."""
    total = torch.zeros(())
    for way in WAYS:
        judge = pair.judges[way]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = judge(real[way]), judge(made[way].detach())
        total = total + F.softplus(-logits[0].float()).mean() + F.softplus(logits[1].float()).mean()
    loss = total.item()
    if regularise:
        for way in WAYS:
            x = real[way].detach().requires_grad_()
            (gradient,) = torch.autograd.grad(pair.judges[way](x).sum(), x, create_graph=True)
            total = total + R1_GAMMA / 2 * R1_EVERY * gradient.square().sum([1, 2, 3]).mean()
    pair.judge_optimizer.zero_grad()
    total.backward()
    pair.judge_optimizer.step()
    return loss


def step(pair: Pair, distance: PyramidDistance, pictures: Quartet, adversarial: bool) -> dict[str, float]:
    """One step of stage one, or of both stages together, on a batch of an even number of pictures."""
    found = paired_losses(pair, pictures)
    total = found["total"]
    real: dict[str, Tensor] = {}
    if adversarial:
        half = len(pictures.a) // 2
        real = {"a2b": twice(pictures.b[:half]), "b2a": twice(pictures.a[:half])}
        more = unpaired_losses(pair, distance, real["b2a"], real["a2b"])
        total = total + more.pop("total")
        made = {way: more.pop(f"{way} made") for way in WAYS}
        found |= more
    pair.optimizer.zero_grad()
    total.backward()
    pair.optimizer.step()
    losses = {name: value.item() for name, value in found.items()}
    if adversarial:
        losses["judging"] = judge_step(pair, real, made, pair.step % R1_EVERY == 0)
    pair.step += 1
    pair.average(min(0.997, (1 + pair.step) / (10 + pair.step)))
    return losses


@torch.no_grad()
def figures(ways: nn.ModuleDict, held: Quartet) -> dict[str, float]:
    """On held-out pictures: PSNR in dB to the rendered translation, and of there and back; how far a random style is found
    again (mean absolute, of values that are standard normal); the mean pyramid distance of two translations of one picture."""
    generator, distance = torch.Generator().manual_seed(3), PyramidDistance()
    found = {}
    sides = (("a2b", "b2a", held.a, held.b, held.a_as_b), ("b2a", "a2b", held.b, held.a, held.b_as_a))
    for way, back, x, other, expected in sides:
        content, own = ways[way].encode(x)
        _, theirs = ways[back].encode(other)
        found[f"{way}_psnr_db"] = psnr(decode(ways[way], content, theirs), expected)
        z = torch.randn(2, len(x), LATENT, generator=generator)
        first, second = (decode(ways[way], content, some).clamp(-1, 1) for some in z)
        content_back, style_back = ways[back].encode(first)
        found[f"{way}_cycle_psnr_db"] = psnr(decode(ways[back], content_back, own), x)
        found[f"{way}_style_error"] = float((style_back - z[0]).abs().mean())
        found[f"{way}_diversity"] = float(distance(first, second).mean())
    return {name: round(value, 3) for name, value in found.items()}


@torch.no_grad()
def sheet(path: Path, ways: nn.ModuleDict, a: Tensor, b: Tensor) -> None:
    """For each way: pictures, three random styles (one a row), and the style of one reference (first in its row)."""
    strips = []
    for way, back, x, other in (("a2b", "b2a", a, b), ("b2a", "a2b", b, a)):
        content, _ = ways[way].encode(x)
        z = torch.randn(3, LATENT, generator=torch.Generator().manual_seed(5))
        rows = [torch.cat([torch.ones_like(x[:1]), x])]
        rows += [torch.cat([torch.ones_like(x[:1]), decode(ways[way], content, some.expand(len(x), -1))]) for some in z]
        _, reference = ways[back].encode(other[:1])
        rows.append(torch.cat([other[:1], decode(ways[way], content, reference.expand(len(x), -1))]))
        strips += [torch.cat(list(row), dim=2) for row in rows]
    pixels = torch.cat(strips, dim=1).clamp(-1, 1).add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path, optimize=True)


@dataclass(frozen=True)
class Data:
    """The four folders that belong together: row i of each is of the same two people."""

    a: Pictures
    b: Pictures
    a_as_b: Pictures
    b_as_a: Pictures

    @classmethod
    def load(cls, args: argparse.Namespace, part: str) -> Data:
        return cls(*(Pictures.load([folder], part) for folder in (args.a, args.b, args.a_as_b, args.b_as_a)))

    def __len__(self) -> int:
        return min(len(pictures) for pictures in (self.a, self.b, self.a_as_b, self.b_as_a))

    def batch(self, rows: np.ndarray) -> Quartet:
        return Quartet(*(x.batch(rows, SIZE)[0] for x in (self.a, self.b, self.a_as_b, self.b_as_a)))


def train(args: argparse.Namespace) -> None:
    pair, distance = Pair.start(), PyramidDistance()
    data, held = Data.load(args, "train"), Data.load(args, "validation")
    held_out = held.batch(np.arange(min(64, len(held))))
    track = Track(args.out, args.minutes)
    values = track.load()
    if values:
        pair.load(values)
    torch.manual_seed(pair.step)
    rng = np.random.default_rng(pair.step)
    last, sums = time.monotonic(), {}
    while pair.step < args.steps and not track.expired:
        rate = min(1.0, (pair.step + 1) / 50) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * pair.step / args.steps)))
        for optimizer, most in ((pair.optimizer, RATE), (pair.judge_optimizer, JUDGE_RATE)):
            for group in optimizer.param_groups:
                group["lr"] = most * rate
        pictures = data.batch(rng.integers(0, len(data), args.batch))
        for name, value in step(pair, distance, pictures, pair.step >= args.paired_steps).items():
            sums[name] = sums.get(name, 0.0) + value / 50
        if pair.step % 50 == 0:
            now = time.monotonic()
            track.log(
                stage="translation",
                step=pair.step,
                images_per_s=round(50 * args.batch / (now - last), 1),
                **{name: round(value, 3) for name, value in sums.items()},
            )
            last, sums = now, {}
        if pair.step % 500 == 0 or pair.step == args.steps:
            track.log(step=pair.step, **figures(pair.ema, held_out))
            sheet(args.out / "sheet.png", pair.ema, held_out.a[:8], held_out.b[:8])
            last = time.monotonic()
        if track.due:
            track.save(pair.values())
    track.save(pair.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("train", "ship"))
    parser.add_argument("--a", type=Path, required=True, help="folder of one style, written by render.mjs")
    parser.add_argument("--b", type=Path, required=True, help="folder of the other style, of another seed")
    parser.add_argument("--a-as-b", type=Path, required=True, help="a's people in b's style and b's colours")
    parser.add_argument("--b-as-a", type=Path, required=True, help="b's people in a's style and a's colours")
    parser.add_argument("--out", type=Path, required=True, help="resumed when it has a checkpoint")
    parser.add_argument("--steps", type=int, default=24000)
    parser.add_argument("--paired-steps", type=int, default=23000, help="steps before stage two joins")
    parser.add_argument("--batch", type=int, default=8, help="pictures of each style")
    parser.add_argument("--minutes", type=float, default=math.inf)
    args = parser.parse_args()
    if args.do == "train":
        train(args)
    else:
        from recipes.avatars.roses_ship import ship

        ship(args)


if __name__ == "__main__":
    main()
