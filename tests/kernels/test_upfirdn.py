"""upfirdn2d in Triton's interpreter against the golden outputs and the plain reference."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from deterministic import golden_input
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import TARGETS, assert_compiles, assert_near

from anycost.kernels.call import Slot, run
from anycost.kernels.upfirdn import reference
from anycost.kernels.upfirdn.launch import UPFIRDN_CONFIGS, upfirdn2d, upfirdn2d_call
from anycost.kernels.upfirdn.work import upfirdn2d_work

GOLDENS = Path(__file__).parents[1] / "goldens"
CASE = json.loads((GOLDENS / "cases.json").read_text())["upfirdn2d"]
EXPECTED = np.load(GOLDENS / "upfirdn2d.npz")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("call", CASE["calls"], ids=lambda call: call["name"])
def test_goldens(call):
    name, taps = call["name"], call["taps"]
    x = golden_input("upfirdn2d", f"{name}x", tuple(call["x"]))
    f = golden_input("upfirdn2d", f"{name}f", (taps,) if call["separable"] else (taps, taps)).abs()
    padding, flip = call["padding_x0x1y0y1"], call["flip_filter"]
    found = upfirdn2d(x, f, call["up"], call["down"], padding, flip, call["gain"])
    assert_near(found, torch.from_numpy(EXPECTED[name]))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_arguments(data):
    def pair(low, high):
        return tuple(data.draw(st.tuples(*[st.integers(low, high)] * 2)))

    dtype = data.draw(st.sampled_from(DTYPES))
    (height, width), up, down, taps = pair(1, 7), pair(1, 4), pair(1, 4), pair(1, 5)
    padding = []
    for size, factor, count in ((width, up[0], taps[1]), (height, up[1], taps[0])):
        before = data.draw(st.integers(-2, 6))
        # Enough for the filter to fit once.
        after = data.draw(st.integers(-2, 4))
        padding += [before, max(after, count - size * factor - before)]
    n, channels, flip = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 19)), data.draw(st.booleans())
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randn(n, channels, height, width, generator=generator).to(dtype)
    f = torch.randn(taps, generator=generator)
    found = upfirdn2d(x, f, up, down, padding, flip, 1.7)
    assert found.dtype == dtype
    expected = reference.upfirdn2d(x.double(), f.double(), up, down, padding, flip, 1.7)
    assert_near(found, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_separable_is_the_outer_product(dtype):
    x = torch.randn(2, 3, 6, 9).to(dtype)
    f = torch.rand(6)
    found = upfirdn2d(x, f, up=2, down=(1, 2), padding=[3, 2], gain=4)
    expected = reference.upfirdn2d(x.double(), torch.outer(f, f).double(), (2, 2), (1, 2), (3, 3, 2, 2), gain=4.0)
    assert_near(found, expected, dtype)


def test_largest_filter():
    x, f = torch.randn(1, 2, 5, 4), torch.randn(32, 32)
    padding = (20, 19, 18, 21)
    expected = reference.upfirdn2d(x.double(), f.double(), (2, 3), (3, 2), padding)
    assert_near(upfirdn2d(x, f, (2, 3), (3, 2), padding), expected)


@pytest.mark.parametrize("config", UPFIRDN_CONFIGS)
def test_configs_agree(config):
    x, f, out = torch.randn(2, 5, 9, 70), torch.randn(4, 4), torch.empty(2, 10, 18, 70)
    call = upfirdn2d_call(x, f, out, (2, 2), (1, 1), (2, 1, 2, 1), gain=4.0, config=config)
    run(call)
    expected = reference.upfirdn2d(x.permute(0, 3, 1, 2).double(), f.double(), (2, 2), padding=(2, 1, 2, 1), gain=4)
    assert_near(out.permute(0, 3, 1, 2), expected)


def test_no_filter_and_nothing_to_do():
    x = torch.randn(1, 2, 4, 4)
    assert torch.equal(upfirdn2d(x, None), x)
    assert torch.equal(upfirdn2d(x, None, padding=-1), x[:, :, 1:-1, 1:-1])
    assert torch.equal(upfirdn2d(x, None, down=2), x[:, :, ::2, ::2])
    assert upfirdn2d(x[:0], None).shape == (0, 2, 4, 4)


def test_mistakes_are_named():
    x = torch.randn(1, 2, 4, 4)
    with pytest.raises(ValueError, match="fewer than the 6 taps"):
        upfirdn2d(x, torch.ones(6))
    with pytest.raises(ValueError, match="up 0 must be at least 1"):
        upfirdn2d(x, None, up=0)
    with pytest.raises(ValueError, match="not a number"):
        upfirdn2d(x, None, padding=[1, 2, 3])
    with pytest.raises(ValueError, match=r"out has shape \[1, 4, 4, 2\], expected \[1, 3, 3, 2\]"):
        upfirdn2d_call(torch.randn(1, 4, 4, 2), torch.ones(2, 2), torch.empty(1, 4, 4, 2))
    with pytest.raises(ValueError, match="taps is float64"):
        upfirdn2d_call(torch.randn(1, 4, 4, 2), torch.ones(2, 2).double(), torch.empty(1, 3, 3, 2))


def _call(dtype=torch.float16, n=1):
    x, out = Slot("x", (n, 64, 64, 32), dtype), Slot("out", (n, 128, 128, 32), dtype)
    return upfirdn2d_call(x, Slot("f", (4, 4), torch.float32, shared=True), out, (2, 2), (1, 1), (2, 1, 2, 1), gain=4)


def test_batch_is_the_last_axis_of_the_grid():
    one, five = _call(), _call(n=5)
    assert (*one.grid[:2], 5) == five.grid
    assert (one.constants, one.aligned, one.signature()) == (five.constants, five.aligned, five.signature())
    integers = [{k: v for k, v in call.arguments.items() if isinstance(v, int)} for call in (one, five)]
    assert integers[0] == integers[1]


@pytest.mark.parametrize(("sm", "dtype"), TARGETS)
def test_compiles(sm, dtype):
    assert_compiles(_call(dtype), sm)


def test_work():
    # Each output of up 2 with 4x4 taps meets 2x2 samples.
    work = upfirdn2d_work((1, 64, 64, 32), (4, 4), (2, 2), padding=(2, 1, 2, 1))
    assert work.read == 64 * 64 * 32 * 2 + 64
    assert work.written == 128 * 128 * 32 * 2
    assert work.flops == 128 * 128 * 32 * 2 * 4
