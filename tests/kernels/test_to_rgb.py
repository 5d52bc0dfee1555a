"""To-RGB: the products in float32, and the smaller image's upsampling."""

import pytest
import torch
from conv_checks import TYPES, assert_within, random
from hypothesis import given, settings
from hypothesis import strategies as st

from anycost.kernels.call import Slot, columns, run
from anycost.kernels.compile import compile_call
from anycost.kernels.modulated_conv import reference
from anycost.kernels.modulated_conv.configs import RGB, RGB_CONFIGS, RgbConfig, fits
from anycost.kernels.modulated_conv.launch import to_rgb
from anycost.kernels.modulated_conv.work import to_rgb_work
from anycost.networks.stylegan2 import ToRGB

TINY = RgbConfig(16, 16, 4, 2)
TARGETS = [(sm, torch.float16) for sm in (75, 80, 86, 89, 90, 120)] + [(90, torch.bfloat16), (90, torch.float32)]


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 2),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    channels=st.integers(1, 40),
    styled=st.booleans(),
    first=st.booleans(),
)
def test_any_shape(dtype, seed, batch, height, width, channels, styled, first):
    """Nothing is rounded on the way: 1e-5 for every type."""
    if not first:
        height, width = 2 * height, 2 * width
    x, weight, bias = (
        random(seed, batch, height, width, channels, dtype=dtype),
        random(seed + 1, 3, channels),
        random(2, 3),
    )
    given = {"style": random(seed + 3, batch, channels)} if styled else {}
    if not first:
        given |= {"skip": random(seed + 4, batch, 3, height // 2, width // 2), "taps": random(seed + 5, 4, 4)}
    out = torch.full((batch, 3, height, width), torch.nan)
    run(to_rgb(x, weight, bias, out, **given, config=TINY))
    assert_within(out, reference.to_rgb(x, weight, bias, **given), 0.0)


@pytest.mark.parametrize("config", RGB_CONFIGS, ids=lambda config: config.label)
def test_configurations_that_plans_use(config):
    x, weight, bias, skip, taps = (
        random(0, 1, 16, 12, 40),
        random(1, 3, 40),
        random(2, 3),
        random(3, 1, 3, 8, 6),
        random(4, 4, 4),
    )
    out = torch.full((1, 3, 16, 12), torch.nan)
    run(to_rgb(x, weight, bias, out, skip=skip, taps=taps, config=config))
    assert_within(out, reference.to_rgb(x, weight, bias, skip=skip, taps=taps), 0.0)


def test_equals_the_network():
    torch.manual_seed(0)
    layer = ToRGB(20, 8)
    layer.bias.data.normal_()
    x, w, below = random(0, 2, 20, 6, 6), random(1, 2, 8), random(2, 2, 3, 3, 3)
    with torch.no_grad():
        expected = layer.double()(x.double(), w.double(), below.double())
        layer.float()
        weight = layer.conv.weight[0, :, :, 0, 0] * layer.conv.scale
        style, out = layer.conv.modulation(w), torch.full((2, 3, 6, 6), torch.nan)
        nhwc = x.permute(0, 2, 3, 1).contiguous()
        taps = layer.upsample.kernel
        run(to_rgb(nhwc, weight, layer.bias.flatten(), out, style=style, skip=below, taps=taps, config=TINY))
    assert_within(out, expected, 0.0)


def test_a_style_within_a_larger_buffer_and_the_same_every_time():
    x, weight, bias = random(0, 3, 4, 4, 18), random(1, 3, 18), random(2, 3)
    style = columns(random(3, 3, 50), 9, 18)
    out = torch.full((3, 3, 4, 4), torch.nan)
    call = to_rgb(x, weight, bias, out, style=style, config=TINY)
    run(call)
    first = out.clone()
    assert_within(out, reference.to_rgb(x, weight, bias, style=style), 0.0)
    run(call)
    assert torch.equal(first, out)


def test_what_does_not_fit_is_refused():
    x, weight, bias, out = torch.zeros(1, 3, 4, 8), torch.zeros(3, 8), torch.zeros(3), torch.zeros(1, 3, 3, 4)
    taps = torch.zeros(4, 4)
    with pytest.raises(ValueError, match="give both or neither"):
        to_rgb(x, weight, bias, out, taps=taps)
    with pytest.raises(ValueError, match="3 x 4 is not twice"):
        to_rgb(x, weight, bias, out, skip=torch.zeros(1, 3, 1, 2), taps=taps)
    with pytest.raises(ValueError, match="weight is float16"):
        to_rgb(x, weight.half(), bias, out)


def test_floor():
    work = to_rgb_work(1024, 1024, 32)
    assert work.read == 2**20 * (32 * 2 + 3) and work.written == 2**20 * 12
    assert work.intensity < 5, "bound by memory on every device"


@pytest.mark.parametrize(("sm", "dtype"), TARGETS)
def test_compiles(sm, dtype):
    float32 = torch.float32
    call = to_rgb(
        Slot("x", (1, 32, 32, 64), dtype),
        Slot("weight", (3, 64), float32, shared=True),
        Slot("bias", (3,), float32, shared=True),
        Slot("image", (1, 3, 32, 32), float32),
        style=columns(Slot("styles", (1, 1024), float32), 64, 64),
        skip=Slot("skip", (1, 3, 16, 16), float32),
        taps=Slot("taps", (4, 4), float32, shared=True),
        config=RGB,
    )
    assert fits(compile_call(call, f"sm_{sm}").shared, sm)
