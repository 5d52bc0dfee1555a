"""The up-convolution in both forms: transposed and then filtered, and with its filter fused into the weights."""

import pytest
import torch
from conv_checks import ROUNDING, TYPES, assert_within, random
from hypothesis import given, settings
from hypothesis import strategies as st

from anycost.kernels.call import Slot, run
from anycost.kernels.compile import compile_call
from anycost.kernels.modulated_conv import reference
from anycost.kernels.modulated_conv.configs import ConvConfig, fits
from anycost.kernels.modulated_conv.launch import conv3x3, conv_transpose3x3, fuse_filter
from anycost.kernels.modulated_conv.work import cheaper_up, fuse_filter_work, up_floors_us
from anycost.networks.channels import Architecture
from anycost.networks.stylegan2 import fir, fir_kernel

TINY = ConvConfig(16, 16, 16, 4, 2)
TARGETS = [(sm, torch.float16) for sm in (75, 80, 86, 89, 90, 120)] + [(90, torch.bfloat16), (90, torch.float32)]
SHAPES = {
    "seed": st.integers(0, 1000),
    "batch": st.integers(1, 2),
    "height": st.integers(1, 5),
    "width": st.integers(1, 5),
    "channels": st.integers(1, 20),
    "outputs": st.integers(1, 20),
}


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(**SHAPES, styled=st.booleans(), demodulated=st.booleans())
def test_transposed_at_any_shape(dtype, seed, batch, height, width, channels, outputs, styled, demodulated):
    x = random(seed, batch, height, width, channels, dtype=dtype)
    weight = random(seed + 1, 9, channels, outputs).clamp(-1, 1).to(dtype)
    style = random(seed + 2, batch, channels).clamp(-1, 1) if styled else None
    demodulation = random(seed + 3, batch, outputs, least=0.1) if demodulated else None
    out = torch.full((batch, 2 * height + 1, 2 * width + 1, outputs), torch.nan, dtype=dtype)
    run(conv_transpose3x3(x, weight, out, style=style, demodulation=demodulation, config=TINY))
    expected = reference.conv_transpose3x3(x, weight, style=style, demodulation=demodulation)
    # The style's product is rounded: an error in parts of the terms' absolute values, besides the result's own.
    terms = reference.conv_transpose3x3(
        x.abs(), weight.abs(), style=None if style is None else style.abs(), demodulation=demodulation
    )
    assert_within(out, expected, ROUNDING[dtype] * ((terms if styled else 0) + expected.abs()))


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), channels=st.integers(1, 40), outputs=st.integers(1, 40))
def test_fused_filter_is_rounded_once(dtype, seed, channels, outputs):
    weight, taps = random(seed, 9, channels, outputs).to(dtype), random(seed + 1, 4, 4)
    out = torch.full((4, 9, channels, outputs), torch.nan, dtype=dtype)
    run(fuse_filter(weight, taps, out))
    expected = reference.fuse_filter(weight, taps)
    assert_within(out, expected, ROUNDING[dtype] * expected.abs())


@settings(max_examples=5, deadline=None, derandomize=True)
@given(**SHAPES)
def test_both_forms_are_the_convolution_and_the_filter_of_the_paper(seed, batch, height, width, channels, outputs):
    """A filter without symmetries tells left from right and up from down."""
    x, weight, taps = random(seed, batch, height, width, channels), random(seed + 1, 9, channels, outputs), None
    taps = random(seed + 2, 4, 4)
    style, demodulation = random(seed + 3, batch, channels), random(seed + 4, batch, outputs)
    scaled = (x * style[:, None, None]).double().permute(0, 3, 1, 2)
    filters = reference.filter3x3(weight).double().transpose(0, 1)
    y = fir(torch.nn.functional.conv_transpose2d(scaled, filters, stride=2), taps.double(), up=1, pad=(1, 1))
    expected = y.permute(0, 2, 3, 1) * demodulation.double()[:, None, None]

    fused, out = torch.empty(4, 9, channels, outputs), torch.full(expected.shape, torch.nan)
    run(fuse_filter(weight, taps, fused))
    given = {"style": style, "demodulation": demodulation}
    run(conv3x3(x, fused, out, **given, activate=False, up=True, config=TINY))
    assert_within(out, expected, 0.0)

    between = torch.full((batch, 2 * height + 1, 2 * width + 1, outputs), torch.nan)
    run(conv_transpose3x3(x, weight, between, **given, config=TINY))
    filtered = fir(between.permute(0, 3, 1, 2), taps, up=1, pad=(1, 1)).permute(0, 2, 3, 1)
    assert_within(filtered, expected, 0.0)


