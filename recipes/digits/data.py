"""The digits that export.mjs wrote, at any size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Digits:
    """images: float [N, 1, S, S] in [-1, 1], 1 is ink. labels: int64 [N], 0 to 9."""

    images: Tensor
    labels: Tensor

    @classmethod
    def load(cls, folder: Path, part: str = "train", side: int = 28) -> Digits:
        """Raises SystemExit, which says what to do, for a folder without this part."""
        found = folder / part
        if not (found / "labels.npy").is_file():
            raise SystemExit(f"{found} holds no digits: export them with node recipes/digits/export.mjs --out {folder}")
        pixels = torch.from_numpy(np.load(found / "digits.npy"))[:, None].float() / 127.5 - 1
        return cls(resized(pixels, side), torch.from_numpy(np.load(found / "labels.npy").astype(np.int64)))

    def __len__(self) -> int:
        return len(self.labels)


def resized(image: Tensor, side: int) -> Tensor:
    """[N, C, R, R] -> [N, C, side, side], bilinear, over the whole area of each pixel where it becomes smaller."""
    if image.shape[-1] == side:
        return image
    return F.interpolate(image, size=(side, side), mode="bilinear", antialias=True)
