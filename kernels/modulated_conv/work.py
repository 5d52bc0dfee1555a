"""The least that each operator here has to move and compute for one launch, and which form of the up-convolution needs less.

height, width: of x. dtype: of the activations. Styles, coefficients and biases, some thousand bytes, are left out, and stored
noise is one for all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from anycost.kernels.upfirdn.work import finish_work
from anycost.kernels.work import Work

_FLOAT = 4  # bytes of a float32
# What an H200 computes in float32 without tensor cores, as a part of what it computes with them in float16: 67 of 990 TFLOP/s.
_VECTOR = 67 / 990
Form = Literal["fused", "polyphase"]


def conv3x3_work(
    height: int,
    width: int,
    channels: int,
    outputs: int,
    dtype: torch.dtype = torch.float16,
    *,
    up: bool = False,
    noise: bool = True,
    splits: int = 1,
    batch: int = 1,
) -> Work:
    """One layer; with ``up`` the fused 6x6 form, 36 multiply-adds for each pixel of x, channel and output."""
    phases = 4 if up else 1
    results = phases * height * width
    weights = 9 * phases * channels * outputs
    pixels = batch * height * width * channels
    grain = results if noise and splits == 1 else 0
    return Work(
        read=(pixels + weights + grain) * dtype.itemsize,
        written=batch * results * outputs * (splits * _FLOAT if splits > 1 else dtype.itemsize),
        flops=batch * 2 * 9 * results * channels * outputs,
        tensor_cores=True,
    )


def conv_transpose3x3_work(
    height: int,
    width: int,
    channels: int,
    outputs: int,
    dtype: torch.dtype = torch.float16,
    *,
    splits: int = 1,
    batch: int = 1,
) -> Work:
    """The polyphase form without its FIR, 9 multiply-adds for each pixel of x, channel and output."""
    results = (2 * height + 1) * (2 * width + 1)
    return Work(
        read=(batch * height * width * channels + 9 * channels * outputs) * dtype.itemsize,
        written=batch * results * outputs * (splits * _FLOAT if splits > 1 else dtype.itemsize),
        flops=batch * 2 * 9 * height * width * channels * outputs,
        tensor_cores=True,
    )


def fuse_filter_work(channels: int, outputs: int, dtype: torch.dtype = torch.float16) -> Work:
    """The full convolution of 3x3 and 4x4 has 9 * 16 products."""
    size = channels * outputs
    return Work(read=9 * size * dtype.itemsize, written=36 * size * dtype.itemsize, flops=2 * 144 * size)


def to_rgb_work(
    height: int,
    width: int,
    channels: int,
    dtype: torch.dtype = torch.float16,
    *,
    skip: bool = True,
    batch: int = 1,
) -> Work:
    """Three multiply-adds a channel, and for each colour the 4 taps of the FIR that meet no zeros."""
    pixels = batch * height * width
    return Work(
        read=pixels * channels * dtype.itemsize + (3 * pixels * _FLOAT // 4 if skip else 0),
        written=3 * pixels * _FLOAT,
        flops=2 * 3 * pixels * (channels + (4 if skip else 0)),
    )


def styles_work(layers: Sequence[tuple[int, int, int | None]], dim: int, batch: int = 1) -> Work:
    """layers: (row of w+, channels, outputs or None) as for ``units_of``. dim: length of w. Constants are read once, whatever the
    batch."""
    channels = sum(entering for _, entering, _ in layers)
    leaving = sum(outputs or 0 for _, _, outputs in layers)
    products = sum(entering * (outputs or 0) for _, entering, outputs in layers)
    rows = len({row for row, _, _ in layers})
    return Work(
        read=_FLOAT * (channels * (dim + 1) + products + leaving + batch * rows * dim),
        written=_FLOAT * batch * (channels + leaving),
        flops=batch * 2 * (channels * dim + products),
    )


def up_floors_us(
    height: int,
    width: int,
    channels: int,
    outputs: int,
    bytes_per_second: float,
    flops_per_second: float,
    dtype: torch.dtype = torch.float16,
) -> dict[Form, float]:
    """The floors of both forms of an up-convolution of x [1, height, width, channels], in microseconds: one launch with four
    times the multiply-adds, or two with the result between them in memory. flops_per_second: of matrix products."""
    fused = conv3x3_work(height, width, channels, outputs, dtype, up=True)
    product = conv_transpose3x3_work(height, width, channels, outputs, dtype)
    rest = finish_work((1, 2 * height, 2 * width, outputs), dtype, taps=True, noise_dtype=dtype)
    second = rest.floor_us(bytes_per_second, _VECTOR * flops_per_second)
    return {
        "fused": fused.floor_us(bytes_per_second, flops_per_second),
        "polyphase": product.floor_us(bytes_per_second, flops_per_second) + second,
    }


def cheaper_up(
    height: int,
    width: int,
    channels: int,
    outputs: int,
    bytes_per_second: float,
    flops_per_second: float,
    dtype: torch.dtype = torch.float16,
) -> Form:
    """The form with the lower floor (``up_floors_us``)."""
    floors = up_floors_us(height, width, channels, outputs, bytes_per_second, flops_per_second, dtype)
    return min(floors, key=floors.__getitem__)
