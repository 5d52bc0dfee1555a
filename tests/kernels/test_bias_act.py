"""bias_act in Triton's interpreter against the golden outputs and the plain reference."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from deterministic import golden_input
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_checks import TARGETS, assert_compiles, assert_near

from anycost.kernels.bias_act import reference
from anycost.kernels.bias_act.functions import ACTIVATIONS
from anycost.kernels.bias_act.launch import bias_act, bias_act_call
from anycost.kernels.bias_act.work import bias_act_work
from anycost.kernels.call import Slot

GOLDENS = Path(__file__).parents[1] / "goldens"
CASE = json.loads((GOLDENS / "cases.json").read_text())["bias_act"]
EXPECTED = np.load(GOLDENS / "bias_act.npz")


@pytest.mark.parametrize("call", CASE["calls"], ids=lambda call: call["act"])
def test_goldens(call):
    act = call["act"]
    x, b = golden_input("bias_act", f"{act}x", (2, 8, 5, 7)), golden_input("bias_act", f"{act}b", (8,))
    assert_near(bias_act(x, b, act=act, clamp=call["clamp"]), torch.from_numpy(EXPECTED[act]))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    axis=st.integers(-4, 3),
    act=st.sampled_from(list(ACTIVATIONS)),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    with_bias=st.booleans(),
    alpha=st.sampled_from([None, 0.0, 0.7]),
    gain=st.sampled_from([None, 0.5]),
    clamp=st.sampled_from([None, 0.0, 0.25]),
    spread=st.sampled_from([0.1, 3.0, 60.0]),
    seed=st.integers(0, 2**31),
)
@example([1], 0, "sigmoid", torch.float16, False, None, 0.5, None, 60.0, 117)  # a result with one bit left
def test_any_arguments(shape, axis, act, dtype, with_bias, alpha, gain, clamp, spread, seed):
    dim = axis % len(shape)
    random = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=random) * spread).to(dtype)
    b = torch.randn(shape[dim], generator=random).to(dtype) if with_bias else None
    found = bias_act(x, b, dim, act, alpha, gain, clamp)
    assert found.dtype == dtype
    doubles = (x.double(), None if b is None else b.double())
    expected = reference.bias_act(*doubles, dim, act, alpha, gain, clamp)
    # In the function's own range, which a clamp may leave little of, and no finer than normal numbers of the type are.
    largest = (
        reference.bias_act(*doubles, dim, act, alpha, gain).abs().max().clamp(min=torch.finfo(dtype).smallest_normal)
    )
    assert_near(
        torch.cat([found.flatten().double(), largest[None]]), torch.cat([expected.flatten(), largest[None]]), dtype
    )


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_far_from_zero(act):
    x = torch.tensor([-1e4, -100.0, -50.0, 0.0, 50.0, 100.0, 1e4])
    found, expected = bias_act(x, None, 0, act), reference.bias_act(x.double(), None, 0, act)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def _call(dtype, act="lrelu", n=1):
    x, out = (Slot(name, (n, 64, 64, 32), dtype) for name in ("x", "out"))
    return bias_act_call(x, Slot("b", (32,), dtype, shared=True), out, 3, act)


def test_batch_is_the_last_axis_of_the_grid():
    one, five = _call(torch.float16), _call(torch.float16, n=5)
    assert (*one.grid[:2], 5) == five.grid
    assert (one.constants, one.aligned) == (five.constants, five.aligned)


@pytest.mark.parametrize(("sm", "dtype"), TARGETS)
def test_compiles(sm, dtype):
    assert_compiles(_call(dtype), sm)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_function_compiles(act):
    assert_compiles(_call(torch.float16, act), 90)


def test_work():
    work = bias_act_work(1000, 10, torch.float16, act="relu", clamp=True)
    assert (work.read, work.written, work.flops) == (2020, 2000, 5000)


def test_mistakes_are_named():
    x = torch.randn(2, 3)
    with pytest.raises(ValueError, match="no activation function 'gelu': choose one of linear, relu"):
        bias_act(x, act="gelu")
    with pytest.raises(ValueError, match="dim 2 is no axis"):
        bias_act(x, dim=2)
    with pytest.raises(ValueError, match="clamp -1 is negative"):
        bias_act(x, clamp=-1)
    with pytest.raises(ValueError, match=r"bias has shape \[2\], expected \[3\]"):
        bias_act(x, torch.zeros(2))
