"""Each image against its reference: PSNR and SSIM by torchmetrics, and a perceptual distance.

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
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from anycost.benchmarks.quality.pixels import levels, signed
from anycost.errors import CheckpointError, InputError
from anycost.networks.perceptual import Lpips, PyramidDistance
from anycost.weights.formats import read_content

Array = np.ndarray
PEAK = 255.0
# Of identical images, which would be infinite and make every mean so. One level at one value of a 128 px image is 95 dB.
HIGHEST_PSNR_DB = 100.0
_HALF = 5  # of SSIM's window of 11 px
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
    psnr_db = peak_signal_noise_ratio(x, y, data_range=PEAK, reduction="none", dim=(1, 2, 3))
    # Windows that leave the picture are left out, as in the paper; whether torchmetrics' own mean does so differs by version.
    _, local = structural_similarity_index_measure(x, y, data_range=PEAK, reduction="none", return_full_image=True)
    return psnr_db.clamp(max=HIGHEST_PSNR_DB), local[:, :, _HALF:-_HALF, _HALF:-_HALF].mean([1, 2, 3])


def enlarged(x: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
    """[N, 3, h, w] in 0..255 -> [N, 3, H, W], bilinear, whole levels."""
    if x.shape[2:] == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False).round()
