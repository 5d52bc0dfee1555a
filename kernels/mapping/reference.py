"""What the kernel of this folder computes, in the type of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor, *, normalize: bool) -> Tensor:
    """A layer of the mapping network: x [N, I], weight [I, O], bias [O] -> leaky(x weight + bias) [N, O], slope 0.2.

    normalize: of x * rsqrt(mean(x^2) + 1e-8) instead, the mean over its I numbers.
    """
    if normalize:
        x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)
    y = x @ weight + bias
    return torch.where(y >= 0, y, 0.2 * y)
