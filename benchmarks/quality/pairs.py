"""Each image against its reference: PSNR, SSIM in float64, and a perceptual distance.

Sources: SSIM, Wang et al. 2004 (doi 10.1109/TIP.2003.819861), with its Gaussian window of deviation 1.5; the distances are
those of ``anycost.networks.perceptual``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio

from anycost.benchmarks.quality.pixels import levels, signed
from anycost.errors import CheckpointError, InputError
from anycost.networks.perceptual import Lpips, PyramidDistance
from anycost.weights.formats import read_content

Array = np.ndarray
PEAK = 255.0
# Of identical images, which would be infinite and make every mean so. One level at one value of a 128 px image is 95 dB.
HIGHEST_PSNR_DB = 100.0
_WINDOW, _DEVIATION = 11, 1.5  # of SSIM, in px
_SSIM_PIXELS = 1 << 18  # at once: a dozen arrays of float64 are held of them
_SMALLEST = 16  # LPIPS pools four times
_BATCH = 16


@dataclass(frozen=True)
class Distance:
    """A perceptual distance and its name: two [N, 3, H, W] in [-1, 1] -> [N]."""

    name: str
    network: nn.Module = field(repr=False)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        return self.network(first, second)


def pyramid_distance() -> Distance:
    return Distance("pyramid distance (NLPD)", PyramidDistance())


def lpips(vgg: Path, heads: Path) -> Distance:
    """From the files of VGG16 and of LPIPS's v0.1 heads. Raises CheckpointError."""
    states = []
    for path in (vgg, heads):
        try:
            states.append(read_content(path).groups.get("", {}))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    return Distance("LPIPS (VGG16)", Lpips().load(*states))


def pairwise(images: Array, references: Array, distance: Distance) -> dict[str, Array]:
    """images uint8 [N, r, r, 3], references uint8 [N, R, R, 3], r <= R -> psnr_db, ssim, distance: float64 [N] each.

    Smaller images are enlarged first, as a viewer would: bilinearly, to whole levels. Pictures below 16 px are both magnified
    by whole pixels, so that every measure has a neighbourhood. PSNR and SSIM are of levels 0..255, PSNR at most 100 dB.
    Raises InputError.
    """
    if len(images) != len(references) or images.ndim != 4 or references.ndim != 4:
        raise InputError(f"images {list(images.shape)} and references {list(references.shape)} are not pairs")
    if images.shape[1] > references.shape[1] or images.shape[2] > references.shape[2]:
        raise InputError(
            f"images of {images.shape[2]} x {images.shape[1]} px are larger than their references of "
            f"{references.shape[2]} x {references.shape[1]} px"
        )
    found: dict[str, list[Tensor]] = {"psnr_db": [], "ssim": [], "distance": []}
    for i in range(0, len(images), _BATCH):
        y = levels(references[i : i + _BATCH])
        x = enlarged(levels(images[i : i + _BATCH]), y.shape[2:])
        times = -(-_SMALLEST // min(y.shape[2:]))
        x, y = (z.repeat_interleave(times, 2).repeat_interleave(times, 3) for z in (x, y))
        psnr_db, ssim = psnr_and_ssim(x, y)
        found["psnr_db"].append(psnr_db)
        found["ssim"].append(ssim)
        with torch.no_grad():
            found["distance"].append(distance(signed(x), signed(y)))
    return {name: torch.cat(parts).double().numpy() for name, parts in found.items()}


def psnr_and_ssim(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two [N, 3, H, W] in 0..255, 11 px or more -> dB, at most 100, and SSIM: [N] each."""
    x, y = x.double(), y.double()
    psnr_db = peak_signal_noise_ratio(x, y, data_range=PEAK, reduction="none", dim=(1, 2, 3))
    some = max(1, _SSIM_PIXELS // (x.shape[2] * x.shape[3]))
    similar = [_ssim(*pair) for pair in zip(x.split(some), y.split(some), strict=True)]
    return psnr_db.clamp(max=HIGHEST_PSNR_DB), torch.cat(similar)


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """Two float64 [N, 3, H, W] in 0..255 -> [N]: the mean over channels and over the windows that lie in the picture.

    In float32, variances are differences of numbers up to 65025 and leave 1e-4 of the result open. torchmetrics takes float64
    too, but its square window takes 30 times as long in it; a Gaussian is two windows of one pixel's width.
    """
    at = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    weights = torch.exp(-(at**2) / (2 * _DEVIATION**2))
    weights = weights / weights.sum()

    def mean(z: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(z, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))

    count = len(x)
    x, y = (z.flatten(0, 1)[:, None] for z in (x, y))
    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    small, large = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    alike = (2 * mean_x * mean_y + small) * (2 * covariance + large)
    local = alike / ((mean_x**2 + mean_y**2 + small) * (variance_x + variance_y + large))
    return local.reshape(count, -1).mean(1)


def enlarged(x: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
    """[N, 3, h, w] in 0..255 -> [N, 3, H, W], bilinear, whole levels."""
    if x.shape[2:] == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False).round()