@pytest.mark.parametrize("dtype", TYPES)
def test_fused_form_with_everything(dtype):
    x, weight = random(0, 2, 4, 3, 20, dtype=dtype), random(1, 4, 9, 20, 18).clamp(-1, 1).to(dtype)
    magnitudes = {
        "style": random(2, 2, 20).clamp(-1, 1),
        "demodulation": random(3, 2, 18, least=0.1),
        "next_style": random(4, 2, 18),
    }
    operands = magnitudes | {"noise": random(5, 2, 8, 6, dtype=dtype), "bias": random(6, 18)}
    out = torch.full((2, 8, 6, 18), torch.nan, dtype=dtype)
    run(conv3x3(x, weight, out, **operands, up=True, config=TINY))
    expected = reference.conv3x3(x, weight, **operands, up=True)
    terms = reference.conv3x3(
        x.abs(), weight.abs(), **{name: value.abs() for name, value in magnitudes.items()}, activate=False, up=True
    )
    assert_within(out, expected, ROUNDING[dtype] * (terms + expected.abs()))


@pytest.mark.parametrize("up", [True, False], ids=["fused", "transposed"])
def test_parts(up):
    x, weight = random(0, 2, 3, 4, 20), random(1, *([4] if up else []), 9, 20, 18)
    if up:
        out, expected = torch.empty(2, 5, 6, 8, 18), reference.conv3x3(x, weight, activate=False, up=True)
        call = conv3x3(x, weight, out, up=True, splits=5, config=TINY)
    else:
        out, expected = torch.empty(2, 5, 7, 9, 18), reference.conv_transpose3x3(x, weight)
        call = conv_transpose3x3(x, weight, out, splits=5, config=TINY)
    out.fill_(torch.nan)
    run(call)
    assert_within(out.sum(1), expected, 0.0)


def test_what_does_not_fit_is_refused():
    x, weight = torch.zeros(1, 4, 4, 8), torch.zeros(9, 8, 6)
    with pytest.raises(ValueError, match="out has shape"):
        conv_transpose3x3(x, weight, torch.zeros(1, 8, 8, 6))
    with pytest.raises(ValueError, match="give sums alone"):
        conv_transpose3x3(x, weight, torch.zeros(1, 2, 9, 9, 6), splits=2, demodulation=torch.zeros(1, 6))
    with pytest.raises(ValueError, match="weight has shape"):
        conv3x3(x, weight, torch.zeros(1, 8, 8, 6), up=True)
    with pytest.raises(ValueError, match="taps has shape"):
        fuse_filter(weight, torch.zeros(3, 3), torch.zeros(4, 9, 8, 6))


def test_the_floors_of_both_forms_for_config_f_on_an_h200():
    """4.8e12 bytes/s, 990e12 float16 FLOP/s (docs/kernels.md). The fused form moves less than half as much and multiplies four
    times as often: it has the lower floor for the last layer alone, which has the fewest channels."""
    found = {}
    for layer in Architecture(1024).full().layers():
        if layer.up:
            side = layer.resolution // 2
            shape = (side, side, layer.entering, layer.leaving, 4.8e12, 990e12)
            found[layer.resolution] = cheaper_up(*shape), *(round(us, 1) for us in up_floors_us(*shape).values())
    assert found == {
        8: ("polyphase", 3.9, 1.0),
        16: ("polyphase", 4.0, 1.2),
        32: ("polyphase", 4.9, 1.7),
        64: ("polyphase", 19.5, 6.7),
        128: ("polyphase", 39.0, 13.3),
        256: ("polyphase", 39.0, 16.8),
        512: ("polyphase", 39.0, 24.7),
        1024: ("fused", 39.0, 49.4),
    }


def test_a_device_with_slow_memory_takes_the_fused_form_earlier():
    assert cheaper_up(256, 256, 128, 64, 1e12, 990e12) == "fused"
    assert fuse_filter_work(64, 32).written == 4 * fuse_filter_work(64, 32).read


@pytest.mark.parametrize(("sm", "dtype"), TARGETS)
def test_fuse_compiles(sm, dtype):
    weight, out = Slot("weight", (9, 64, 64), dtype, shared=True), Slot("fused", (4, 9, 64, 64), dtype, shared=True)
    taps = Slot("taps", (4, 4), torch.float32, shared=True)
    assert fits(compile_call(fuse_filter(weight, taps, out), f"sm_{sm}").shared, sm)


def test_the_filter_of_the_network_keeps_its_gain():
    weight, out = torch.ones(9, 1, 1), torch.empty(4, 9, 1, 1)
    run(fuse_filter(weight, fir_kernel(4.0), out))
    assert out.sum().item() == pytest.approx(9 * 4)
