import numpy as np
import pytest
import torch

from anycost.networks.channels import RATIOS
from anycost.weights.catalogue import EMBEDDED, resolve
from anycost.weights.checkpoint import Checkpoint, read, read_any

KINDS = {
    "avatars": "stylegan2",
    "avatars-attributes": "attributes",
    "avatars-encoder": "encoder",
    "avatars-inpainting": "context-encoder",
    "avatars-micah": "stylegan2",
    "avatars-to-micah": "gans-n-roses",
    "micah-to-avatars": "gans-n-roses",
    "digits-dcgan": "dcgan",
    "digits-mlp": "mlp-gan",
}
PAIRS = {"micah-to-avatars": "avatars-to-micah"}


@pytest.fixture(scope="module")
def checkpoint():
    return read(resolve("avatars"))


def test_all_together_are_under_40_mb():
    assert set(KINDS) == set(EMBEDDED)
    folder = resolve("avatars").parent
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) < 40e6


@pytest.mark.parametrize("name", EMBEDDED)
def test_each_is_what_it_says_in_half_precision_with_a_card_and_a_credit(name):
    found = read_any(resolve(name))
    assert ("stylegan2" if isinstance(found, Checkpoint) else found.network) == KINDS[name]
    assert {tensor.dtype for tensor in found.tensors.values()} == {torch.float16}
    assert found.metadata["credit"] and found.metadata["recipe"].startswith("recipes/")
    # The two ways of a pair have one card.
    card = resolve(name).with_name(f"{PAIRS.get(name, name)}.md").read_text()
    assert name in card
    for heading in ("## Recipe", "## Figures", "## Limits"):
        assert heading in card
    for line in ("| data |", "| training |", "| licence |"):
        assert line in card


def test_is_small_and_credited(checkpoint):
    assert resolve("avatars").stat().st_size < 12e6
    assert "Pablo Stanley" in checkpoint.metadata["credit"] and "DiceBear" in checkpoint.metadata["credit"]
    assert checkpoint.arch.resolution == 128 and len(checkpoint.arch.grid()) == 16
    assert checkpoint.mean_style is not None


def test_every_subnetwork_shows_the_same_faces(checkpoint):
    """Each sub-network's picture of a seed is nearer to the full network's picture of that seed than to that of another."""
    generator = checkpoint.generator()
    z = torch.from_numpy(np.stack([np.random.RandomState(seed).standard_normal(256) for seed in range(16)])).float()
    with torch.no_grad():
        w_plus = generator.mapping(z)[:, None].expand(-1, generator.arch.n_style, -1)
        images = {
            (ratio, image.shape[-1]): image
            for ratio in RATIOS
            for image in generator.synthesis(w_plus, net=generator.subnet(128, ratio), all_images=True)[2:]
        }
    for (ratio, side), image in images.items():
        full = images[1.0, side]
        apart = (image[:, None] - full[None]).square().mean((2, 3, 4))
        assert (apart.argmin(1) == torch.arange(16)).float().mean() >= 0.9, (ratio, side)
        # Pictures differ from each other: no collapse to one face.
        assert image.std(0).mean() > 0.1, (ratio, side)


def test_a_latent_is_the_same_person_in_both_styles(checkpoint):
    """The mapping of the other style is this one's, which is what blending relies on."""
    other = read(resolve("avatars-micah"))
    assert other.arch == checkpoint.arch
    for name, tensor in checkpoint.tensors.items():
        if name.startswith("style."):
            assert torch.equal(tensor, other.tensors[name]), name


def test_the_mean_style_is_that_of_many_latents(checkpoint):
    generator = checkpoint.generator()
    assert torch.allclose(generator.mean_style(20_000, seed=3), checkpoint.mean_style, atol=0.05)
