"""The stride-1 layer: against the plain reference, against the network's own layer, and compiled for GPUs that are not there."""

import pytest
import torch
from conv_checks import ROUNDING, TYPES, assert_within, random
from hypothesis import given, settings
from hypothesis import strategies as st

from anycost.kernels.call import Slot, columns, run
from anycost.kernels.compile import compile_call
from anycost.kernels.modulated_conv import reference
from anycost.kernels.modulated_conv.configs import (
    CONV,
    CONV_CONFIGS,
    ConvConfig,
    conv_configs,
    conv_splits,
    fits,
)
from anycost.kernels.modulated_conv.launch import conv3x3, conv_transpose3x3
from anycost.kernels.modulated_conv.work import conv3x3_work

TINY = ConvConfig(16, 16, 16, 4, 2)
TARGETS = [(sm, torch.float16) for sm in (75, 80, 86, 89, 90, 120)] + [(90, torch.bfloat16), (90, torch.float32)]


def _operands(seed, batch, height, width, channels, outputs):
    return {
        "style": random(seed + 1, batch, channels).clamp(-1, 1),
        "demodulation": random(seed + 2, batch, outputs, least=0.1),
        "noise": random(seed + 3, 1, height, width),
        "strength": random(seed + 4, 1),
        "bias": random(seed + 5, outputs),
        "next_style": random(seed + 6, batch, outputs),
    }


def _bound(x, weight, operands, expected, dtype, **form):
    """x * style is rounded to dtype before it is multiplied, which no bound relative to the result can hold where terms cancel:
    so relative to the sum of the terms' absolute values; and the result is rounded once."""
    magnitudes = {
        name: value.abs() for name, value in operands.items() if name in ("style", "demodulation", "next_style")
    }
    terms = reference.conv3x3(x.abs(), weight.abs(), activate=False, **magnitudes, **form)
    prologue = ROUNDING[dtype] * terms if "style" in operands else 0.0
    return prologue + ROUNDING[dtype] * expected.abs()


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 2),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    channels=st.integers(1, 20),
    outputs=st.integers(1, 20),
    kept=st.sets(st.sampled_from(["style", "demodulation", "noise", "strength", "bias", "next_style"])),
    activate=st.booleans(),
)
def test_any_shape_and_operands(dtype, seed, batch, height, width, channels, outputs, kept, activate):
    x = random(seed, batch, height, width, channels, dtype=dtype)
    weight = random(seed + 7, 9, channels, outputs).clamp(-1, 1).to(dtype)
    operands = {
        name: value for name, value in _operands(seed, batch, height, width, channels, outputs).items() if name in kept
    }
    out = torch.full((batch, height, width, outputs), torch.nan, dtype=dtype)
    run(conv3x3(x, weight, out, **operands, activate=activate, config=TINY))
    expected = reference.conv3x3(x, weight, **operands, activate=activate)
    assert_within(out, expected, _bound(x, weight, operands, expected, dtype))


@pytest.mark.parametrize("config", [CONV, CONV_CONFIGS[0], CONV_CONFIGS[-1], CONV_CONFIGS[-2]], ids=lambda c: c.label)
def test_configurations_that_plans_use(config):
    x, weight = random(0, 1, 9, 16, 40), random(1, 9, 40, 24).clamp(-1, 1)
    operands = _operands(2, 1, 9, 16, 40, 24)
    out = torch.full((1, 9, 16, 24), torch.nan)
    run(conv3x3(x, weight, out, **operands, config=config))
    assert_within(out, reference.conv3x3(x, weight, **operands), 0.0)


def test_a_shared_input_noise_for_each_image_and_styles_within_a_larger_buffer():
    x, weight = random(0, 1, 4, 5, 16), random(1, 9, 16, 12)
    styles, noise, next_style = random(2, 3, 50), random(3, 3, 4, 5, dtype=torch.float16), random(4, 3, 40)
    style, following = columns(styles, 7, 16), columns(next_style, 20, 12)
    out = torch.full((3, 4, 5, 12), torch.nan)
    run(conv3x3(x, weight, out, style=style, noise=noise, next_style=following, config=TINY))
    expected = reference.conv3x3(x, weight, style=style, noise=noise, next_style=following)
    assert_within(out, expected, 0.0)


@pytest.mark.parametrize("splits", [2, 3, 16])
def test_parts_add_up_in_order_and_the_same_every_time(splits):
    x, weight, style = random(0, 2, 3, 5, 20), random(1, 9, 20, 18), random(2, 2, 20)
    out = torch.full((2, splits, 3, 5, 18), torch.nan)
    call = conv3x3(x, weight, out, style=style, splits=splits, config=TINY)
    run(call)
    first = out.clone()
    assert_within(out.sum(1), reference.conv3x3(x, weight, style=style, activate=False), 0.0)
    run(call)
    assert torch.equal(first, out)


