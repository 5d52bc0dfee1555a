"""The embedded W+ encoder: python -m recipes.avatars.encoder train --model FILE --data DIR [DIR ...] --out DIR, then ship

As Anycost GAN's encoder (arXiv 2103.03243, section 3.3): squared error and a perceptual distance between a picture and what the
generator makes of its code, over the full network and a sampled sub-network, so that one code serves all of them. The
perceptual distance is the pyramid distance (``networks/perceptual.py``), which needs no weights. Rendered and generated
pictures are mixed, and for both a w is known, which anchors the code where the generator was trained.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anycost.export.deploy import bind, noise_bindings, static_synthesis, synthesis_bindings
from anycost.networks.channels import RATIOS, Subnet
from anycost.networks.perceptual import PyramidDistance
from anycost.networks.resnet import Encoder
from anycost.networks.stylegan2 import Generator, fir_kernel
from anycost.weights.checkpoint import read, read_any
from recipes.avatars.attributes import STAGES
from recipes.avatars.data import Blocks, Pictures, pyramid
from recipes.avatars.losses import psnr
from recipes.avatars.sheet import sides_of
from recipes.avatars.ship import EMBEDDED
from recipes.avatars.train import HERE
from recipes.track import Track

SIZE, RATE, DECAY = 128, 5e-4, 1e-4
FITTED, RIDGE = 6000, 1e-2  # pictures that the first last layer is fitted on, and how strongly it is kept small
CODE, PERCEPTUAL = 1.0, 0.5
GENERATED = 0.25  # share of generated pictures in a batch


class Answers:
    """A frozen generator in its static form: what every ratio makes of w+, at every resolution of the grid, stored noise."""

    def __init__(self, generator: Generator):
        self.arch = generator.arch
        self.sides = sides_of(generator)
        self._kernel = fir_kernel(4.0)[None, None]
        state = generator.state_dict()
        self._nets: dict[float, Subnet] = {ratio: self.arch.subnet(self.arch.resolution, ratio) for ratio in RATIOS}
        self._tensors = {
            ratio: bind(synthesis_bindings(self.arch, net) | noise_bindings(net), state)
            for ratio, net in self._nets.items()
        }
        for tensors in self._tensors.values():
            tensors["input"] = tensors["input"].to(memory_format=torch.channels_last)

    def __call__(self, w_plus: Tensor, ratio: float) -> dict[int, Tensor]:
        """w+ [N, n_style, style_dim] -> images [N, 3, side, side] by side."""
        images = static_synthesis(self._nets[ratio], self._tensors[ratio], w_plus, None, self._kernel)
        return {image.shape[-1]: image for image in images if image.shape[-1] in self.sides}


def losses(
    encoder: Encoder, answers: Answers, distance: PyramidDistance, x: Tensor, w: Tensor, ratio: float
) -> dict[str, Tensor]:
    """Of one batch of pictures [N, 3, size, size] and the w [N, style_dim] that belong to them."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        w_plus = encoder(with_noise(x)).float()
    full, narrow = answers(w_plus, 1.0), answers(w_plus, ratio)
    targets = pyramid(x, answers.sides)
    top = answers.sides[-1]
    found = {
        "squared": F.mse_loss(full[top], targets[top]),
        "narrow": sum(F.mse_loss(narrow[side], targets[side]) for side in answers.sides) / len(answers.sides),
        "perceptual": distance(full[top], targets[top]).mean() + distance(narrow[top // 2], targets[top // 2]).mean(),
        "code": F.mse_loss(w_plus, w[:, None].expand_as(w_plus)) * w.shape[1] / 10,
    }
    found["total"] = found["squared"] + found["narrow"] + PERCEPTUAL * found["perceptual"] / 2 + CODE * found["code"]
    return found


def shown(images: dict[int, Tensor]) -> Tensor:
    """The largest of ``Answers``, as the encoder sees it: a generator of another resolution is enlarged or reduced."""
    image = images[max(images)]
    if image.shape[-1] == SIZE:
        return image
    return F.interpolate(image, (SIZE, SIZE), mode="bilinear", antialias=True)


def with_noise(x: Tensor) -> Tensor:
    """As pictures come: a little noise, for the network never sees one that was not rendered here."""
    return x + 0.02 * torch.randn_like(x)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(0)
    generator = read(args.model).generator()
    answers, distance = Answers(generator), PyramidDistance()
    blocks, pictures = Blocks.load(HERE / "attributes.json"), Pictures.load(args.data)
    held = Pictures.load(args.data[:1], "validation")
    dim = generator.arch.style_dim
    encoder = Encoder(generator.arch.n_style, dim, STAGES, SIZE).to(memory_format=torch.channels_last)
    encoder.mean_latent.copy_(generator.mean_style()[0])
    ema = copy.deepcopy(encoder)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=RATE, weight_decay=DECAY)
    track = Track(args.out, args.minutes)
    step = 0
    values = track.load()
    if values:
        encoder.load_state_dict(values["network"])
        ema.load_state_dict(values["ema"])
        optimizer.load_state_dict(values["optimizer"])
        step = values["step"]
    elif args.warm:
        earlier, fresh = torch.load(args.warm / "checkpoint.pt", weights_only=True)["ema"], encoder.state_dict()
        # The last layer of an encoder for another number of styles does not fit; all before it does.
        fits = {name: value for name, value in earlier.items() if fresh[name].shape == value.shape}
        encoder.load_state_dict(fresh | fits)
        encoder.mean_latent.copy_(generator.mean_style()[0])
        ema.load_state_dict(encoder.state_dict())
    else:
        begin(encoder, read_any(EMBEDDED / "avatars-attributes.safetensors").tensors, generator, blocks, pictures)
        ema.load_state_dict(encoder.state_dict())

    def state() -> dict:
        parts = {"network": encoder.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict()}
        return parts | {"step": step}

    last, sums = time.monotonic(), {}
    while step < args.steps and not track.expired:
        # All of a step's randomness is drawn from its number: a run that was stopped goes on as if it had not been.
        torch.manual_seed(step)
        rng = np.random.default_rng(step)
        encoder.train()
        for group in optimizer.param_groups:
            progress = min(1.0, step / args.steps)
            group["lr"] = RATE * min(1, (step + 1) / 50) * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * progress)))
        x, labels = pictures.batch(rng.integers(0, len(pictures), args.batch), SIZE)
        with torch.no_grad():
            w = generator.mapping(blocks.latents_for(labels, dim))
            made = int(args.batch * GENERATED)
            if made:
                z = torch.randn(made, dim)
                w[:made] = generator.mapping(z)
                x[:made] = shown(answers(w[:made, None].expand(-1, generator.arch.n_style, -1), 1.0)).clamp(-1, 1)
        found = losses(encoder, answers, distance, x, w, float(rng.choice(RATIOS[:-1])))
        optimizer.zero_grad()
        found["total"].backward()
        optimizer.step()
        step += 1
        average(ema, encoder, min(0.995, (1 + step) / (10 + step)))
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + value.item() / 50
        if step % 50 == 0:
            now = time.monotonic()
            track.log(
                stage="encoder",
                step=step,
                images_per_s=round(50 * args.batch / (now - last), 1),
                **{name: round(value, 4) for name, value in sums.items()},
            )
            last, sums = now, {}
        if step % 250 == 0 or step == args.steps:
            track.log(
                step=step, psnr_db={n: round(f["psnr"], 2) for n, f in figures(ema, answers, held, None, 64).items()}
            )
            last = time.monotonic()
        if track.due:
            track.save(state())
    track.save(state())


