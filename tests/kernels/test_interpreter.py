"""Kernels run in the interpreter and compile in one process, in any order."""

import torch
import triton
import triton.language as tl
from kernel_checks import assert_compiles

from anycost.kernels.call import Call, run


@triton.jit
def _doubled(x):
    return x + tl.zeros_like(x) + x


@triton.jit
def _sum_kernel(x, out, size, BLOCK: tl.constexpr):
    """Uses what Triton has written in Triton itself, as functions and as methods, and a function of ours."""
    i = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, tl.cdiv(size, BLOCK)):
        total += _doubled(tl.load(x + start * BLOCK + i, mask=start * BLOCK + i < size, other=0.0))
    tl.store(out, tl.sum(total, axis=0) + tl.max(total, axis=0) * 0 + total.sum(axis=0) * 0)


def test_a_launch_leaves_the_language_as_it_was():
    before = _functions()
    x, out = torch.arange(37.0), torch.empty(1)
    call = Call(_sum_kernel, {"x": x, "out": out, "size": 37}, {"BLOCK": 16}, (1, 1, 1))
    for _ in range(2):
        run(call)
        assert out.item() == 2 * x.sum().item()
        assert_compiles(call, 90)
        out.fill_(torch.nan)
    assert _functions() == before


def _functions() -> list[dict[str, object]]:
    places = (tl, tl.core, tl.math, tl.standard, tl.tensor)
    return [
        {name: value for name, value in vars(place).items() if callable(value) and name[0] != "_"} for place in places
    ]
