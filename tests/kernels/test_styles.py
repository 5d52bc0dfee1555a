"""Styles and demodulation coefficients of all layers, and whole layers made of the launches against the network's own."""

from math import sqrt

import numpy as np
import pytest
import torch
from conv_checks import assert_within, random
from hypothesis import given, settings
from hypothesis import strategies as st

from anycost.kernels.call import Slot, columns, run
from anycost.kernels.compile import compile_call
from anycost.kernels.modulated_conv import reference
from anycost.kernels.modulated_conv.configs import STYLES, STYLES_CONFIGS, ConvConfig, StylesConfig, fits
from anycost.kernels.modulated_conv.launch import conv3x3, conv_transpose3x3, fuse_filter, places_of, styles, units_of
from anycost.kernels.modulated_conv.work import styles_work
from anycost.networks.stylegan2 import StyledConv, fir

SMALL = StylesConfig(16, 16, 16, 4, 2)
TINY = ConvConfig(16, 16, 16, 4, 2)
ELASTIC = [(0, 20, 18), (1, 18, None), (1, 18, 35), (2, 35, 7), (3, 7, None)]


def _constants(seed, layers, dim):
    channels = sum(entering for _, entering, _ in layers)
    leaving = sum(outputs or 0 for _, _, outputs in layers)
    products = sum(entering * (outputs or 0) for _, entering, outputs in layers)
    return {
        "affine": random(seed, channels * dim) / sqrt(dim),
        "affine_bias": random(seed + 1, channels),
        "energy": random(seed + 2, products, least=0.0),
        "peak": random(seed + 3, leaving, least=0.1),
    }


def _launched(w_plus, constants, layers, config=SMALL, aligned=False):
    units = torch.from_numpy(units_of(layers, config.outputs))
    batch = len(w_plus)
    style = torch.full((batch, len(constants["affine_bias"])), torch.nan)
    demodulation = torch.full((batch, len(constants["peak"])), torch.nan)
    call = styles(w_plus, *constants.values(), units, style, demodulation, aligned=aligned, config=config)
    run(call)
    return style, demodulation


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 3),
    dim=st.integers(1, 40),
    layers=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 40), st.none() | st.integers(1, 40)), min_size=1, max_size=3
    ),
)
def test_any_layers(seed, batch, dim, layers):
    layers = [*layers, (2, 5, 3)]
    w_plus, constants = random(seed + 4, batch, 3, dim), _constants(seed, layers, dim)
    style, demodulation = _launched(w_plus, constants, layers)
    expected_style, expected = reference.styles(w_plus, *constants.values(), layers)
    assert_within(style, expected_style, 0.0)
    # Relative to each one's own: coefficients of layers differ in size.
    assert ((demodulation - expected).abs() <= 1e-5 * expected.abs()).all()


@pytest.mark.parametrize("config", STYLES_CONFIGS, ids=lambda config: config.label)
def test_configurations_that_plans_use(config):
    layers = [(0, 48, 80), (1, 80, None), (1, 80, 16)]
    w_plus, constants = random(0, 1, 2, 96), _constants(1, layers, 96)
    style, demodulation = _launched(w_plus, constants, layers, config, aligned=True)
    expected_style, expected = reference.styles(w_plus, *constants.values(), layers)
    assert_within(style, expected_style, 0.0)
    assert_within(demodulation, expected, 0.0)


def test_a_style_of_zeros_stays_one_and_a_large_one_changes_its_coefficients_alone():
    layers = [(0, 20, 18)]
    constants = _constants(0, layers, 8) | {"affine_bias": torch.zeros(20)}
    style, demodulation = _launched(torch.zeros(1, 1, 8), constants, layers)
    assert not style.any() and demodulation.isfinite().all()
    w_plus = random(5, 1, 1, 8)
    once, large = _launched(w_plus, constants, layers)[0], _launched(1e6 * w_plus, constants, layers)
    assert_within(large[0], once.double(), 0.0)
    assert large[0].abs().max() == 1 and large[1].isfinite().all()


def test_the_table():
    places = places_of(ELASTIC)
    assert [place.style for place in places] == [0, 20, 38, 56, 91]
    assert [place.demodulation for place in places] == [0, None, 18, 53, None]
    assert [place.energy for place in places] == [0, None, 360, 990, None]
    table = units_of(ELASTIC, 16)
    assert table.dtype == np.int32
    assert table.tolist() == [
        [0, 0, 0, 20, 0, 18, 0, 0, 1],
        [0, 0, 0, 20, 0, 18, 16, 0, 1],
        [1, 20, 20, 18, -1, 0, 0, 0, 0],
        [1, 38, 38, 18, 360, 35, 0, 18, 1],
        [1, 38, 38, 18, 360, 35, 16, 18, 1],
        [1, 38, 38, 18, 360, 35, 32, 18, 1],
        [2, 56, 56, 35, 990, 7, 0, 53, 1],
        [3, 91, 91, 7, -1, 0, 0, 0, 0],
    ]


