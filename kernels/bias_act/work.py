"""The least that bias_act must do."""

from __future__ import annotations

import torch

from anycost.kernels.work import Work

# Operations of each function; an exponential, a logarithm and a division count as one.
_OPERATIONS = {
    "linear": 0,
    "relu": 1,
    "lrelu": 2,
    "tanh": 7,
    "sigmoid": 4,
    "elu": 4,
    "selu": 6,
    "softplus": 6,
    "swish": 5,
}


def bias_act_work(
    elements: int, channels: int, dtype: torch.dtype, *, act: str = "linear", clamp: bool = False
) -> Work:
    """elements: of x in all. channels: of the bias, 0 for none; it has x's type."""
    each = (channels > 0) + _OPERATIONS[act] + 1 + 2 * clamp
    size = dtype.itemsize
    return Work(read=(elements + channels) * size, written=elements * size, flops=elements * each)
