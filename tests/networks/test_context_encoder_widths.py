"""The context encoder and its discriminator at other widths: the published one stays as it was."""

import pytest
import torch
from safetensors.torch import save_file

from anycost.networks.context_encoder import ContextEncoder, PatchDiscriminator
from anycost.networks.registry import BY_NAME, identify
from anycost.weights.checkpoint import read_any

# As printed by the authors of the form with skips: entering and leaving channels and kernels, transposed layers entering first.
PRINTED = {
    "enc1.0.weight": (64, 3, 4, 4),
    "enc2.0.weight": (64, 64, 4, 4),
    "enc3.0.weight": (128, 64, 4, 4),
    "enc4.0.weight": (256, 128, 4, 4),
    "enc5.0.weight": (512, 256, 4, 4),
    "bottleneck.0.weight": (2048, 512, 4, 4),
    "dec1.0.weight": (2048, 512, 4, 4),
    "dec2.0.weight": (1024, 256, 4, 4),
    "dec3.0.weight": (512, 128, 4, 4),
    "dec4.0.weight": (256, 64, 4, 4),
    "dec5.0.weight": (128, 3, 4, 4),
}


def shapes_of(network):
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_the_default_is_as_printed():
    found = shapes_of(ContextEncoder())
    assert {name: found[name] for name in PRINTED} == PRINTED
    assert found["bottleneck.1.running_var"] == (2048,) and found["dec1.1.weight"] == (512,)


def test_the_discriminators_default_is_as_printed():
    found = shapes_of(PatchDiscriminator())
    convolutions = [found[f"layer{i}.0.weight"] for i in range(1, 5)] + [found["layer5.weight"]]
    assert convolutions == [(64, 3, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1, 512, 4, 4)]
    assert found["attention.query_conv.weight"] == (16, 128, 1, 1)
    assert found["attention.value_conv.weight"] == (128, 128, 1, 1)


@pytest.mark.parametrize("features", [1, 3, 16])
def test_every_width_scales_with_features(features):
    network = ContextEncoder(features).eval()
    found = shapes_of(network)
    for name, (leaving, entering, *kernel) in PRINTED.items():
        wanted = [width if width == 3 else width * features // 64 for width in (leaving, entering)]
        assert found[name] == (*wanted, *kernel), name
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 128, 128)).shape == (2, 3, 64, 64)


def test_the_embedded_width_has_the_parameters_that_its_card_says():
    # By hand, weights of 16 numbers for each pair of channels: pairs of the ten convolutions in the order of PRINTED.
    pairs = [3 * 16, 16 * 16, 16 * 32, 32 * 64, 64 * 128, 128 * 512, 512 * 128, 256 * 64, 128 * 32, 64 * 16, 32 * 3]
    norms = [16, 32, 64, 128, 512, 128, 64, 32, 16]
    assert sum(p.numel() for p in ContextEncoder(16).parameters()) == 16 * sum(pairs) + 2 * sum(norms)


@pytest.mark.parametrize("features", [4, 16])
def test_a_narrow_discriminator_gives_one_probability(features):
    with torch.no_grad():
        probability = PatchDiscriminator(features).eval()(torch.randn(2, 3, 64, 64))
    assert probability.shape == (2, 1, 1, 1)
    assert (probability > 0).all() and (probability < 1).all()


@pytest.mark.parametrize("features", [3, 16])
def test_a_file_says_its_width(features, tmp_path):
    torch.manual_seed(0)
    network = ContextEncoder(features).eval()
    save_file(
        {name: t for name, t in network.state_dict().items() if t.is_floating_point()}, tmp_path / "any.safetensors"
    )
    checkpoint = read_any(tmp_path / "any.safetensors")
    assert checkpoint.network == "context-encoder"
    assert checkpoint.arguments == {"features": features}
    x = torch.rand(1, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        # The same weights in the same order of operations.
        assert torch.equal(checkpoint.module()(x), network(x))


def test_the_published_width_is_told_from_the_form_without_skips():
    kind = identify(PRINTED)
    assert kind is BY_NAME["context-encoder"]
    assert kind.infer(PRINTED) == {"features": 64}
    assert identify(PRINTED | {"enc6.0.weight": (512, 512, 4, 4), "dec6.0.weight": (64, 3, 4, 4)}) is not kind
