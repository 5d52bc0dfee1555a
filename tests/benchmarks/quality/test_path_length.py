"""Path length of linear generators, where it has a closed form, and of the embedded generator in both precisions."""

import numpy as np
import pytest
import torch

from anycost.benchmarks.quality.pairs import Distance, lpips, pyramid_distance
from anycost.benchmarks.quality.path_length import path_length, squared
from anycost.errors import InputError
from anycost.networks.perceptual import Lpips, PyramidDistance
from anycost.weights.catalogue import resolve
from anycost.weights.checkpoint import read

SIDE, DIM = 8, 5
MIXING = torch.randn(DIM, 3 * SIDE * SIDE, generator=torch.manual_seed(0), dtype=torch.float64) / 50


def linear(w: torch.Tensor) -> torch.Tensor:
    """Stays within [-1, 1], where nothing is clamped."""
    return (w @ MIXING.to(w.dtype)).reshape(-1, 3, SIDE, SIDE)


def mean_square(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x - y).square().mean([1, 2, 3])


def points(count: int, dim: int = DIM, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((count, dim))).to(dtype)


@pytest.mark.parametrize("count", [1, 30, 130])
def test_closed_form_of_a_linear_generator(count):
    """d / epsilon^2 = mean square of A (w1 - w0), wherever on the line; of 130, one or two at each end are left out."""
    start, end = points(count, seed=1), points(count, seed=2)
    rates = ((end - start) @ MIXING).square().mean(1).numpy()
    low, high = np.percentile(rates, [1, 99])
    # The percentiles as StyleGAN takes them: the values next outside.
    ranks = np.sort(rates)
    kept = ranks[np.searchsorted(ranks, low, "right") - 1 : np.searchsorted(ranks, high, "left") + 1]
    assert len(kept) == {1: 1, 30: 30, 130: 128}[count]
    # Differences of 1e-4 of numbers near 1, in float64.
    assert path_length(linear, start, end, mean_square, batch=7) == pytest.approx(kept.mean(), rel=1e-8)
    assert path_length(linear, start, end, mean_square, epsilon=1e-3) == pytest.approx(kept.mean(), rel=1e-8)


def test_float32_is_enough():
    start, end = points(60, seed=1), points(60, seed=2)
    exact = path_length(linear, start, end, mean_square)
    assert path_length(linear, start.float(), end.float(), mean_square) == pytest.approx(exact, rel=1e-3)


def test_a_bent_path_is_measured_all_along_it():
    """Images w^2 with ends 0 and 1: the square of the rate, 4 t^2, has the mean 4/3 over t."""

    def bent(w):
        return w.square()[..., None, None].expand(-1, 3, SIDE, SIDE)

    start, end = torch.zeros(4000, 1, dtype=torch.float64), torch.ones(4000, 1, dtype=torch.float64)
    found = path_length(bent, start, end, mean_square, batch=500)
    assert found == pytest.approx(4 / 3, rel=0.05)  # by 4000 random t, and without the tails
    assert path_length(bent, start, end, mean_square, batch=64) == pytest.approx(found, rel=1e-9)
    assert path_length(bent, start, end, mean_square, seed=1) != found


def test_what_cannot_be_seen_does_not_count():
    """Beyond white, and detail finer than 256 px."""
    start, end = points(3, 1, 1), points(3, 1, 2)
    assert path_length(lambda w: 3 + w[..., None, None].expand(-1, 3, 8, 8), start, end, mean_square) == 0
    checks = 1.0 - 2 * ((torch.arange(512)[:, None] + torch.arange(512)) % 2)

    def fine(w):
        return (w[..., None, None] * checks).expand(-1, 3, 512, 512) / 5

    assert path_length(fine, start, end, mean_square) == pytest.approx(0, abs=1e-12)


def test_style_rows_and_progress():
    start, end = points(9, seed=1), points(9, seed=2)
    rows = [x[:, None].expand(-1, 4, -1) for x in (start, end)]
    told = []
    found = path_length(
        lambda w: linear(w.mean(1)), *rows, mean_square, batch=4, progress=lambda *step: told.append(step)
    )
    assert found == pytest.approx(path_length(linear, start, end, mean_square))
    assert told == [("PPL", 4, 9), ("PPL", 8, 9), ("PPL", 9, 9)]


def test_distances_must_be_quadratic():
    """Halving a small difference quarters the squared pyramid distance; the plain one is a root above its softening."""
    x = 0.3 * torch.sin(torch.arange(3 * 32 * 32).reshape(1, 3, 32, 32) ** 1.3).double()
    step = torch.randn(x.shape, generator=torch.manual_seed(1), dtype=torch.float64)
    quadratic = squared(pyramid_distance())
    assert quadratic.name == "squared pyramid distance (NLPD)"
    quadratic.network.double()
    whole, half = (quadratic(x, x + size * step).item() for size in (1e-4, 5e-5))
    assert whole / half == pytest.approx(4, rel=1e-3)
    # It is the square of the other one where there is one level's worth of difference to speak of.
    pairs = zip(PyramidDistance().double().normalised(x), PyramidDistance().double().normalised(x + step), strict=True)
    assert quadratic(x, x + step).item() == pytest.approx(np.mean([mean_square(*pair).item() for pair in pairs]))
    named = Distance("LPIPS (VGG16)", Lpips())
    assert squared(named) is named and callable(lpips)
    with pytest.raises(InputError, match="quadratic"):
        squared(Distance("L1", torch.nn.L1Loss()))


def test_the_embedded_generator_in_float32_and_float64():
    generator = read(resolve("avatars")).generator()
    z = points(8, generator.arch.style_dim, dtype=torch.float32)
    found = {}
    for dtype in (torch.float32, torch.float64):
        network, distance = generator.to(dtype), squared(pyramid_distance())
        distance.network.to(dtype)
        with torch.no_grad():
            w = network.mapping(z.to(dtype))[:, None].expand(-1, generator.arch.n_style, -1)
        net = generator.subnet(32, 0.5)
        found[dtype] = path_length(lambda w, g=network, n=net: g.synthesis(w, net=n), w[::2], w[1::2], distance)
    # 0.2% apart as measured: of 4 pairs, and images of 1e-6 of rounding that differ by 1e-4 or so.
    assert found[torch.float64] > 0
    assert found[torch.float32] == pytest.approx(found[torch.float64], rel=1e-2)


def test_refused():
    with pytest.raises(InputError):
        path_length(linear, points(3), points(4), mean_square)
    with pytest.raises(InputError):
        path_length(linear, points(3)[:0], points(3)[:0], mean_square)