@torch.no_grad()
def begin(
    encoder: Encoder, predictor: Mapping[str, Tensor], generator: Generator, blocks: Blocks, pictures: Pictures
) -> None:
    """Take the attribute predictor's trunk, which already tells what w says, and fit the last layer to known codes by ridge
    regression on its features."""
    trunk = {name: value.float() for name, value in predictor.items() if not name.startswith("fc.")}
    encoder.load_state_dict(encoder.state_dict() | trunk)
    encoder.eval()
    features, codes = [], []
    count = min(FITTED, len(pictures))
    for first in range(0, count, 100):
        x, labels = pictures.batch(np.arange(first, min(first + 100, count)), SIZE)
        features.append(encoder.trunk(x))
        z = blocks.latents_for(labels, encoder.style_dim, torch.Generator().manual_seed(first))
        codes.append(generator.mapping(z) - encoder.mean_latent)
    x, y = torch.cat(features), torch.cat(codes)
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1).double()
    found = torch.linalg.solve(x.T @ x + RIDGE * len(x) * x.square().mean() * torch.eye(x.shape[1]), x.T @ y.double())
    encoder.fc.weight.copy_(found[:-1].T.repeat(encoder.n_style, 1))
    encoder.fc.bias.copy_(found[-1].repeat(encoder.n_style))


@torch.no_grad()
def average(ema: Encoder, encoder: Encoder, decay: float) -> None:
    """Weights are averaged; the statistics of batch norms, averages themselves, are taken over."""
    for kept, new in zip(ema.parameters(), encoder.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)
    for kept, new in zip(ema.buffers(), encoder.buffers(), strict=True):
        kept.copy_(new)


@torch.no_grad()
def figures(
    encoder: Encoder, answers: Answers, held: Pictures, known: Tensor | None, count: int
) -> dict[str, dict[str, float]]:
    """By sub-network, over the first ``count`` held-out pictures. known: the w [N, style_dim] that belong to them."""
    encoder.eval()
    x, _ = held.batch(np.arange(min(count, len(held))), SIZE)
    targets = pyramid(x, answers.sides)
    distance = PyramidDistance()
    codes = {"": encoder(x)}
    if known is not None:
        codes["known_"] = known[: len(x), None].expand(-1, answers.arch.n_style, -1)
    images = {(key, ratio): answers(code, ratio) for key, code in codes.items() for ratio in RATIOS}
    full = pyramid(images["", 1.0][answers.sides[-1]], answers.sides)
    found = {}
    for net in answers.arch.grid():
        side, ratio = net.resolution, net.ratio
        image = images["", ratio][side]
        row = {f"{key}psnr": psnr(images[key, ratio][side], targets[side]) for key in codes}
        row["distance"] = float(distance(image.clamp(-1, 1), targets[side]).mean())
        row["agreement"] = psnr(image, full[side].clamp(-1, 1))
        found[net.name] = row
    return found


def ship(args: argparse.Namespace) -> None:
    """Writes avatars-encoder.safetensors, .png and .md of the run in ``args.out``."""
    # Not at the top: it imports this module.
    from recipes.avatars import encoder_ship

    encoder_ship.ship(args, EMBEDDED, STAGES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("train", "ship"))
    parser.add_argument(
        "--model", type=Path, default=EMBEDDED / "avatars.safetensors", help="the generator, up to 128 px"
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders written by render.mjs")
    parser.add_argument("--out", type=Path, required=True, help="resumed when it has a checkpoint")
    parser.add_argument("--warm", type=Path, help="folder of an encoder of an earlier generator to begin from")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=math.inf)
    args = parser.parse_args()
    (train if args.do == "train" else ship)(args)


if __name__ == "__main__":
    main()
