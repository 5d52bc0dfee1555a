"""What a generated image is compared with a picture by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.avatars.data import Blocks


def image_loss(image: Tensor, target: Tensor) -> Tensor:
    """L1 of values and of differences between neighbours: flat areas and edges, both [N, 3, R, R]."""
    values = F.l1_loss(image, target)
    rows = F.l1_loss(image.diff(dim=2), target.diff(dim=2))
    columns = F.l1_loss(image.diff(dim=3), target.diff(dim=3))
    return values + rows + columns


def attribute_accuracy(scores: Tensor, labels: Tensor, blocks: Blocks) -> float:
    """Fraction of attributes, over all pictures, whose slot has the highest score."""
    right = [(s.argmax(1) == label).float().mean() for s, label in zip(blocks.split(scores), labels.T, strict=True)]
    return float(torch.stack(right).mean())


def psnr(image: Tensor, target: Tensor) -> float:
    """Decibels for values in [-1, 1]."""
    return float(10 * torch.log10(4 / F.mse_loss(image.clamp(-1, 1), target)))
