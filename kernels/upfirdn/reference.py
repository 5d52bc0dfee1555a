"""What the kernels of this folder compute, the slow and obvious way, in the type of their inputs: float64 for a yardstick."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def upfirdn2d(
    x: Tensor,
    taps: Tensor,
    up: tuple[int, int] = (1, 1),
    down: tuple[int, int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsample, filter, downsample: x [N, C, H, W], taps [th, tw] -> [N, C, H', W']; up, down (x, y), padding (x0, x1, y0, y1).

    1. After every sample come up - 1 zeros. 2. The sides are padded with zeros; negative padding crops. 3. Every channel is
    convolved with the taps where they fit, times the gain; flip_filter correlates. 4. Every down-th sample is kept, from the
    first.
    """
    n, channels, height, width = x.shape
    spread = x.new_zeros(n, channels, height, up[1], width, up[0])
    spread[:, :, :, 0, :, 0] = x
    image = spread.reshape(n, channels, height * up[1], width * up[0])
    padded = F.pad(image, [max(side, 0) for side in padding])
    x0, x1, y0, y1 = (max(-side, 0) for side in padding)
    padded = padded[:, :, y0 : padded.shape[2] - y1, x0 : padded.shape[3] - x1]
    kernel = taps.to(x.dtype) * gain
    if not flip_filter:
        kernel = kernel.flip([0, 1])
    y = F.conv2d(padded, kernel.expand(channels, 1, *kernel.shape), groups=channels)
    return y[:, :, :: down[1], :: down[0]]


def finish(
    y: Tensor,
    *,
    taps: Tensor | None = None,
    demodulation: Tensor | None = None,
    noise: Tensor | None = None,
    strength: Tensor | None = None,
    bias: Tensor | None = None,
    next_style: Tensor | None = None,
    activate: bool = True,
    parts: int = 1,
) -> Tensor:
    """What follows the products of a convolution: next * leaky(demodulation * fir(y) + strength * noise + bias).

    y [N, Hy, Wy, C], or [N, parts, Hy, Wy, C] whose parts are summed. taps [4, 4] filter y padded by (1, 1), so Hy = H + 1.
    demodulation, next_style [N, C]; noise [N or 1, H, W]; strength [1]; bias [C] -> [N, H, W, C].
    """
    x = y.sum(1) if parts > 1 else y
    if taps is not None:
        x = upfirdn2d(x.permute(0, 3, 1, 2), taps, padding=(1, 1, 1, 1)).permute(0, 2, 3, 1)
    if demodulation is not None:
        x = x * demodulation[:, None, None]
    if noise is not None:
        x = x + (noise if strength is None else noise * strength)[..., None]
    if bias is not None:
        x = x + bias
    if activate:
        x = torch.where(x >= 0, x, 0.2 * x)
    return x if next_style is None else x * next_style[:, None, None]
