"""The Frechet distance against SciPy's matrix root, closed forms and torchmetrics; intervals against what they claim."""

import numpy as np
import pytest
import torch
from scipy import linalg, ndimage
from torchmetrics.image.fid import FrechetInceptionDistance

from anycost.benchmarks.quality.frechet import (
    Gaussian,
    bootstrap,
    frechet_distance,
    gaussian,
    paired_bootstrap,
    parity,
    self_bound,
)
from anycost.errors import InputError


def draw(count: int, dim: int, seed: int, rank: int | None = None, shift: float = 0.0) -> np.ndarray:
    """Correlated features; of a lower rank where it is given."""
    state = np.random.RandomState(seed)
    mixing = state.standard_normal((rank or dim, dim)) * np.logspace(0, -1.5, rank or dim)[:, None]
    return state.standard_normal((count, rank or dim)) @ mixing + shift


def by_scipy(x: np.ndarray, y: np.ndarray) -> float:
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.real(linalg.sqrtm(c1 @ c2))
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.trace(c1) + np.trace(c2) - 2 * np.trace(root))


@pytest.mark.parametrize(("n", "m", "dim"), [(50, 80, 3), (300, 200, 24), (65, 70, 64)])
def test_scipys_matrix_root(n, m, dim):
    x, y = draw(n, dim, 0), draw(m, dim, 1, shift=0.3)
    # The matrix root of a covariance that is nearly singular (65 images, 64 dimensions) is itself exact to about 1e-6.
    assert frechet_distance(gaussian(x), gaussian(y)) == pytest.approx(by_scipy(x, y), rel=1e-6)


@pytest.mark.parametrize(("n", "m", "rank"), [(20, 30, None), (20, 100, None), (100, 100, 7), (12, 100, 5)])
def test_rank_deficient_covariances(n, m, rank):
    """Fewer images than dimensions, or features in a subspace. SciPy's root of the singular product is inexact, so a little
    noise is added to its covariances, which raises the distance by less than the tolerance."""
    dim = 40
    x, y = draw(n, dim, 0, rank), draw(m, dim, 1, rank, shift=0.1)
    found = frechet_distance(gaussian(x), gaussian(y))
    c1, c2 = (np.cov(z, rowvar=False) + 1e-9 * np.eye(dim) for z in (x, y))
    root = np.trace(np.real(linalg.sqrtm(c1 @ c2)))
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(c1) + np.trace(c2) - 2 * root
    assert found == pytest.approx(expected, rel=2e-3)
    # The factor of the images and that of the covariance are two ways to one distance.
    plain = [Gaussian(g.mean, g.covariance, g.count) for g in (gaussian(x), gaussian(y))]
    assert frechet_distance(*plain) == pytest.approx(found, rel=1e-6)


def test_diagonal_gaussians_have_a_closed_form():
    first, second = np.array([1.0, 4.0, 0.0]), np.array([9.0, 1.0, 2.0])
    a = Gaussian(np.zeros(3), np.diag(first), 10)
    b = Gaussian(np.array([1.0, 2.0, -2.0]), np.diag(second), 10)
    assert frechet_distance(a, b) == pytest.approx(9 + np.square(np.sqrt(first) - np.sqrt(second)).sum(), abs=1e-12)


@pytest.mark.parametrize("shape", [(30, 100), (200, 30)])
def test_zero_to_itself_symmetric_and_never_negative(shape):
    x, y = gaussian(draw(*shape, 0)), gaussian(draw(*shape, 1))
    assert 0 <= frechet_distance(x, x) < 1e-9 * np.trace(x.covariance)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)


def test_torchmetrics_with_the_same_features():
    class Pooled(torch.nn.Module):
        num_features = 12

        def forward(self, images):
            return torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1) / 16

    state = np.random.RandomState(0)
    real = state.randint(0, 256, (40, 3, 8, 8)).astype(np.uint8)
    fake = (0.8 * state.randint(0, 256, (50, 3, 8, 8))).astype(np.uint8)
    metric = FrechetInceptionDistance(feature=Pooled(), input_img_size=(3, 8, 8))
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(fake), real=False)
    x, y = (Pooled()(torch.from_numpy(images)).numpy() for images in (real, fake))
    # It answers in float32.
    assert frechet_distance(gaussian(x), gaussian(y)) == pytest.approx(metric.compute().item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(40, 6), (25, 60)])
def test_rounds_are_the_distances_of_resampled_images(shape):
    """Drawn here row by row, from the same stream."""
    x, data = draw(*shape, 0), gaussian(draw(90, shape[1], 1))
    state, found = np.random.RandomState(5), []
    for _ in range(20):
        found.append(frechet_distance(gaussian(x[state.randint(shape[0], size=shape[0])]), data))
    value = frechet_distance(gaussian(x), data)
    low, middle, high = np.percentile(found, [5, 50, 95])
    interval = bootstrap(x, data, rounds=20, seed=5, level=0.9)
    assert interval.value == value
    # Eigenvalues of the Gram matrix are exact to about 1e-8 of the largest each.
    assert interval.low == pytest.approx(max(0, value + low - middle), rel=1e-5)
    assert interval.high == pytest.approx(value + high - middle, rel=1e-5)
    gaps = [abs(a - b) for i, a in enumerate(found) for b in found[:i]]
    assert self_bound(x, data, rounds=20, seed=5, level=0.9) == pytest.approx(np.quantile(gaps, 0.9), rel=1e-4)


