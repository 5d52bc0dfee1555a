import json
from pathlib import Path

import numpy as np
import pytest
import torch
from deterministic import fill, golden_input, state_sha256

from anycost.networks.stylegan2 import Generator, fir, fir_kernel, mix, truncate

GOLDENS = Path(__file__).parents[1] / "goldens"
CASES = json.loads((GOLDENS / "cases.json").read_text())
# Float32 sums in another order differ by about 1e-6 of the range; a wrong constant differs by far more than 1e-4.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def generator():
    network = Generator(**CASES["anycost64"]["args"]).eval().requires_grad_(False)
    fill(network)
    return network


@pytest.fixture(scope="module")
def outputs():
    return np.load(GOLDENS / "anycost64.npz")


def assert_close(found: torch.Tensor, expected: np.ndarray) -> None:
    assert tuple(found.shape) == expected.shape
    assert np.abs(found.numpy() - expected).max() <= TOLERANCE * (expected.max() - expected.min())


def w_plus() -> torch.Tensor:
    return golden_input("anycost64", "w_plus", (2, 10, 512))


def test_names_and_shapes_are_the_published_ones(generator):
    found = {name: list(tensor.shape) for name, tensor in generator.state_dict().items()}
    assert found == CASES["anycost64"]["state"]
    assert state_sha256(generator) == CASES["anycost64"]["state_sha256"]


@pytest.mark.parametrize("ratio", [0.5, 1.0])
@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_golden_subnets(generator, outputs, ratio, resolution):
    image = generator.synthesis(w_plus(), net=generator.subnet(resolution, ratio))
    assert_close(image, outputs[f"image_r{ratio}_res{resolution}"])


def test_golden_flexible(generator, outputs):
    net = generator.subnet(64, CASES["anycost64"]["flexible_a"])
    assert_close(generator.synthesis(w_plus(), net=net), outputs["image_flexible_a"])


def test_golden_mapping_and_image_from_z(generator, outputs):
    z = golden_input("anycost64", "z", (2, 1, 512))
    assert_close(generator.mapping(z), outputs["mapped_w"])
    assert_close(generator(z), outputs["image_z"])


def test_golden_given_noise(generator, outputs):
    stored = generator.noise("stored", generator.arch.full(), 1)
    given = [golden_input("anycost64", f"noise_{i}", tuple(layer.shape)) for i, layer in enumerate(stored)]
    assert_close(generator.synthesis(w_plus(), noise=given), outputs["image_given_noise"])


@pytest.mark.parametrize(("ratio", "resolution"), [(0.25, 128), (1.0, 512)])
def test_golden_config_f(ratio, resolution):
    network = Generator(1024, 2).eval().requires_grad_(False)
    fill(network)
    assert state_sha256(network) == CASES["config-f"]["state_sha256"]
    image = network.synthesis(golden_input("config-f", "w_plus", (1, 18, 512)), net=network.subnet(resolution, ratio))
    golden = np.load(GOLDENS / "config-f.npz")
    middle = (resolution - 64) // 2
    assert_close(torch.nn.functional.avg_pool2d(image, 16), golden[f"r{ratio}_res{resolution}_pooled16"])
    window = image[:, :, middle : middle + 64, middle : middle + 64]
    assert_close(window, golden[f"r{ratio}_res{resolution}_centre64"])


def test_truncation_is_the_line_to_the_mean(generator):
    w, mean = torch.randn(3, 1, 512), torch.randn(1, 512)
    assert torch.equal(truncate(w, mean, 1.0), w)
    assert torch.allclose(truncate(w, mean, 0.0), mean.expand(3, 1, 512))
    assert torch.allclose(truncate(w, mean, 0.25), 0.75 * mean + 0.25 * w)


def test_forward_truncates_before_it_mixes(generator):
    z, mean = torch.randn(2, 2, 512), torch.randn(1, 512)
    w = 0.3 * mean + 0.7 * generator.mapping(z)
    rows = torch.cat([w[:, :1].expand(-1, 4, -1), w[:, 1:].expand(-1, 6, -1)], 1)
    found = generator(z, truncation=0.7, truncation_style=mean, inject_index=4)
    assert torch.allclose(found, generator.synthesis(rows), atol=1e-5)


def test_mix_refuses_other_row_counts():
    for rows, at in ((3, None), (2, 11), (2, -1)):
        with pytest.raises(ValueError, match=r"rows|inject_index"):
            mix(torch.zeros(1, rows, 4), 10, at)


def test_random_noise_differs_and_none_is_zero(generator):
    net = generator.arch.full()
    first, second = (generator.synthesis(w_plus(), noise="random") for _ in range(2))
    assert not torch.allclose(first, second)
    assert all(not layer.any() for layer in generator.noise("none", net, 1))
    with pytest.raises(ValueError, match="quiet"):
        generator.noise("quiet", net, 1)


@pytest.mark.parametrize(("up", "pad"), [(1, (1, 1)), (2, (2, 1)), (3, (0, 2))])
def test_fir_is_the_definition(up, pad):
    """Against zero insertion, padding and correlation with the flipped filter, sample by sample in float64."""
    x, kernel = torch.randn(1, 2, 5, 7).double(), torch.randn(4, 4).double()
    spread = np.zeros((1, 2, 5 * up, 7 * up))
    spread[:, :, ::up, ::up] = x.numpy()
    padded = np.pad(spread, [(0, 0), (0, 0), pad, pad])
    height, width = padded.shape[2] - 3, padded.shape[3] - 3
    expected = np.zeros((1, 2, height, width))
    for i in range(height):
        for j in range(width):
            expected[:, :, i, j] = (padded[:, :, i : i + 4, j : j + 4] * kernel.numpy()[::-1, ::-1]).sum((2, 3))
    assert np.allclose(fir(x, kernel, up, pad).numpy(), expected, atol=1e-12)


def test_fir_kernel_is_normalised_to_its_gain():
    assert fir_kernel(4.0).sum() == 4 and fir_kernel(4.0)[1, 2] == 4 * 9 / 64
