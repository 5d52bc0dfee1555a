import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from deterministic import golden_input, normal

from anycost.errors import CheckpointError
from anycost.networks.stylegan2 import Generator, fir_kernel, mix, truncate
from anycost.weights.checkpoint import check
from anycost.weights.families import from_nvidia, from_rosinality, is_nvidia, is_rosinality
from anycost.weights.generator_shape import infer

GOLDENS = Path(__file__).parents[1] / "goldens"
CASES = json.loads((GOLDENS / "cases.json").read_text())


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """By the rule of the goldens' README, for both families' names."""
    if name.endswith(("kernel", "resample_filter")):
        return fir_kernel(4.0 if name.endswith("kernel") else 1.0).numpy()
    x = normal(name, shape)
    if (len(shape) == 1 and name.endswith("weight")) or name.endswith(("noise_strength", "w_avg", "latent_avg")):
        return 0.1 * x
    if name.endswith(("modulation.bias", "affine.bias")):
        return 1 + 0.1 * x
    if name.startswith(("style.", "mapping.")):
        return x / 0.01 if name.endswith("weight") else x
    return 0.1 * x if name.endswith("bias") else x


def tensors_of(case: str) -> dict[str, torch.Tensor]:
    """As the golden's network had them, which its hash proves."""
    found = {name: value(name, tuple(shape)) for name, shape in CASES[case]["state"].items()}
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(found[name]).tobytes() for name in sorted(found)))
    assert digest.hexdigest() == CASES[case]["state_sha256"]
    return {name: torch.from_numpy(np.asarray(x)) for name, x in found.items()}


def network(tensors: dict[str, torch.Tensor]) -> Generator:
    """Ours, after the same checks as a file's tensors get."""
    arch = infer(tensors, {}, "golden")
    ours = Generator(arch.resolution, arch.channel_multiplier, arch.channel_max, arch.style_dim, arch.n_mlp)
    check(tensors, ours, "golden", "a generator")
    missing, unexpected = ours.load_state_dict(tensors, strict=False)
    assert not unexpected and all(name.endswith(".kernel") for name in missing)
    return ours.eval().requires_grad_(False)


def assert_close(found: torch.Tensor, expected: np.ndarray) -> None:
    assert tuple(found.shape) == expected.shape
    assert np.abs(found.numpy() - expected).max() <= 1e-5 * (expected.max() - expected.min())


@pytest.fixture(scope="module")
def nvidia():
    return tensors_of("nvidia_stylegan2")


def test_nvidia_golden(nvidia):
    ours = from_nvidia(nvidia)
    mean = ours.pop("mean_style")
    assert mean.shape == (1, 64)
    generator, golden = network(ours), np.load(GOLDENS / "nvidia_stylegan2.npz")
    inputs = CASES["nvidia_stylegan2"]["inputs"]
    w = truncate(generator.mapping(golden_input(inputs["case"], "z", (2, 64)))[:, None], mean, inputs["truncation_psi"])
    rows = mix(w, generator.arch.n_style)
    assert_close(rows, golden["w_plus"])
    assert_close(generator.synthesis(rows), golden["image"])


def test_rosinality_golden():
    ours = from_rosinality(tensors_of("rosinality") | {"latent_avg": torch.arange(128.0)})
    assert torch.equal(ours.pop("mean_style"), torch.arange(128.0)[None])
    generator, golden = network(ours), np.load(GOLDENS / "rosinality.npz")
    z = golden_input(CASES["rosinality"]["inputs"]["case"], "z", (2, 128))
    assert_close(generator.mapping(z), golden["w"])
    assert_close(generator(z), golden["image"])


def test_nvidia_rows_of_w_feed_our_layers(nvidia):
    """The golden has one style in every row, so the order is compared with the one of NVIDIA's blocks, written out."""
    ours = from_nvidia(nvidia)
    ours.pop("mean_style")
    layers = [layer for layer in network(ours).arch.full().layers() if layer.noise is not None or layer.rgb]
    theirs = {}  # as SynthesisNetwork.forward does: each block takes a window of rows that starts where its convolutions do
    at = 0
    for block, side in enumerate((4, 8, 16, 32, 64)):
        convs = ["conv1"] if side == 4 else [f"convs.{2 * block - 2}", f"convs.{2 * block - 1}"]
        rgb = "to_rgb1" if side == 4 else f"to_rgbs.{block - 1}"
        theirs |= {name: at + i for i, name in enumerate([*convs, rgb])}
        at += len(convs)
    assert {layer.name: layer.row for layer in layers} == theirs


def test_tells_the_families_apart(nvidia):
    rosinality = CASES["rosinality"]["state"]
    assert is_nvidia(nvidia) and not is_rosinality(nvidia)
    assert is_rosinality(rosinality) and not is_nvidia(rosinality)
    assert not is_nvidia(["fc.weight"]) and not is_rosinality(["fc.weight"])


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("mapping.embed.weight", torch.zeros(64, 10), "classes"),
        ("synthesis.b8.conv1.resample_filter", torch.ones(4, 4) / 16, "filter"),
        ("synthesis.b8.resample_filter", torch.ones(12), "filter"),
        ("synthesis.input.freqs", torch.zeros(64, 2), "StyleGAN3"),
        ("synthesis.L0_36_512.weight", torch.zeros(4, 4, 3, 3), "StyleGAN3"),
        ("synthesis.b8.skip.weight", torch.zeros(64, 64, 1, 1), "skip connections"),
        ("synthesis.b4.conv0.weight", torch.zeros(64, 64, 3, 3), "skip connections"),
        ("synthesis.b12.conv0.weight", torch.zeros(64, 64, 3, 3), "skip connections"),
        ("synthesis.b2048.conv0.weight", torch.zeros(64, 64, 3, 3), "skip connections"),
    ],
)
def test_refuses_other_networks_of_nvidia(nvidia, name, tensor, words):
    with pytest.raises(CheckpointError) as caught:
        from_nvidia(nvidia | {name: tensor})
    assert name in str(caught.value) and words in str(caught.value) and "\n" not in str(caught.value)
