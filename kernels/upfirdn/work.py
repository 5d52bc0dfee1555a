"""The least that upfirdn2d and ``finish`` must do."""

from __future__ import annotations

import torch

from anycost.kernels.upfirdn.launch import out_size
from anycost.kernels.work import Work

_FLOAT = 4  # bytes of a float32


def upfirdn2d_work(
    shape: tuple[int, int, int, int],
    taps: tuple[int, int],
    up: tuple[int, int] = (1, 1),
    down: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dtype: torch.dtype = torch.float16,
) -> Work:
    """shape: of x, [N, H, W, C]. taps (th, tw). Only taps that lie on samples are counted: one in up, along each axis."""
    n, height, width, channels = shape
    out_height = out_size(height, taps[0], up[1], down[1], *padding[2:])
    out_width = out_size(width, taps[1], up[0], down[0], *padding[:2])
    outputs = n * out_height * out_width * channels
    products = -(-taps[0] // up[1]) * -(-taps[1] // up[0])
    return Work(
        read=n * height * width * channels * dtype.itemsize + taps[0] * taps[1] * _FLOAT,
        written=outputs * dtype.itemsize,
        flops=2 * outputs * products,
    )


def finish_work(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype = torch.float16,
    *,
    taps: bool = False,
    demodulation: bool = True,
    noise: int = 1,
    noise_dtype: torch.dtype = torch.float32,
    bias: bool = True,
    next_style: bool = False,
    activate: bool = True,
    parts: int = 1,
) -> Work:
    """shape: of out, [N, H, W, C]. noise: noise images read, 0 for none, 1 for one that all images share, N for one each."""
    n, height, width, channels = shape
    outputs = n * height * width * channels
    inputs = n * (height + taps) * (width + taps) * channels * parts
    read = inputs * (dtype.itemsize if parts == 1 else _FLOAT)
    read += noise * height * width * noise_dtype.itemsize
    read += (n * (demodulation + next_style) + bias) * channels * _FLOAT + (16 * _FLOAT if taps else 0)
    # An operation each: a part's sum, demodulation, noise, bias, next style; two for a tap, and for the activation.
    each = 2 * 16 * taps + (parts - 1) + demodulation + (noise > 0) + bias + next_style + 2 * activate
    return Work(read=read, written=outputs * dtype.itemsize, flops=outputs * each)