def test_all_configurations_share_one_table():
    assert len({config.outputs for config in STYLES_CONFIGS}) == 1


def test_what_does_not_fit_is_refused():
    constants = _constants(0, ELASTIC, 8)
    units, style, demodulation = torch.from_numpy(units_of(ELASTIC, 16)), torch.zeros(1, 98), torch.zeros(1, 60)
    styles(torch.zeros(1, 4, 8), *constants.values(), units, style, demodulation, config=SMALL)
    with pytest.raises(ValueError, match=r"affine has shape \[784\], expected \[882\]"):
        styles(torch.zeros(1, 4, 9), *constants.values(), units, style, demodulation, config=SMALL)
    with pytest.raises(ValueError, match="units is int64"):
        styles(torch.zeros(1, 4, 8), *constants.values(), units.long(), style, demodulation, config=SMALL)


def test_floor():
    work = styles_work([(0, 512, 512), (1, 512, None)], 512)
    assert work.flops == 2 * (2 * 512 * 512 + 512 * 512)
    assert work.read == 4 * (1024 * 513 + 512 * 512 + 512 + 2 * 512) and work.written == 4 * (1024 + 512)


@pytest.mark.parametrize("sm", [75, 80, 86, 89, 90, 120])
def test_compiles(sm):
    def slot(name, *shape, shared=False, dtype=torch.float32):
        return Slot(name, shape, dtype, shared)

    call = styles(
        slot("w_plus", 1, 18, 512),
        slot("affine", 512 * 1024, shared=True),
        slot("affine_bias", 1024, shared=True),
        slot("energy", 512 * 512, shared=True),
        slot("peak", 512, shared=True),
        slot("units", 9, 9, shared=True, dtype=torch.int32),
        slot("style", 1, 1024),
        slot("demodulation", 1, 512),
        aligned=True,
        config=STYLES,
    )
    assert fits(compile_call(call, f"sm_{sm}").shared, sm)


@pytest.mark.parametrize("form", ["same", "fused", "polyphase"])
def test_a_whole_layer_equals_the_network(form):
    """Styles, convolution and epilogue against modulated weights in float64, the paper's formulation: 1e-5 in float32."""
    torch.manual_seed(0)
    up = form != "same"
    layer = StyledConv(24, 18, 12, up=up)
    layer.noise.weight.data.fill_(0.3)
    layer.activate.bias.data.normal_()
    entering, leaving, side = 20, 17, 5  # the first channels of a wider layer
    x, w_plus = random(0, 2, entering, side, side), random(1, 2, 3, 12)
    noise = random(2, 1, 1, 2 * side if up else side, 2 * side if up else side)
    with torch.no_grad():
        expected = layer.double()(x.double(), w_plus[:, 1].double(), noise.double(), leaving).permute(0, 2, 3, 1)
        layer.float()
        conv = layer.conv
        scaled = conv.weight[0, :leaving, :entering] * conv.scale
        largest = scaled.abs().amax((1, 2, 3))
        weight = (scaled / largest[:, None, None, None]).permute(2, 3, 1, 0).reshape(9, entering, leaving).contiguous()
        constants = {
            "affine": (conv.modulation.weight[:entering] * conv.modulation.scale).T.flatten(),
            "affine_bias": conv.modulation.bias[:entering],
            "energy": scaled.square().sum((2, 3)).T.flatten(),
            "peak": sqrt(2) * largest,
        }
        bias, strength = sqrt(2) * layer.activate.bias[:leaving], sqrt(2) * layer.noise.weight
    # Another layer before it, so that it does not begin its buffers.
    before = _constants(3, [(0, 9, 11)], 12)
    constants = {name: torch.cat([before[name], value]) for name, value in constants.items()}
    style, demodulation = _launched(w_plus, constants, [(0, 9, 11), (1, entering, leaving)])
    given = {"style": columns(style, 9, entering), "demodulation": columns(demodulation, 11, leaving)}
    grain = noise[:, 0]
    nhwc, out = x.permute(0, 2, 3, 1).contiguous(), torch.full(expected.shape, torch.nan)
    if form == "same":
        run(conv3x3(nhwc, weight, out, **given, noise=grain, strength=strength, bias=bias, config=TINY))
    elif form == "fused":
        fused = torch.empty(4, 9, entering, leaving)
        run(fuse_filter(weight, conv.blur.kernel, fused))
        run(conv3x3(nhwc, fused, out, **given, noise=grain, strength=strength, bias=bias, up=True, config=TINY))
    else:
        between = torch.full((2, 2 * side + 1, 2 * side + 1, leaving), torch.nan)
        run(conv_transpose3x3(nhwc, weight, between, **given, config=TINY))
        y = fir(between.permute(0, 3, 1, 2), conv.blur.kernel, up=1, pad=(1, 1)) + strength * noise
        out = torch.nn.functional.leaky_relu(y + bias[:, None, None], 0.2).permute(0, 2, 3, 1)
    assert_within(out, expected, 0.0)
