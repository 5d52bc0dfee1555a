import numpy as np
import pytest
import torch

from anycost.networks.channels import RATIOS
from anycost.weights.catalogue import resolve
from anycost.weights.checkpoint import read


@pytest.fixture(scope="module")
def checkpoint():
    return read(resolve("avatars"))


def test_is_small_half_precision_and_credited(checkpoint):
    assert resolve("avatars").stat().st_size < 12e6
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {torch.float16}
    assert "Pablo Stanley" in checkpoint.metadata["credit"] and "DiceBear" in checkpoint.metadata["credit"]
    assert checkpoint.arch.resolution == 64 and len(checkpoint.arch.grid()) == 12
    assert checkpoint.mean_style is not None


def test_every_subnetwork_shows_the_same_faces(checkpoint):
    """Each sub-network's picture of a seed is nearer to the full network's picture of that seed than to that of another."""
    generator = checkpoint.generator()
    z = torch.from_numpy(np.stack([np.random.RandomState(seed).standard_normal(256) for seed in range(16)])).float()
    with torch.no_grad():
        w_plus = generator.mapping(z)[:, None].expand(-1, 10, -1)
        images = {
            (ratio, image.shape[-1]): image
            for ratio in RATIOS
            for image in generator.synthesis(w_plus, net=generator.subnet(64, ratio), all_images=True)[2:]
        }
    for (ratio, side), image in images.items():
        full = images[1.0, side]
        apart = (image[:, None] - full[None]).square().mean((2, 3, 4))
        assert (apart.argmin(1) == torch.arange(16)).float().mean() >= 0.9, (ratio, side)
        # Pictures differ from each other: no collapse to one face.
        assert image.std(0).mean() > 0.1, (ratio, side)


def test_the_mean_style_is_that_of_many_latents(checkpoint):
    generator = checkpoint.generator()
    assert torch.allclose(generator.mean_style(20_000, seed=3), checkpoint.mean_style, atol=0.05)
