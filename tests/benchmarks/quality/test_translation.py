"""Diversity of translations with a generator of known distribution and features that are mean colours."""

import numpy as np
import pytest
import torch
from scipy import linalg

from anycost.benchmarks.quality.frechet import gaussian
from anycost.benchmarks.quality.pairs import Distance
from anycost.benchmarks.quality.translation import translation
from anycost.errors import InputError


class Colours:
    """Features: the mean colour."""

    measure, identity, dim = "FD-colours", "0" * 64, 3

    def __call__(self, images):
        return images.mean(axis=(1, 2)).astype(np.float32)


class MeanAbsolute(torch.nn.Module):
    def forward(self, first, second):
        return (first - second).abs().mean([1, 2, 3])


DISTANCE = Distance("mean absolute", MeanAbsolute())
PICTURES = np.zeros((3, 8, 8, 3), np.uint8)
TARGET = np.random.RandomState(0).normal(128, 20, (400, 3))
DATA = gaussian(TARGET)


def flat(colours: np.ndarray) -> np.ndarray:
    return np.clip(colours, 0, 255).astype(np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)


def styled(count: int, spread: float):
    return lambda picture, i: flat(np.random.RandomState(i + 1).normal(128, spread, (count, 3)))


def test_the_mean_over_pictures_of_each_ones_distance():
    translate = styled(40, 20)
    found = translation(translate, PICTURES, Colours(), DATA, DISTANCE)
    distances = []
    for i in range(3):
        x = translate(PICTURES[i], i)[:, 0, 0].astype(float)
        c1, c2 = np.cov(x, rowvar=False), np.cov(TARGET, rowvar=False)
        root = np.trace(linalg.sqrtm(c1 @ c2).real)
        distances.append(np.square(x.mean(0) - TARGET.mean(0)).sum() + np.trace(c1) + np.trace(c2) - 2 * root)
    assert found["DFD-colours"] == pytest.approx(np.mean(distances), rel=1e-5)
    apart = [np.abs(np.diff(translate(None, i)[:, 0, 0].astype(float), axis=0)[::2]).mean() for i in range(3)]
    assert found["diversity"] == pytest.approx(np.mean(apart) / 127.5, rel=1e-5)
    assert found["pictures"] == 3 and found["styles"] == 40


def test_a_network_that_ignores_its_style_is_found_out():
    diverse = translation(styled(40, 20), PICTURES, Colours(), DATA, DISTANCE)
    narrow = translation(styled(40, 2), PICTURES, Colours(), DATA, DISTANCE)
    single = translation(styled(41, 0), PICTURES, Colours(), DATA, DISTANCE)
    assert single["diversity"] == 0 < narrow["diversity"] < diverse["diversity"]
    assert single["DFD-colours"] > narrow["DFD-colours"] > 3 * diverse["DFD-colours"]
    # All of the data's variance and its mean are missed by one colour: 3 * 20^2 and nearly nothing.
    assert single["DFD-colours"] == pytest.approx(np.trace(DATA.covariance), rel=0.05)


def test_progress_and_what_is_refused():
    told = []
    translation(styled(2, 9), PICTURES, Colours(), DATA, DISTANCE, lambda *step: told.append(step))
    assert told[-1] == ("translations", 3, 3)
    for translate, pictures in (
        (styled(1, 9), PICTURES),
        (styled(4, 9), PICTURES[:0]),
        (lambda picture, i: styled(4 + i, 9)(picture, i), PICTURES),
    ):
        with pytest.raises(InputError):
            translation(translate, pictures, Colours(), DATA, DISTANCE)
