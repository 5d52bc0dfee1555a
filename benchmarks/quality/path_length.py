"""Perceptual path length: how much the image changes, perceptually, along straight lines in W.

Source: Karras et al., arXiv 1812.04948, section 4.1. Figures by different distances, or of different sides, must not be
compared; published ones are by LPIPS.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anycost.benchmarks.quality.pairs import Distance
from anycost.errors import InputError
from anycost.networks.perceptual import PyramidDistance

Array = np.ndarray
Steps = Callable[[str, int, int], None]
EPSILON = 1e-4
_SIDE = 256


def path_length(
    synthesize: Callable[[Tensor], Tensor],
    start: Tensor,
    end: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor],
    *,
    epsilon: float = EPSILON,
    seed: int = 0,
    batch: int = 8,
    progress: Steps | None = None,
) -> float:
    """synthesize: w [N, ...] -> images [N, 3, R, R] in [-1, 1], the same for the same w: noise is held fixed.

    1. start, end: w of independent z, [N, D] or [N, rows, D]; t uniform in [0, 1], by ``seed``: the full path.
    2. d = distance(G(lerp(start, end, t)), G(lerp(start, end, t + epsilon))) / epsilon^2, of images clamped to [-1, 1] and,
       above 256 px, averaged over blocks down to less than 512.
    3. The mean of d between its 1st and 99th percentile, both included.

    The distance must be quadratic in small differences, as LPIPS is: see ``squared``. The images differ by about 1e-4 and a
    generator in float32 rounds them to 1e-6: its figure was 0.2% off that in float64, far below what sampling leaves, so that
    float32 is fine. Raises InputError.
    """
    if start.shape != end.shape or start.dim() < 2 or not len(start):
        raise InputError(
            f"end points {list(start.shape)} and {list(end.shape)}: two [N, ...] of one shape are expected"
        )
    count = len(start)
    draws = np.random.RandomState(seed).uniform(size=count)
    t = torch.from_numpy(draws).to(start.dtype).reshape(-1, *[1] * (start.dim() - 1))
    found = []
    with torch.no_grad():
        for i in range(0, count, batch):
            a, b, at = start[i : i + batch], end[i : i + batch], t[i : i + batch]
            w = torch.lerp(a, b, at)
            # From the first point on, not from the start: t + epsilon would lose digits of epsilon.
            images = synthesize(torch.cat([w, w + epsilon * (b - a)]))
            first, second = _reduced(images.clamp(-1, 1)).chunk(2)
            found.append(distance(first, second).double() / epsilon**2)
            if progress:
                progress("PPL", min(i + batch, count), count)
    return float(_trimmed(torch.cat(found).numpy()).mean())


def squared(distance: Distance) -> Distance:
    """The distance to give to ``path_length``: LPIPS as it is, which sums squares.

    The pyramid distance is a root, of which a path length would grow with 1 / epsilon: the squares of its levels, averaged.
    Raises InputError for another.
    """
    network = distance.network
    if isinstance(network, PyramidDistance):
        return Distance("squared pyramid distance (NLPD)", _SquaredPyramid())
    if distance.name.startswith("LPIPS"):
        return distance
    raise InputError(f"{distance.name} is not known to be quadratic: a path length takes LPIPS or the pyramid distance")


class _SquaredPyramid(PyramidDistance):
    """The mean over levels k of the mean square of y_k's differences."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        pairs = zip(self.normalised(first), self.normalised(second), strict=True)
        return torch.stack([(x - y).square().mean([1, 2, 3]) for x, y in pairs]).mean(0)


def _reduced(images: Tensor) -> Tensor:
    factor = images.shape[2] // _SIDE
    return F.avg_pool2d(images, factor) if factor > 1 else images


def _trimmed(values: Array) -> Array:
    low = np.percentile(values, 1, method="lower")
    high = np.percentile(values, 99, method="higher")
    return values[(low <= values) & (values <= high)]
