"""Every network that has a golden output of its original implementation agrees with it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from deterministic import fill_plain, fill_style, golden_input, normal, state_sha256

from anycost.networks.discriminators import Discriminator
from anycost.networks.gans_n_roses import GansNRoses
from anycost.networks.resnet import Encoder
from anycost.networks.stylegan1 import StyleGan1

GOLDENS = Path(__file__).parents[1] / "goldens"
CASES = json.loads((GOLDENS / "cases.json").read_text())
# Float32 sums in another order: about 1e-6 of the range is seen; a wrong constant or a missing step is far above 1e-4.
TOLERANCE = 1e-4


def assert_close(found: torch.Tensor, expected: np.ndarray) -> None:
    assert tuple(found.shape) == expected.shape
    assert np.abs(found.numpy() - expected).max() <= TOLERANCE * (expected.max() - expected.min())


def assert_published(network: torch.nn.Module, case: str) -> None:
    found = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert found == CASES[case]["state"]
    assert state_sha256(network) == CASES[case]["state_sha256"]


@torch.no_grad()
def test_encoder():
    network = Encoder(18).eval()
    fill_plain(network)
    assert_published(network, "encoder")
    image = golden_input("encoder", "image", (1, 3, 256, 256)).clip(-1, 1)
    assert_close(network(image), np.load(GOLDENS / "encoder.npz")["w_plus"])


@torch.no_grad()
def test_discriminator():
    network = Discriminator(64, 0.25, 128).eval()
    fill_style(network)
    assert_published(network, "disc_plain")
    image = golden_input("disc", "image64", (4, 3, 64, 64)).clip(-1, 1)
    assert_close(network(image), np.load(GOLDENS / "disc_plain.npz")["logit"])


@pytest.fixture(scope="module")
def roses():
    case = CASES["gans_n_roses"]
    network = GansNRoses(**case["args"], channels={int(k): v for k, v in case["channels"].items()}).eval()
    fill_style(network)
    return network.requires_grad_(False)


def test_gans_n_roses(roses):
    assert_published(roses, "gans_n_roses")
    expected = np.load(GOLDENS / "gans_n_roses.npz")
    image = golden_input("gnr", "image", (2, 3, 128, 128)).clip(-1, 1)
    content, style = roses.encode(image)
    assert_close(content, expected["content"])
    assert_close(style, expected["style"])
    given = golden_input("gnr", "style", (2, 8))
    assert_close(roses.decode(content, given), expected["decoded_given_style"])
    assert_close(roses(image, given)[0], expected["translated"])


def _fill_stylegan1(network: torch.nn.Module) -> None:
    """The rule of its case: weight_orig and the constant x; bias 0.1 x, plus 1 on the first half of AdaIN biases. What is
    called plain ``weight`` (fused upsampling, and the blur kernels, which the case does not leave as they are made)
    follows the plain rule, as its state_sha256 shows."""
    state = network.state_dict()
    for name, tensor in state.items():
        if name.endswith("weight_flip"):
            continue
        x = normal(name, tuple(tensor.shape))
        if name.endswith("bias"):
            x = 0.1 * x
            if "adain" in name:
                x[: len(x) // 2] += 1
        elif name.endswith(".weight"):
            x = x / math.sqrt(math.prod(tensor.shape[1:]))
        state[name] = torch.from_numpy(x)
    network.load_state_dict(state)


@torch.no_grad()
def test_stylegan1():
    network = StyleGan1().eval()
    _fill_stylegan1(network)
    assert_published(network, "stylegan1")
    noise = [golden_input("stylegan1", f"noise{i}", (2, 1, 4 << i, 4 << i)) for i in range(5)]
    image = network(golden_input("stylegan1", "z", (2, 512)), noise, step=4)
    assert_close(image, np.load(GOLDENS / "stylegan1.npz")["image"])


def test_the_tolerance_would_show_a_wrong_constant():
    """0.1 % on one layer's scale is seen."""
    network = Discriminator(64, 0.25, 128).eval()
    fill_style(network)
    network.convs[1].conv1[0].scale *= 1.001 / math.sqrt(1.0)
    image = golden_input("disc", "image64", (4, 3, 64, 64)).clip(-1, 1)
    with pytest.raises(AssertionError), torch.no_grad():
        assert_close(network(image), np.load(GOLDENS / "disc_plain.npz")["logit"])
