"""Sample sheets and validation figures over the grid of sub-networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anycost.networks.channels import RATIOS
from anycost.networks.stylegan2 import Generator
from recipes.avatars.data import pyramid
from recipes.avatars.losses import psnr


def sides_of(generator: Generator) -> tuple[int, ...]:
    """The resolutions of its sub-networks, the four highest from 16 px up."""
    return tuple(sorted({net.resolution for net in generator.arch.grid()}))


@torch.no_grad()
def images_of(generator: Generator, z: Tensor) -> dict[str, Tensor]:
    """Images of every sub-network for z [N, style_dim], by name such as 0.5@32; stored noise."""
    w_plus = generator.mapping(z)[:, None].expand(-1, generator.arch.n_style, -1)
    found = {}
    sides = sides_of(generator)
    for ratio in RATIOS:
        images = generator.synthesis(w_plus, net=generator.subnet(generator.arch.resolution, ratio), all_images=True)
        found |= {f"{ratio:g}@{image.shape[-1]}": image for image in images if image.shape[-1] in sides}
    return found


def figures(generator: Generator, z: Tensor, target: Tensor) -> dict[str, float]:
    """PSNR in decibels of every sub-network against held-out pictures at its own resolution."""
    pictures = pyramid(target, sides_of(generator))
    cells = images_of(generator, z)
    return {name: round(psnr(image, pictures[image.shape[-1]]), 2) for name, image in cells.items()}


def write(path: Path, generator: Generator, z: Tensor, side: int = 128) -> None:
    """A row for every sub-network (resolution, then ratio), a column for every z [N, style_dim]."""
    cells = images_of(generator, z)
    rows = []
    for resolution in sides_of(generator):
        for ratio in RATIOS:
            image = cells[f"{ratio:g}@{resolution}"].clamp(-1, 1).add(1).mul(127.5).round().byte()
            image = image.repeat_interleave(side // resolution + 1, 2).repeat_interleave(side // resolution + 1, 3)
            tiles = [
                Image.fromarray(t.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.BOX)
                for t in image.cpu()
            ]
            rows.append(np.concatenate([np.asarray(t) for t in tiles], axis=1))
    Image.fromarray(np.concatenate(rows)).save(path, optimize=True)
