"""The same operators in plain PyTorch, for any floating type: what the kernels are compared with, in float64.

Each takes what the launch of its name takes, without ``out``, and returns that; computed in the type of ``style`` and the other
float32 operands unless ``dtype`` names another.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def conv3x3(
    x: Tensor,
    weight: Tensor,
    *,
    style: Tensor | None = None,
    demodulation: Tensor | None = None,
    noise: Tensor | None = None,
    strength: Tensor | None = None,
    bias: Tensor | None = None,
    next_style: Tensor | None = None,
    activate: bool = True,
    up: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """x [N, H, W, C], weight [9, C, O] -> [N, H, W, O]; with ``up`` [4, 9, C, O] -> [N, 2H, 2W, O], phase by phase."""
    x = _scaled(x, style, dtype)
    if up:
        n, _, h, w = x.shape
        phases = [F.conv2d(x, filter3x3(part.to(dtype)), padding=1) for part in weight]
        y = torch.stack(phases).reshape(2, 2, n, -1, h, w).permute(2, 3, 4, 0, 5, 1).reshape(n, -1, 2 * h, 2 * w)
    else:
        y = F.conv2d(x, filter3x3(weight.to(dtype)), padding=1)
    if demodulation is not None:
        y = y * demodulation.to(dtype)[:, :, None, None]
    if noise is not None:
        y = y + noise.to(dtype)[:, None] * (1.0 if strength is None else strength.to(dtype))
    if bias is not None:
        y = y + bias.to(dtype)[:, None, None]
    if activate:
        y = F.leaky_relu(y, 0.2)
    if next_style is not None:
        y = y * next_style.to(dtype)[:, :, None, None]
    return y.permute(0, 2, 3, 1)


def conv_transpose3x3(
    x: Tensor,
    weight: Tensor,
    *,
    style: Tensor | None = None,
    demodulation: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """x [N, H, W, C], weight [9, C, O] -> [N, 2H+1, 2W+1, O]."""
    filters = filter3x3(weight.to(dtype)).transpose(0, 1)
    y = F.conv_transpose2d(_scaled(x, style, dtype), filters, stride=2)
    if demodulation is not None:
        y = y * demodulation.to(dtype)[:, :, None, None]
    return y.permute(0, 2, 3, 1)


def fuse_filter(weight: Tensor, taps: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """weight [9, C, O], taps [4, 4] -> [4, 9, C, O]: the full convolution of both, 6 x 6, of which phase (py, px) takes every
    second tap, the last first."""
    _, channels, outputs = weight.shape
    filters = weight.to(dtype).permute(1, 2, 0).reshape(channels * outputs, 1, 3, 3)
    both = F.conv2d(filters, taps.to(dtype).flip(0, 1)[None, None], padding=3)
    phases = [both[:, 0, py::2, px::2].flip(1, 2) for py in range(2) for px in range(2)]
    return torch.stack(phases).reshape(4, channels, outputs, 9).permute(0, 3, 1, 2)


def to_rgb(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    style: Tensor | None = None,
    skip: Tensor | None = None,
    taps: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """x [N, H, W, C], weight [3, C], bias [3], skip [N, 3, H/2, W/2] -> [N, 3, H, W]."""
    image = F.conv2d(_scaled(x, style, dtype), weight.to(dtype)[:, :, None, None], bias.to(dtype))
    if skip is None:
        return image
    assert taps is not None
    n, _, h, w = skip.shape
    spread = skip.new_zeros((n, 3, 2 * h, 2 * w), dtype=dtype)
    spread[:, :, ::2, ::2] = skip.to(dtype)
    filters = taps.to(dtype).flip(0, 1).expand(3, 1, 4, 4)
    return image + F.conv2d(F.pad(spread, [2, 1, 2, 1]), filters, groups=3)


def styles(
    w_plus: Tensor,
    affine: Tensor,
    affine_bias: Tensor,
    energy: Tensor,
    peak: Tensor,
    layers: list[tuple[int, int, int | None]],
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """w_plus [N, rows, D] and the flat constants of the layers (row, channels, outputs or None) -> style [N, S], demodulation
    [N, T]."""
    dim = w_plus.shape[2]
    found, coefficients = [], []
    s_at = d_at = e_at = 0
    for row, channels, outputs in layers:
        matrix = affine[dim * s_at : dim * (s_at + channels)].reshape(dim, channels).to(dtype)
        s = w_plus[:, row].to(dtype) @ matrix + affine_bias[s_at : s_at + channels].to(dtype)
        s_at += channels
        if outputs is None:
            found.append(s)
            continue
        b = s.abs().amax(1, keepdim=True).clamp(min=1e-8)
        found.append(s / b)
        block = energy[e_at : e_at + channels * outputs].reshape(channels, outputs).to(dtype)
        e_at += channels * outputs
        coefficients.append(peak[d_at : d_at + outputs].to(dtype) * b * torch.rsqrt(s.square() @ block + 1e-8))
        d_at += outputs
    return torch.cat(found, 1), torch.cat(coefficients, 1)


def filter3x3(weight: Tensor) -> Tensor:
    """[9, C, O] -> [O, C, 3, 3], as PyTorch has it."""
    return weight.permute(2, 1, 0).reshape(weight.shape[2], weight.shape[1], 3, 3)


def _scaled(x: Tensor, style: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x [N, H, W, C] -> [N, C, H, W], times the style."""
    x = x.to(dtype).permute(0, 3, 1, 2)
    return x if style is None else x * style.to(dtype)[:, :, None, None]
