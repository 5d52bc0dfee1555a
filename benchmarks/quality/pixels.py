"""Stored pictures as tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from anycost.errors import InputError

Array = np.ndarray


def levels(images: Array) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in 0..255. Raises InputError for another type, shape or no images."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
        raise InputError(f"{images.dtype} {list(images.shape)} are no pictures of uint8 [N, H, W, 3]")
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float()


def signed(levels: Tensor) -> Tensor:
    """0..255 -> [-1, 1]."""
    return levels / 127.5 - 1
