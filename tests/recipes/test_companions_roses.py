"""The translation recipe on a handful of pictures."""

import copy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from anycost.networks.gans_n_roses import GansNRoses  # noqa: E402
from anycost.networks.perceptual import PyramidDistance  # noqa: E402
from recipes.avatars import roses  # noqa: E402

SMALL = roses.SHAPE | {
    "size": 32,
    "num_down": 2,
    "channels": {64: 4, 32: 6, 16: 8, 8: 10, 4: 10},
    "style_dim": 16,
    "latent_dim": roses.LATENT,
}


def quartet(n=4):
    generator = torch.Generator().manual_seed(0)
    return roses.Quartet(*(torch.rand(n, 3, 32, 32, generator=generator) * 2 - 1 for _ in range(4)))


def test_decoding_with_static_weights_is_the_reference_network():
    torch.manual_seed(0)
    network = GansNRoses(**SMALL).requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.add_(torch.randn_like(parameter))
    content, style = network.encode(torch.randn(3, 3, 32, 32))
    expected = network.decode(content, 3 * style)
    # float32 sums in another order.
    assert (roses.decode(network, content, 3 * style) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_every_resolution_is_compared():
    images = [torch.zeros(1, 3, side, side) for side in (8, 16, 32)]
    # A flat target: at each resolution the mean absolute difference of values, and none between neighbours.
    assert abs(float(roses.pyramid_loss(images, torch.full((1, 3, 32, 32), 0.5))) - (0.5 + (0.5 + 0.5) / 2)) < 1e-6
    # Stripes that average away are seen by the largest alone: 1 of values, 2 between columns.
    stripes = torch.tensor([-1.0, 1.0]).repeat(16).expand(1, 3, 32, 32)
    assert abs(float(roses.pyramid_loss(images, stripes)) - 3) < 1e-6


def test_pictures_that_belong_together_are_moved_alike():
    torch.manual_seed(0)
    x = torch.rand(6, 3, 32, 32)
    first, second = roses.moved(x, 2 * x)
    assert torch.allclose(2 * first, second, atol=1e-6) and (first - x).abs().mean() > 0.01
    # Every row has a movement of its own.
    same = roses.moved(x[:1].expand(6, -1, -1, -1))[0]
    assert (same[1:] - same[:1]).abs().amax([1, 2, 3]).min() > 0.01


def test_normality_is_zero_for_standard_normal_styles_only():
    styles = torch.randn(200_000, roses.LATENT, generator=torch.Generator().manual_seed(0))
    # Means, deviations and correlations are each within 1 / sqrt(200 000).
    assert roses.normality(styles) < 1e-3
    assert abs(roses.normality(styles + 1) - roses.LATENT) < 0.1
    assert abs(roses.normality(3 * styles) - roses.LATENT * 4) < 0.5
    alike = styles[:, :1].expand(-1, roses.LATENT)
    assert abs(roses.normality(alike) - (roses.LATENT - 1)) < 0.1
    # Styles that are nearly all alike are pushed apart.
    small = (1e-3 * styles[:100]).requires_grad_()
    roses.normality(small).backward()
    assert (small.grad * small).sum() < 0 and small.grad.abs().mean() > 1e-3


def test_both_stages_move_what_they_should_and_resume():
    pair, distance = roses.Pair.start(SMALL), PyramidDistance()
    before = [p.detach().clone() for p in pair.judges.parameters()]
    losses = roses.step(pair, distance, quartet(), adversarial=False)
    assert {"a2b", "b2a", "normal", "total"} == set(losses) and all(np.isfinite(v) for v in losses.values())
    assert all(torch.equal(a, b) for a, b in zip(before, pair.judges.parameters(), strict=True))
    losses = roses.step(pair, distance, quartet(), adversarial=True)
    assert {"cycle", "found", "fooling", "judging"} < set(losses) and all(np.isfinite(v) for v in losses.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, pair.judges.parameters(), strict=True))
    other = roses.Pair.start(SMALL)
    other.load(copy.deepcopy(pair.values()))  # as through a file
    assert other.step == 2
    for one in (pair, other):
        torch.manual_seed(5)
        roses.step(one, distance, quartet(), adversarial=True)
    assert all(torch.equal(a, b) for a, b in zip(pair.ema.parameters(), other.ema.parameters(), strict=True))


def test_regression_learns():
    """Of one batch, repeated: the loss falls."""
    torch.manual_seed(1)
    pair = roses.Pair.start(SMALL)
    flat = torch.linspace(-0.5, 0.5, 4).reshape(4, 1, 1, 1).expand(4, 3, 32, 32).contiguous()
    pictures = roses.Quartet(flat, flat.flip(0), -flat, flat)
    losses = [roses.step(pair, PyramidDistance(), pictures, adversarial=False) for _ in range(12)]
    assert losses[-1]["a2b"] < 0.6 * losses[0]["a2b"]


def test_data_must_be_there_in_all_four_folders(tmp_path):
    folders = {}
    for name in ("a", "b", "a_as_b", "b_as_a"):
        folders[name] = tmp_path / name
        (tmp_path / name / "train").mkdir(parents=True)
        np.save(tmp_path / name / "train/images.npy", np.zeros((3, 64, 64, 3), np.uint8))
        np.save(tmp_path / name / "train/labels.npy", np.zeros((3, 11), np.uint8))
    data = roses.Data.load(SimpleNamespace(**folders), "train")
    assert len(data) == 3 and data.batch(np.array([0, 2])).a.shape == (2, 3, 64, 64)
    with pytest.raises(SystemExit, match="holds no pictures"):
        roses.Data.load(SimpleNamespace(**folders), "validation")
