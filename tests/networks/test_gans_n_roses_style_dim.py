"""GANs N' Roses with a mapping of another width: the published one stays as it was, and a file tells its own."""

from math import sqrt

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from anycost.errors import CheckpointError
from anycost.networks.gans_n_roses import GansNRoses
from anycost.networks.registry import BY_NAME, identify
from anycost.weights.checkpoint import read_any

# No two widths are equal, so that none can stand for another.
SMALL = {
    "size": 32,
    "num_down": 2,
    "latent_dim": 5,
    "n_mlp": 3,
    "n_res": 1,
    "channels": {32: 6, 16: 10, 8: 12, 4: 14},
    "style_dim": 20,
}


def shapes_of(network):
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    network = GansNRoses(**SMALL).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        # As made, biases are 0 and 1: a lost one would go unseen.
        if name.endswith("bias"):
            parameter.add_(torch.randn_like(parameter))
    return network


def test_the_default_is_the_published_width():
    found = shapes_of(GansNRoses(**{name: value for name, value in SMALL.items() if name != "style_dim"}))
    assert [found[f"mapping.{i}.weight"] for i in range(3)] == [(512, 5), (512, 512), (512, 512)]
    assert found["convs.3.conv.modulation.weight"] == (6, 512)


def test_the_width_is_that_of_the_mapping_and_of_every_modulation(small):
    found = shapes_of(small)
    assert [found[f"mapping.{i}.weight"] for i in range(3)] == [(20, 5), (20, 20), (20, 20)]
    modulations = {name: shape for name, shape in found.items() if name.endswith("modulation.weight")}
    # Entering channels by hand: the block and first layer at 8 px, then two layers at each of 16 and 32 px, and three to RGB.
    entering = {
        "adain_bottleneck.0.conv1.conv": 12,
        "adain_bottleneck.0.conv2.conv": 12,
        "conv1.conv": 12,
        "to_rgb1.conv": 12,
        "convs.0.conv": 12,
        "convs.1.conv": 10,
        "convs.2.conv": 10,
        "convs.3.conv": 6,
        "to_rgbs.0.conv": 10,
        "to_rgbs.1.conv": 6,
    }
    assert modulations == {f"{name}.modulation.weight": (width, 20) for name, width in entering.items()}
    # Nothing in the encoder knows the width of w.
    other = shapes_of(GansNRoses(**SMALL | {"style_dim": 44}))
    assert {n: s for n, s in other.items() if n.startswith("encoder.")} == {
        n: s for n, s in found.items() if n.startswith("encoder.")
    }


def test_the_mapping_by_hand(small):
    """Equalized learning rate 0.01: every layer is leaky(x W^T 0.01 / sqrt(entering) + 0.01 b) sqrt 2, entering 5, 20, 20."""
    style = np.random.default_rng(1).standard_normal((4, 5))
    x = style
    for i, entering in enumerate((5, 20, 20)):
        weight, bias = (small.mapping[i].get_parameter(name).double().numpy() for name in ("weight", "bias"))
        x = x @ weight.T * (0.01 / sqrt(entering)) + 0.01 * bias
        x = np.where(x > 0, x, 0.2 * x) * sqrt(2)
    found = small.mapping(torch.from_numpy(style).float()).numpy()
    # Float32 sums of 20 numbers of about 1.
    np.testing.assert_allclose(found, x, atol=1e-5)


def test_a_layer_by_hand(small):
    """``conv1`` on content of one pixel, where a padded 3x3 convolution is its middle tap: W is scaled by the affine of w,
    divided by its norm over all nine taps, biased, and passed through the leaky ReLU."""
    random = np.random.default_rng(2)
    x, w = random.standard_normal((3, 12)), random.standard_normal((3, 20))
    layer = small.conv1
    affine, kernel = layer.conv.modulation, layer.conv.weight[0].double().numpy()
    style = w @ affine.weight.double().numpy().T / sqrt(20) + affine.bias.double().numpy()
    scaled = kernel[None] / sqrt(12 * 9) * style[:, None, :, None, None]
    scaled /= np.sqrt((scaled**2).sum((2, 3, 4), keepdims=True) + 1e-8)
    y = np.einsum("noi,ni->no", scaled[..., 1, 1], x) + layer.activate.bias.double().numpy()
    y = np.where(y > 0, y, 0.2 * y) * sqrt(2)
    found = layer(torch.from_numpy(x).float()[:, :, None, None], torch.from_numpy(w).float())
    # Float32 sums of 12 numbers of about 1.
    np.testing.assert_allclose(found[:, :, 0, 0].numpy(), y, atol=1e-5)


def test_shapes_and_what_a_style_changes(small):
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    content, own = small.encode(image)
    assert content.shape == (2, 12, 8, 8) == (2, *small.content_shape) and own.shape == (2, 5)
    first, second = small.decode(content, torch.full((2, 5), -1.0)), small.decode(content, torch.full((2, 5), 1.0))
    assert first.shape == (2, 3, 32, 32)
    # Of random weights: the mapping alone scales its input by about 1, so the pictures differ visibly.
    assert (first - second).abs().mean() > 1e-3


def test_a_file_without_arguments_tells_the_width(small, tmp_path):
    state = small.state_dict()
    kind = identify(shapes_of(small))
    assert kind is BY_NAME["gans-n-roses"]
    assert kind.infer(shapes_of(small)) == SMALL
    path = tmp_path / "roses.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    read = read_any(path)
    assert read.arguments["style_dim"] == 20
    image = torch.zeros(1, 3, 32, 32)
    # The same weights by the same operations.
    torch.testing.assert_close(read.module()(image)[0], small(image)[0], rtol=0, atol=0)


def test_a_layer_of_another_width_is_refused(small, tmp_path):
    state = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    state["convs.1.conv.modulation.weight"] = torch.zeros(10, 21)
    path = tmp_path / "roses.safetensors"
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"convs\.1\.conv\.modulation\.weight"):
        read_any(path)
