"""Labelled pictures, and the latent that belongs to each.

Every attribute owns a block of z, one coordinate a slot; the slot of z is the argmax of its block. For z ~ N(0, I) the slots
are uniform and independent, which is how the pictures were drawn, so a picture with labels can be paired with a z of
exactly the right conditional law: draw z, then exchange the block's maximum with the coordinate of the label.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
    """Pictures of one part (train or validation) of one or more folders that render.mjs wrote.

    images: memory-mapped uint8 [N_i, R, R, 3], one for every folder. labels: int64 [N, attributes], N = sum of N_i.
    """

    images: tuple[np.ndarray, ...]
    labels: Tensor

    @classmethod
    def load(cls, folders: Sequence[Path], part: str = "train") -> Pictures:
        """Raises SystemExit, which says what to render, for a folder without this part or pictures of several sizes."""
        for folder in folders:
            if not (folder / part / "labels.npy").is_file():
                raise SystemExit(f"{folder}/{part} holds no pictures: render them with render.mjs --out {folder}")
        images = tuple(np.load(folder / part / "images.npy", mmap_mode="r") for folder in folders)
        sides = sorted({array.shape[1] for array in images})
        if len(sides) != 1:
            raise SystemExit(f"the pictures have sides of {sides} pixels: render all of one size")
        labels = np.concatenate([np.load(folder / part / "labels.npy") for folder in folders])
        return cls(images, torch.from_numpy(labels.astype(np.int64)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        """Their side in pixels."""
        return self.images[0].shape[1]

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """-> uint8 [N, R, R, 3]."""
        found = np.empty((len(rows), self.side, self.side, 3), np.uint8)
        start = 0
        for array in self.images:
            here = (rows >= start) & (rows < start + len(array))
            found[here] = array[rows[here] - start]
            start += len(array)
        return found

    def batch(self, rows: np.ndarray, side: int | None = None) -> tuple[Tensor, Tensor]:
        """-> images float [N, 3, side, side] in [-1, 1] (box averages where side is smaller than theirs), labels."""
        x = torch.from_numpy(self.pixels(rows)).permute(0, 3, 1, 2).float() / 127.5 - 1
        if side is not None and side != self.side:
            if self.side % side:
                raise SystemExit(f"pictures of {self.side} px cannot be averaged to {side}")
            x = F.avg_pool2d(x, self.side // side)
        return x, self.labels[torch.from_numpy(rows)]


def pyramid(image: Tensor, sides: tuple[int, ...]) -> dict[int, Tensor]:
    """Box averages of [N, 3, R, R] at each side, down to the smallest."""
    found = {}
    for side in sorted(sides, reverse=True):
        image = F.avg_pool2d(image, image.shape[-1] // side) if image.shape[-1] > side else image
        found[side] = image
    return found
