"""The Frechet distance between features of two sets of images, its bootstrap interval, and the parity of an engine by it.

Source: Dowson and Landau, Journal of Multivariate Analysis 12 (1982); as a measure of generators Heusel et al., arXiv
1706.08500. Of two Gaussians it is |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr sqrt(C1 C2). Everything is float64.

The distance of a finite sample is too large, about in proportion to 1 / N, and no interval here takes that away: compare
only distances of equal numbers of images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from anycost.errors import InputError
from anycost.runtime.quality import FdParity, Interval

Array = np.ndarray
# A round takes the singular values of about min(N, D) x D numbers: 10 ms at 512, 1 s at 2048.
_ROUNDS, _ROUNDS_OF_MANY, _MANY = 200, 50, 512
_PAIRED_ROUNDS = 100  # each takes several times as long, as both sides change


@dataclass(frozen=True, eq=False)
class Gaussian:
    """mean [D], covariance [D, D] (divided by count - 1) and the number of samples that they are of; float64."""

    mean: Array
    covariance: Array
    count: int
    centred: Array | None = None  # [N, D] / sqrt(N - 1) where N < D: the factor, without a decomposition

    @cached_property
    def factor(self) -> Array:
        """F [K, D] with F^T F = C, K = min(count, D); kept, as one Gaussian is compared with many.

        Eigenvalues that rounding made negative, as those of a rank-deficient covariance, are 0.
        """
        if self.centred is not None:
            return self.centred
        values, vectors = np.linalg.eigh(self.covariance)
        return np.sqrt(np.clip(values, 0, None))[:, None] * vectors.T


def gaussian(features: Array) -> Gaussian:
    """Features [N, D] of N >= 2 images. Raises InputError for another shape, a NaN or an infinity."""
    x = _checked(features)
    mean = x.mean(axis=0)
    centred = (x - mean) / np.sqrt(len(x) - 1)
    return Gaussian(mean, centred.T @ centred, len(x), centred if len(x) < x.shape[1] else None)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """The squared distance, as FID is; at least 0. Raises InputError where the dimensions differ.

    With C = F^T F of each, the eigenvalues of C1^(1/2) C2 C1^(1/2) are the squares of the singular values of F1 F2^T, so
    that tr sqrt(C1 C2) is their sum. No root of a product is taken, which loses half of the digits where the covariances
    are of low rank, and with fewer images than dimensions the matrix is only as large as the images are many.
    """
    if a.mean.shape != b.mean.shape:
        raise InputError(f"features of {len(a.mean)} and of {len(b.mean)} dimensions are of different networks")
    root = float(np.linalg.svd(a.factor @ b.factor.T, compute_uv=False).sum())
    traces = float(np.trace(a.covariance) + np.trace(b.covariance))
    return max(0.0, float(np.square(a.mean - b.mean).sum()) + traces - 2 * root)


def bootstrap(
    features: Array, against: Gaussian, rounds: int | None = None, seed: int = 0, level: float = 0.95
) -> Interval:
    """The distance of features [N, D] to a Gaussian that is held fixed, and its interval over resamples of the N images.

    rounds: by default 200 up to 512 dimensions and 50 above, where the ends are rough. The same seed gives the same
    interval. Raises InputError.
    """
    value = frechet_distance(gaussian(features), against)
    found = _resampled(features, against, rounds, seed)
    tail = 50 * (1 - _level(level))
    low, middle, high = np.percentile(found, [tail, 50, 100 - tail])
    # A resample is to the sample what the sample is to the images that could have been: its distance is larger by the same
    # bias again, and percentiles as they are would often leave out the value. The reflected ("basic") interval would take
    # the bias off once more and lie below the value. Only the spread is wanted, so the median is moved onto the value.
    return Interval(value=value, low=max(0.0, value + low - middle), high=value + high - middle)


def paired_bootstrap(
    features: Array, references: Array, rounds: int | None = None, seed: int = 0, level: float = 0.95
) -> Interval:
    """As ``bootstrap``, of features [N, D] to references [N, D] of images of the same seeds, of which both are resampled.

    A resample draws seeds: an image and its reference come together or not at all. With the references held fixed, the
    interval would be that of other seeds against these, which is wide even for an engine that gives its reference's images.
    rounds: by default 100 up to 512 dimensions and 50 above. Raises InputError.
    """
    if features.shape != references.shape:
        raise InputError(f"features {list(features.shape)} and {list(references.shape)} are not of the same seeds")
    x, y, tail = _checked(features), _checked(references), 50 * (1 - _level(level))
    value = frechet_distance(gaussian(x), gaussian(y))
    if np.array_equal(x, y):
        return Interval(value=value, low=value, high=value)
    rounds = _rounds(rounds, x.shape[1], _PAIRED_ROUNDS)
    found = []
    for drawn in _draws(len(x), rounds, seed):
        (a, first), (b, second) = (_drawn_factor(z, drawn) for z in (x, y))
        root = float(np.linalg.svd(first @ second.T, compute_uv=False).sum())
        traces = float(np.square(first).sum() + np.square(second).sum())
        found.append(max(0.0, float(np.square(a - b).sum()) + traces - 2 * root))
    low, middle, high = np.percentile(found, [tail, 50, 100 - tail])
    return Interval(value=value, low=max(0.0, value + low - middle), high=value + high - middle)


def parity(
    engine: Array,
    reference: Array,
    data: Gaussian,
    rounds: int | None = None,
    seed: int = 0,
    level: float = 0.95,
    bound: float | None = None,
) -> FdParity:
    """Whether an engine is as far from the data as its reference: features [N, D] of images of the same seeds.

    difference: abs(FD(engine, data) - FD(reference, data)). bound: that of ``self_bound`` where it is known already.
    Raises InputError where the shapes differ.
    """
    if engine.shape != reference.shape:
        raise InputError(
            f"features {list(engine.shape)} of an engine and {list(reference.shape)} of its reference are not of the "
            "same seeds"
        )
    difference = abs(frechet_distance(gaussian(engine), data) - frechet_distance(gaussian(reference), data))
    if bound is None:
        bound = self_bound(reference, data, rounds, seed, level)
    return FdParity(difference=difference, bound=bound, passed=difference <= bound)


def self_bound(
    reference: Array, data: Gaussian, rounds: int | None = None, seed: int = 0, level: float = 0.95
) -> float:
    """What the reference differs by from itself: the ``level`` quantile of abs(FD(a, data) - FD(b, data)).

    a and b are independent resamples of its images. All pairs of the rounds are taken, which estimates the same quantile
    as separate pairs would with less scatter; the bias of resampling is in both and goes out.
    """
    found = _resampled(reference, data, rounds, seed)
    first, second = np.triu_indices(len(found), 1)
    return float(np.quantile(np.abs(found[first] - found[second]), _level(level)))


def _resampled(features: Array, against: Gaussian, rounds: int | None, seed: int) -> Array:
    """Distances [rounds] of resamples with replacement."""
    x = _checked(features)
    count, dim = x.shape
    if len(against.mean) != dim:
        raise InputError(f"features of {dim} and of {len(against.mean)} dimensions are of different networks")
    rounds = _rounds(rounds, dim, _ROUNDS)
    moved = x - against.mean
    squares = np.square(moved).sum(axis=1)
    projected = moved @ against.factor.T
    trace = float(np.trace(against.covariance))
    found = []
    for drawn in _draws(count, rounds, seed):
        mean = drawn @ moved / count
        spread = (drawn @ squares - count * (mean @ mean)) / (count - 1)
        root = _root(projected, drawn) / np.sqrt(count - 1)
        found.append(max(0.0, float(mean @ mean + spread + trace - 2 * root)))
    return np.array(found)


def _rounds(given: int | None, dim: int, usual: int) -> int:
    rounds = given if given is not None else usual if dim <= _MANY else _ROUNDS_OF_MANY
    if rounds < 2:
        raise InputError(f"{rounds} rounds give no interval: 200 are usual, 2 the least")
    return rounds


def _drawn_factor(x: Array, drawn: Array) -> tuple[Array, Array]:
    """Mean [D] of rows that were drawn so often, and F [K, D] with F^T F their covariance, K at most D."""
    kept = drawn > 0
    rows, times = x[kept], drawn[kept]
    mean = times @ rows / times.sum()
    rows = np.sqrt(times / (times.sum() - 1))[:, None] * (rows - mean)
    # The Gram matrix would lose half of the digits, and these distances may be a millionth of the variances.
    return mean, np.asarray(np.linalg.qr(rows, "r")) if rows.shape[0] > rows.shape[1] else rows


def _draws(count: int, rounds: int, seed: int) -> Iterator[Array]:
    """How often each image is drawn, float64 [count]."""
    state = np.random.RandomState(seed)
    for _ in range(rounds):
        yield np.bincount(state.randint(count, size=count), minlength=count).astype(np.float64)


def _root(projected: Array, drawn: Array) -> float:
    """The sum of singular values of the centred rows, each as often as it was drawn.

    By the eigenvalues of the smaller Gram matrix: several times faster than a decomposition, and exact to 1e-8 of the
    largest, far below the spread that it is for. A row drawn k times counts as one of sqrt(k) times its length.
    """
    kept = drawn > 0
    rows, times = projected[kept], drawn[kept]
    rows = np.sqrt(times)[:, None] * (rows - times @ rows / times.sum())
    gram = rows @ rows.T if rows.shape[0] < rows.shape[1] else rows.T @ rows
    return float(np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None)).sum())


def _checked(features: Array) -> Array:
    if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
        raise InputError(f"features {list(features.shape)}: [N, D] of at least 2 images were expected")
    x = np.asarray(features, dtype=np.float64)
    wrong = int((~np.isfinite(x)).any(axis=1).sum())
    if wrong:
        raise InputError(f"features of {wrong} of {len(x)} images hold a NaN or an infinity: look at these images")
    return x


def _level(level: float) -> float:
    if not 0 < level < 1:
        raise InputError(f"level {level:g} is not between 0 and 1: 0.95 is usual")
    return level
