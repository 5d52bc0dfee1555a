import os

import pytest
import torch
import triton
import triton.language as tl
from small_kernels import ENTERING, LEAVING, product_call

from anycost.errors import BuildError
from anycost.kernels import compile as module
from anycost.kernels.call import Call, Slot
from anycost.kernels.compile import Compiled, compile_call, compile_calls, kernel_key


def call(dtype=torch.float16, block=16, **changes):
    x, w, out = (
        Slot("x", (1, ENTERING), dtype),
        Slot("w", (ENTERING, LEAVING), dtype, shared=True),
        Slot("h", (1, LEAVING), dtype),
    )
    made = product_call(x, w, out, block)
    return Call(made.kernel, made.arguments, made.constants, made.grid, **changes)


@pytest.mark.parametrize("target", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_code_for_gpus_that_are_not_here(target):
    found = compile_call(call(), target)
    assert found.symbol == "product" and found.image[:4] == b"\x7fELF" and found.warps == 4
    assert found.fits(target)


def test_what_code_depends_on():
    keys = {
        kernel_key(c)
        for c in (
            call(),
            call(torch.bfloat16),
            call(block=32),
            call(warps=8),
            call(stages=3),
            Call(
                call().kernel,
                call().arguments | {"stride": 32},
                call().constants,
                (1, 1, 1),
                aligned=frozenset({"stride"}),
            ),
        )
    }
    assert len(keys) == 6
    # Not on names, sizes and grids.
    a, b = Slot("a", (1, 64), torch.float16), Slot("b", (64, 7), torch.float16, shared=True)
    other = product_call(a, b, Slot("c", (1, 7), torch.float16))
    assert kernel_key(other) == kernel_key(call())


def test_each_kernel_is_compiled_once(monkeypatch):
    monkeypatch.setattr(module, "_made", {})
    compiled = []

    def count(call, target):
        compiled.append(target)
        return Compiled("k", b"", 0, 4)

    monkeypatch.setattr(module, "_compiled", count)
    found = compile_calls([call(), call(), call(warps=8)], ["sm_86", "sm_90"], threads=2)
    assert sorted(compiled) == ["sm_86", "sm_86", "sm_90", "sm_90"] and len(found) == 4
    compile_calls([call()], ["sm_90"])
    assert len(compiled) == 4


def test_shared_memory_decides_what_fits():
    for size, fits in ((64 << 10, {"sm_75", "sm_86", "sm_90"}), (99 << 10, {"sm_86", "sm_90"}), (227 << 10, {"sm_90"})):
        found = Compiled("k", b"", size, 4)
        assert {t for t in ("sm_75", "sm_86", "sm_90") if found.fits(t)} == fits
        assert not Compiled("k", b"", (227 << 10) + 1, 4).fits("sm_90")


@triton.jit
def _wrong(x, B: tl.constexpr):
    tl.store(x, B.no_such_thing)


def test_what_cannot_be_compiled_is_said():
    with pytest.raises(BuildError, match=r"kernel _wrong cannot be compiled for sm_90: .*no_such_thing"):
        compile_call(Call(_wrong, {"x": Slot("x", (1,), torch.float32)}, {"B": 1}, (1, 1, 1)), "sm_90")
    with pytest.raises(BuildError, match="'cuda' is no compute capability"):
        compile_call(call(), "cuda")


def test_the_environment_is_as_before(monkeypatch):
    monkeypatch.delenv("TRITON_DISABLE_LINE_INFO", raising=False)
    monkeypatch.setattr(module, "_made", {})
    compile_call(call(), "sm_90")
    assert "TRITON_DISABLE_LINE_INFO" not in os.environ
    monkeypatch.setenv("TRITON_DISABLE_LINE_INFO", "0")
    compile_call(call(), "sm_86")
    assert os.environ["TRITON_DISABLE_LINE_INFO"] == "0"


def test_parameters_are_counted():
    ptx = ".visible .entry f(\n .param .u64 .ptr .global .align 1 f_param_0,\n .param .u32 f_param_1\n)\n.reqntid 128\n{ ld.param"
    assert module._parameters(ptx) == 2 and module._parameters("") == 0
