"""Labelled pictures, and the latent that belongs to each.

Every attribute owns a block of z, one coordinate a slot; the slot of z is the argmax of its block. For z ~ N(0, I) the slots
are uniform and independent, which is how the pictures were drawn, so a picture with labels can be paired with a z of
exactly the right conditional law: draw z, then exchange the block's maximum with the coordinate of the label.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Blocks:
    """names and widths (slots) of the attributes, in the order of their blocks of z."""

    names: tuple[str, ...]
    widths: tuple[int, ...]

    @classmethod
    def load(cls, path: Path) -> Blocks:
        attributes = json.loads(path.read_text())["attributes"]
        return cls(tuple(a["name"] for a in attributes), tuple(len(a["slots"]) for a in attributes))

    @property
    def size(self) -> int:
        return sum(self.widths)

    def split(self, x: Tensor) -> list[Tensor]:
        """[N, >= size] -> one [N, width] an attribute."""
        return list(x[:, : self.size].split(list(self.widths), dim=1))

    def labels_of(self, z: Tensor) -> Tensor:
        """z [N, style_dim] -> slots [N, attributes]."""
        return torch.stack([block.argmax(dim=1) for block in self.split(z)], dim=1)

    def latents_for(self, labels: Tensor, style_dim: int, generator: torch.Generator | None = None) -> Tensor:
        """slots [N, attributes] -> z [N, style_dim] whose argmax in every block is the label."""
        z = torch.randn(len(labels), style_dim, generator=generator)
        rows = torch.arange(len(labels))
        for block, label in zip(self.split(z), labels.T.long(), strict=True):
            highest = block.argmax(dim=1)
            wanted = block[rows, label].clone()
            block[rows, label] = block[rows, highest]
            block[rows, highest] = torch.where(highest == label, block[rows, highest], wanted)
        return z


@dataclass(frozen=True)
class Pictures:
    """images uint8 [N, R, R, 3] and labels int64 [N, attributes]."""

    images: np.ndarray
    labels: Tensor

    @classmethod
    def load(cls, folders: list[Path]) -> Pictures:
        for folder in folders:
            if not (folder / "images.npy").is_file():
                raise SystemExit(f"train: {folder}/images.npy is missing: render it with render.mjs --out {folder}")
        images = np.concatenate([np.load(folder / "images.npy") for folder in folders])
        labels = np.concatenate([np.load(folder / "labels.npy") for folder in folders])
        return cls(images, torch.from_numpy(labels.astype(np.int64)))

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """-> images float [N, 3, R, R] in [-1, 1], labels."""
        x = torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
        return x, self.labels[torch.from_numpy(rows)]


def pyramid(image: Tensor, sides: tuple[int, ...]) -> dict[int, Tensor]:
    """Box averages of [N, 3, R, R] at each side, down to the smallest."""
    found = {}
    for side in sorted(sides, reverse=True):
        image = F.avg_pool2d(image, image.shape[-1] // side) if image.shape[-1] > side else image
        found[side] = image
    return found
