"""Kernels as PTX whose parameters stand in TensorRT's order: inputs, integers, outputs.

TensorRT launches a plugin's kernel with exactly these. Triton's kernels have an order of their own, parameters that a variant
does not read, and two addresses of scratch memory at the end. PTX refers to parameters by name, so its entry can be declared
anew without a change to the code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anycost.errors import BuildError
from anycost.kernels.call import Call, Slot
from anycost.runtime.cuda.targets import capability

_WARP = 32
# Of PTX: that of CUDA 12.8, so that no driver which TensorRT runs on is too old for it, and the capabilities that came later.
_PTX_VERSION = 87
_LATER = {(10, 3), (11, 0), (12, 1)}


@dataclass(frozen=True)
class Kernel:
    """symbol: the entry's name in ``ptx``. integers: int32 arguments between inputs and outputs. shared: bytes of a block."""

    symbol: str
    ptx: str
    integers: tuple[int, ...]
    grid: tuple[int, int, int]
    threads: int
    shared: int


def kernel(call: Call, inputs: Sequence[str], output: str, target: str) -> Kernel:
    """A launch whose slots are called as the plugin's inputs and output. grid: for one image. Raises BuildError."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    major, minor = capability(target)
    source = ASTSource(call.kernel, call.signature(), dict(call.constants), call.attributes())
    options: dict[str, Any] = {"num_warps": call.warps, "num_stages": call.stages, "enable_fp_fusion": True}
    if (major, minor) not in _LATER:
        options["ptx_version"] = _PTX_VERSION
    try:
        made = triton.compile(source, target=GPUTarget("cuda", 10 * major + minor, _WARP), options=options)
    except Exception as error:
        reason = " ".join(str(error).split())[-300:]
        raise BuildError(f"kernel {call.name} cannot be compiled for {target}: {reason}") from None
    metadata: Any = made.metadata
    ptx, integers = ordered(made.asm["ptx"], str(metadata.name), call, inputs, output)
    return Kernel(str(metadata.name), ptx, integers, call.grid, _WARP * int(metadata.num_warps), int(metadata.shared))


def ordered(ptx: str, symbol: str, call: Call, inputs: Sequence[str], output: str) -> tuple[str, tuple[int, ...]]:
    """The text with its entry's parameters in TensorRT's order, and the values of the integers among them.

    An input that the kernel does not read still has its place. Raises BuildError where the kernel reads what TensorRT does not
    give it, or one tensor through two parameters.
    """
    head = re.search(rf"\.entry\s+{symbol}\s*\((.*?)\)", ptx, re.DOTALL)
    if head is None:
        raise BuildError(f"kernel {call.name}: no entry {symbol} in its PTX; this version of Triton is not supported")
    lines = [line.strip().rstrip(",").strip() for line in head[1].splitlines() if ".param" in line]
    names = [line.split()[-1] for line in lines]
    body = ptx[head.end() :]
    read = [bool(re.search(rf"\b{re.escape(name)}\b", body)) for name in names]
    arguments = list(call.arguments.items())
    if any(read[len(arguments) :]):
        raise BuildError(f"kernel {call.name} needs scratch memory, which TensorRT does not give it")
    places: dict[str, int] = {}
    integers: list[int] = []
    numbers: list[str] = []
    for i, (name, value) in enumerate(arguments):
        if not read[i]:
            continue
        if isinstance(value, int):
            integers.append(value)
            numbers.append(lines[i])
        elif not isinstance(value, Slot) or value.name in places or value.name not in (*inputs, output):
            raise BuildError(f"kernel {call.name} reads {name} from a tensor that the plugin does not give it once")
        else:
            places[value.name] = i
    if output not in places:
        raise BuildError(f"kernel {call.name} writes no {output}")
    given = [lines[places[name]] if name in places else f".param .u64 {symbol}_unread_{name}" for name in inputs]
    declared = ",\n".join(f"\t{line}" for line in [*given, *numbers, lines[places[output]]])
    return f"{ptx[: head.start(1)]}\n{declared}\n{ptx[head.end(1) :]}", tuple(integers)