def test_intervals_hold_the_value_and_shrink_with_images():
    data = gaussian(draw(500, 6, 99))
    small, large = (bootstrap(draw(n, 6, 3), data, rounds=60) for n in (60, 960))
    for interval in (small, large):
        assert 0 <= interval.low < interval.value < interval.high
    # 16 times the images: a quarter of the width, loosely.
    assert large.high - large.low < 0.5 * (small.high - small.low)
    assert bootstrap(draw(60, 6, 3), data, rounds=60) == small
    assert bootstrap(draw(60, 6, 3), data, rounds=60, seed=1) != small
    wide = bootstrap(draw(60, 6, 3), data, rounds=60, level=0.99)
    assert wide.low <= small.low and wide.high >= small.high


def test_coverage_on_synthetic_gaussians():
    """95% intervals should hold what samples of this size give on average; 85% to be safe with 60 trials."""
    data = Gaussian(np.array([1.0, 0, 0, 0]), np.eye(4), 1000)
    samples = [np.random.RandomState(trial).standard_normal((150, 4)) for trial in range(60)]
    mean = np.mean([frechet_distance(gaussian(x), data) for x in samples])
    intervals = [bootstrap(x, data, rounds=100, seed=trial) for trial, x in enumerate(samples)]
    covered = np.mean([i.low <= mean <= i.high for i in intervals])
    assert covered >= 0.85
    # And not by being wide: they are about as wide as the values scatter, 3.9 deviations.
    scatter = np.std([i.value for i in intervals])
    assert 3 < np.mean([i.high - i.low for i in intervals]) / scatter < 5


@pytest.mark.parametrize("shape", [(40, 6), (25, 60)])
def test_paired_rounds_draw_an_image_and_its_reference_together(shape):
    x, y = draw(*shape, 0), draw(*shape, 1, shift=0.2)
    state, found = np.random.RandomState(5), []
    for _ in range(20):
        drawn = state.randint(shape[0], size=shape[0])
        found.append(frechet_distance(gaussian(x[drawn]), gaussian(y[drawn])))
    low, middle, high = np.percentile(found, [5, 50, 95])
    interval = paired_bootstrap(x, y, rounds=20, seed=5, level=0.9)
    assert interval.value == frechet_distance(gaussian(x), gaussian(y))
    assert interval.low == pytest.approx(max(0, interval.value + low - middle), rel=1e-9)
    assert interval.high == pytest.approx(interval.value + high - middle, rel=1e-9)


@pytest.mark.parametrize(("noise", "shift"), [(0.01, 0.02), (0.3, 0.3), (1e-5, 2e-6)])
def test_paired_intervals_cover_what_other_seeds_give(noise, shift):
    """From an engine's rounding to a smaller sub-network: 60 sets of 80 seeds of one generator."""
    mixing = np.random.RandomState(77).standard_normal((8, 8)) * np.logspace(0, -1.5, 8)[:, None]

    def features(seed):
        return np.random.RandomState(seed).standard_normal((80, 8)) @ mixing

    pairs = [(features(trial) + noise * features(1000 + trial) + shift, features(trial)) for trial in range(60)]
    values = [frechet_distance(gaussian(x), gaussian(y)) for x, y in pairs]
    intervals = [paired_bootstrap(*pair, rounds=60, seed=trial) for trial, pair in enumerate(pairs)]
    assert np.mean([i.low <= np.mean(values) <= i.high for i in intervals]) >= 0.85
    # 3.9 deviations; more where nothing but chance makes the distance, as its square is resampled.
    width = np.mean([i.high - i.low for i in intervals])
    assert 3 < width / np.std(values) < 8
    # With the references held fixed an interval says nothing of the figure.
    x, y = pairs[0]
    fixed = bootstrap(x, gaussian(y), rounds=60)
    assert fixed.high - fixed.low > 2 * width


def test_an_engine_of_the_same_images_has_no_interval():
    x = draw(30, 6, 0)
    same = paired_bootstrap(x, x.copy())
    assert same.low == same.value == same.high < 1e-12
    with pytest.raises(InputError, match="same seeds"):
        paired_bootstrap(x, x[1:])


def test_parity_passes_for_noise_and_fails_for_another_distribution():
    state = np.random.RandomState(0)
    pictures = ndimage.gaussian_filter(state.standard_normal((300, 8, 8)), (0, 0.6, 0.6))

    def features(images):
        return np.concatenate([images.reshape(len(images), -1)[:, ::5], np.abs(images).mean((1, 2))[:, None]], 1)

    data, reference = gaussian(features(pictures[:150])), features(pictures[150:])
    same = parity(reference, reference, data, rounds=60)
    assert same.passed and same.difference == 0 and same.bound > 0
    noisy = parity(reference + 1e-5 * state.standard_normal(reference.shape), reference, data, rounds=60)
    assert noisy.passed and 0 < noisy.difference < 0.01 * noisy.bound
    assert parity(reference, reference, data, bound=0.0).passed
    for worse in (reference + 0.5, features(ndimage.gaussian_filter(pictures[150:], (0, 1.5, 1.5)))):
        failed = parity(worse, reference, data, rounds=60)
        assert not failed.passed and failed.difference > 2 * failed.bound
        assert failed.bound == same.bound


def test_refused():
    x = draw(20, 4, 0)
    broken = x.copy()
    broken[3, 1] = np.nan
    with pytest.raises(InputError, match="1 of 20 images hold a NaN"):
        gaussian(broken)
    with pytest.raises(InputError, match="at least 2"):
        gaussian(x[:1])
    for call in (
        lambda: frechet_distance(gaussian(x), gaussian(x[:, :3])),
        lambda: bootstrap(x[:, :3], gaussian(x)),
        lambda: bootstrap(x, gaussian(x), rounds=1),
        lambda: bootstrap(x, gaussian(x), level=95),
        lambda: parity(x[:10], x, gaussian(x)),
    ):
        with pytest.raises(InputError):
            call()