def test_the_launch_is_the_same_at_any_batch_but_for_the_images():
    def call(images):
        x, weight = Slot("x", (1, 8, 8, 32), torch.float16), Slot("w", (9, 32, 48), torch.float16, shared=True)
        out = Slot("out", (1, 8, 8, 48), torch.float16)
        if images:
            x, out = torch.empty((images, 8, 8, 32)).half(), torch.empty((images, 8, 8, 48)).half()
            weight = torch.empty((9, 32, 48)).half()
        return conv3x3(x, weight, out)

    planned, two, five = call(0), call(2), call(5)
    assert planned.grid[:2] == two.grid[:2] == five.grid[:2]
    assert (planned.grid[2], two.grid[2], five.grid[2]) == (1, 2, 5)
    numbers = [
        {name: value for name, value in given.arguments.items() if isinstance(value, int)}
        for given in (planned, two, five)
    ]
    assert numbers[0] == numbers[1] == numbers[2]


def test_what_does_not_fit_is_refused():
    x, weight, out = torch.zeros(1, 4, 4, 8), torch.zeros(9, 8, 6), torch.zeros(1, 4, 4, 6)
    with pytest.raises(ValueError, match=r"weight has shape \[9, 7, 6\]"):
        conv3x3(x, torch.zeros(9, 7, 6), out)
    with pytest.raises(ValueError, match="out has shape"):
        conv3x3(x, weight, torch.zeros(1, 4, 5, 6))
    with pytest.raises(ValueError, match="weight is float16"):
        conv3x3(x, weight.half(), out)
    with pytest.raises(ValueError, match="2 splits give sums alone"):
        conv3x3(x, weight, torch.zeros(1, 2, 4, 4, 6), splits=2, bias=torch.zeros(6))
    with pytest.raises(ValueError, match="style has shape"):
        conv3x3(x, weight, out, style=torch.zeros(2, 8))
    with pytest.raises(ValueError, match="weight"):
        conv3x3(x, torch.zeros(18, 8, 6)[::2], out)


def test_configurations_of_a_layer_waste_little_and_fill_the_device():
    assert [config.pixels for config in conv_configs(16, 512, 512)] == [16]
    assert all(config.outputs <= 32 and config.channels <= 32 for config in conv_configs(1024**2, 32, 32))
    assert conv_configs(64 * 64, 512, 512)[0].outputs == 128
    assert conv_splits(8, 512, CONV_CONFIGS[0]) == 8 and conv_splits(200, 512, CONV_CONFIGS[0]) == 1
    assert conv_splits(1, 16, TINY) == 1, "a part of few steps costs more than it saves"


def test_floor():
    work = conv3x3_work(64, 64, 512, 512)
    assert work.flops == 2 * 9 * 512 * 512 * 64 * 64 and work.written == 64 * 64 * 512 * 2
    assert work.read == 2 * (64 * 64 * 512 + 9 * 512 * 512 + 64 * 64)


@pytest.mark.parametrize(("sm", "dtype"), TARGETS)
def test_compiles(sm, dtype):
    compiled = compile_call(_planned(CONV, dtype), f"sm_{sm}")
    assert len(compiled.image) > 1000 and fits(compiled.shared, sm)


@pytest.mark.parametrize("config", CONV_CONFIGS, ids=lambda config: config.label)
def test_all_configurations_compile_and_fit_where_shared_memory_is_least(config):
    for sm in (75, 86):
        # On 75 Triton keeps no more than one stage.
        if sm == 86 or config in (CONV_CONFIGS[0], CONV_CONFIGS[-1]):
            assert fits(compile_call(_planned(config, torch.float16), f"sm_{sm}").shared, sm)


@pytest.mark.parametrize("form", ["fused", "transposed", "split"])
def test_other_forms_compile(form):
    assert fits(compile_call(_planned(CONV, torch.float16, form), "sm_86").shared, 86)


def _planned(config, dtype, form="same"):
    """A whole layer as plans have it: everything padded to multiples of 16, styles within one buffer."""
    float32 = torch.float32
    x, weight = Slot("x", (1, 32, 32, 64), dtype), Slot("weight", (9, 64, 64), dtype, shared=True)
    style = columns(Slot("styles", (1, 1024), float32), 64, 64)
    if form == "split":
        out = Slot("out", (1, 4, 32, 32, 64), float32)
        return conv3x3(x, weight, out, style=style, splits=4, config=config)
    given = {"style": style, "demodulation": columns(Slot("demodulation", (1, 512), float32), 128, 64)}
    if form == "transposed":
        return conv_transpose3x3(x, weight, Slot("out", (1, 65, 65, 64), dtype), **given, config=config)
    side, up = (64, True) if form == "fused" else (32, False)
    weight = Slot("weight", (4, 9, 64, 64), dtype, shared=True) if up else weight
    given |= {
        "noise": Slot("noise", (1, side, side), dtype, shared=True),
        "strength": Slot("strength", (1,), float32, shared=True),
        "bias": Slot("bias", (64,), float32, shared=True),
        "next_style": columns(Slot("styles", (1, 1024), float32), 128, 64),
    }
    return conv3x3(x, weight, Slot("out", (1, side, side, 64), dtype), **given, up=up, config=config)
