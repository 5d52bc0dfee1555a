"""Generators without sub-networks, from a bundle."""

import numpy as np
import pytest
import torch
from small_networks import OTHERS

import anycost
from anycost.errors import InputError
from anycost.export.build import Plan, build
from anycost.runtime.latents import as_images, latents
from anycost.runtime.pipelines.sample import KINDS, choices, sample
from anycost.weights.random_init import random_network

SIDES = {"dcgan": 64, "lsgan": 64, "mnist-cnn": 28, "mnist-digits": 28, "mlp-gan": 28, "transgan": 32, "stylegan1": 64}


@pytest.fixture(scope="module")
def networks():
    return {kind: random_network(kind, 3, **OTHERS[kind]) for kind in KINDS}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory, networks):
    folder = tmp_path_factory.mktemp("sample") / "bundle"
    build(None, Plan("sample", [], ["onnxruntime"], networks=networks), folder)
    return anycost.open(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_give_images_and_the_same_in_any_batch(runtime, kind):
    network = runtime.network(kind)
    images = sample(network, [4, 7, 14], batch=2)
    assert images.shape == (3, SIDES[kind], SIDES[kind], 3) and images.dtype == np.uint8
    assert (images[0] != images[1]).any()
    # Float32 sums in another order may tip a value over to the next of 256.
    assert np.abs(sample(network, 14)[0].astype(int) - images[2]).max() <= 1


def test_images_are_the_reference_networks(runtime, networks):
    z = torch.from_numpy(latents([1, 2], 20))
    with torch.no_grad():
        expected = as_images(networks["dcgan"].module()(z).repeat(1, 3, 1, 1).numpy())
    assert np.abs(sample(runtime.network("dcgan"), [1, 2]).astype(int) - expected).max() <= 1


def test_the_set_of_digits_makes_the_digit_that_a_seed_ends_in_or_the_one_asked_for(runtime):
    network = runtime.network("mnist-digits")
    assert choices(network) == tuple("0123456789")
    assert np.array_equal(sample(network, [14]), sample(network, [14], "4"))
    assert (sample(network, [14], "5") != sample(network, [14], "4")).any()
    with pytest.raises(InputError, match="'10'"):
        sample(network, [1], "10")


def test_truncation_is_styleganss(runtime):
    network = runtime.network("stylegan1")
    assert choices(network) == ("64",)
    near, far = (sample(network, [1, 2], psi=psi).astype(int) for psi in (0.0, 1.0))
    # At psi 0 only the noise differs between two seeds.
    assert np.abs(near[0] - near[1]).mean() < np.abs(far[0] - far[1]).mean()
    with pytest.raises(InputError, match="psi"):
        sample(runtime.network("dcgan"), [1], psi=0.5)
    with pytest.raises(InputError, match="nothing of the kind"):
        sample(runtime.network("dcgan"), [1], "7")
