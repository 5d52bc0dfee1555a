"""The generator as launches: the same plan that a GPU gets, run launch by launch in Triton's interpreter over one block of
memory, against the goldens of the original implementation and against the paper's formulation."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from deterministic import fill, golden_input

from anycost.export.launches import mapping_draft, padded, synthesis_draft
from anycost.kernels.simulate import simulate, uncompiled
from anycost.networks.channels import Architecture, macs
from anycost.networks.stylegan2 import Generator
from anycost.runtime.latents import noise_sides

GOLDENS = Path(__file__).parents[1] / "goldens"
CASE = json.loads((GOLDENS / "cases.json").read_text())["anycost64"]
# Sums in another order, and weights normalized before they are used: nothing else differs in float32.
EXACT = 1e-5
# A layer rounds its weights, its input times its style, and its result: each rounding is at most 2**-11 in float16 and 2**-8 in
# bfloat16 of its value. What adds up over the layers of these networks stays below eight of them, relative to the image's range.
HALF = {"fp16": 8 * 2**-11, "bf16": 8 * 2**-8}


@pytest.fixture(scope="module")
def golden():
    generator = Generator(**CASE["args"]).eval().requires_grad_(False)
    fill(generator)
    return generator


@pytest.fixture(scope="module")
def small():
    """16 px, with channel counts that are no multiples of anything."""
    torch.manual_seed(5)
    generator = Generator(16, channel_max=40, style_dim=24, n_mlp=3).eval().requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.endswith(("noise.weight", "activate.bias")):
            parameter.normal_(0, 0.5)
    return generator


def binder(generator):
    state = {name: tensor.numpy() for name, tensor in generator.state_dict().items()}

    def bind(binding):
        array = binding.apply(state[binding.source], None if binding.times is None else state[binding.times])
        tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(getattr(torch, binding.dtype))
        return tensor.view(torch.int16).numpy().view(np.uint16) if binding.dtype == "bfloat16" else tensor.numpy()

    return bind


def images(generator, net, inputs, precision="fp32", chosen=None, stored=True):
    lowered = uncompiled(synthesis_draft(generator.arch, net, stored, precision))
    arrays = {name: np.asarray(value, np.float32) for name, value in inputs.items()}
    return simulate(lowered, arrays, binder(generator), chosen and chosen(lowered.program))["image"]


def relative(found, expected):
    expected = np.asarray(expected)
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    ("output", "resolution", "channels"), [("image_r0.5_res16", 16, 0.5), ("image_r0.5_res32", 32, 0.5)]
)
def test_the_original_implementations_images(golden, output, resolution, channels):
    net = golden.subnet(resolution, channels)
    found = images(golden, net, {"w_plus": golden_input("anycost64", "w_plus", (2, 10, 512))})
    # The bound of the goldens' own rules.
    assert relative(found, np.load(GOLDENS / "anycost64.npz")[output]) < 1e-5


def test_the_original_implementations_mapping(golden):
    z = golden_input("anycost64", "z", (2, 1, 512))[:, 0]
    lowered = uncompiled(mapping_draft(golden.arch))
    found = simulate(lowered, {"z": z.numpy()}, binder(golden))["w"]
    assert relative(found, np.load(GOLDENS / "anycost64.npz")["mapped_w"][:, 0]) < 1e-5


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("channels", [1.0, 0.3, (40, 17, 33, 5, 21, 1)])
def test_any_channels_and_noise(small, channels, stored):
    net = small.subnet(16, channels)
    w_plus = torch.randn(2, small.arch.n_style, 24, generator=torch.Generator().manual_seed(1))
    noise = [torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(side)) for side in noise_sides(16)]
    inputs = {"w_plus": w_plus} | ({} if stored else {f"noise_{i}": x for i, x in enumerate(noise)})
    expected = small.synthesis(w_plus, "stored" if stored else noise, net)
    assert relative(images(small, net, inputs, stored=stored), expected) < EXACT


def test_all_ways_are_the_same(small):
    """Fused and polyphase, split and whole, every block size."""
    net = small.subnet(16, 0.7)
    w_plus = torch.randn(1, small.arch.n_style, 24, generator=torch.Generator().manual_seed(2))
    expected = small.synthesis(w_plus, net=net)
    draft = synthesis_draft(small.arch, net, True, "fp32")
    ways = {step.name: [label for label, _ in step.choices] for step in draft.steps}
    assert {label.split()[0] for label in ways["convs.0"]} == {"fused", "polyphase"}
    assert any("/" in label for labels in ways.values() for label in labels), "no way splits its sum"
    for k in range(max(map(len, ways.values()))):
        chosen = {name: labels[k % len(labels)] for name, labels in ways.items()}
        found = images(small, net, {"w_plus": w_plus}, chosen=lambda program, chosen=chosen: chosen)
        assert relative(found, expected) < EXACT, chosen


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision(small, precision):
    net = small.subnet(16, 1.0)
    w_plus = torch.randn(2, small.arch.n_style, 24, generator=torch.Generator().manual_seed(3))
    expected = small.synthesis(w_plus, net=net)
    assert relative(images(small, net, {"w_plus": w_plus}, precision), expected) < HALF[precision]


def test_large_styles_do_not_overflow_in_half_precision(small):
    """w+ a thousand times the ordinary: s, and in the paper's formulation the weights, leave float16's range."""
    net = small.subnet(16, 1.0)
    w_plus = 1e3 * torch.randn(1, small.arch.n_style, 24, generator=torch.Generator().manual_seed(4))
    found = images(small, net, {"w_plus": w_plus}, "fp16")
    assert relative(found, small.synthesis(w_plus, net=net)) < HALF["fp16"]


def test_images_of_a_batch_are_those_of_one(small):
    net = small.subnet(8, 0.5)
    w_plus = torch.randn(3, small.arch.n_style, 24, generator=torch.Generator().manual_seed(6))
    together = images(small, net, {"w_plus": w_plus}, "fp16")
    for i in range(3):
        np.testing.assert_array_equal(images(small, net, {"w_plus": w_plus[i : i + 1]}, "fp16")[0], together[i])


def test_the_launches_of_the_full_generator():
    """config-f: at most two launches a 3x3 layer, one a to-RGB, one for all styles; every size aligned."""
    arch = Architecture(1024)
    net = arch.full()
    draft = synthesis_draft(arch, net, True, "fp16")
    layers = {layer.name: layer for layer in net.layers()}
    assert [step.name for step in draft.steps] == ["styles", *layers]
    for step in draft.steps:
        layer = layers.get(step.name, SimpleNamespace(rgb=True))
        assert all(len(calls) <= (1 if layer.rgb else 2) for _, calls in step.choices)
    assert len(draft.prepare) == 8  # one up-convolution a block
    for step in draft.steps:
        for label, calls in step.choices:
            for call in calls:
                unaligned = {"channels", "outputs", "x_stride", "out_stride"} & set(call.arguments) - call.aligned
                assert not unaligned, (step.name, label, call.name)
    # What the launches multiply is what the network needs, but for the fused form's four times as many.
    assert macs(net) == pytest.approx(74.3e9, rel=1e-2)


def test_padding():
    assert [padded(n) for n in (1, 16, 17, 24, 512)] == [16, 16, 32, 32, 512]
