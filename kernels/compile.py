"""Kernels to machine code, for GPUs that need not be there: Triton's compiler with a named target."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

from anycost.environment import environment
from anycost.errors import BuildError
from anycost.kernels.call import Call
from anycost.runtime.cuda.targets import capability, shared_limit

_WARP = 32
# After a kernel's own parameters Triton adds the addresses of two scratch buffers, which are null where their size is 0.
_ADDED_PARAMETERS = 2
# File names and lines in the machine code would tell where it was built, and are twice its size.
_SETTINGS = {"TRITON_DISABLE_LINE_INFO": "1"}


@dataclass(frozen=True)
class Compiled:
    """A kernel for one target. symbol: its name in ``image``. shared: the dynamic shared memory of a block, in bytes."""

    symbol: str
    image: bytes
    shared: int
    warps: int

    def fits(self, target: str) -> bool:
        """Whether a block's shared memory is no more than the target has."""
        return self.shared <= shared_limit(target)


def kernel_key(call: Call) -> str:
    """What the machine code of a call depends on, but for the target: calls with equal keys share it."""
    constants = sorted((name, repr(value)) for name, value in call.constants.items())
    parts = (call.kernel.cache_key, call.name, call.signature(), constants, call.attributes(), call.warps, call.stages)
    return repr(parts)


_made: dict[tuple[str, str], Compiled] = {}
_lock = Lock()


def compile_call(call: Call, target: str) -> Compiled:
    """For a target such as ``sm_89``; kept in memory, and by Triton on disk. Raises BuildError with Triton's reason."""
    key = kernel_key(call), target
    with _lock:
        found = _made.get(key)
    if found is None:
        with environment(_SETTINGS):
            found = _compiled(call, target)
        with _lock:
            _made[key] = found
    return found


def compile_calls(
    calls: Iterable[Call], targets: Sequence[str], threads: int | None = None
) -> dict[tuple[str, str], Compiled]:
    """Every different kernel of the calls, for all targets: by (``kernel_key``, target).

    threads: compilations at a time; by default one for each processor. Raises BuildError of the first that fails.
    """
    wanted = {(kernel_key(call), target): call for call in calls for target in targets}
    with environment(_SETTINGS), ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        made = pool.map(lambda item: compile_call(item[1], item[0][1]), wanted.items())
        return dict(zip(wanted, made, strict=True))


def _compiled(call: Call, target: str) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    try:
        major, minor = capability(target)
    except ValueError as error:
        raise BuildError(f"kernels cannot be compiled: {error}") from None
    source = ASTSource(call.kernel, call.signature(), dict(call.constants), call.attributes())
    # Fused multiply-adds are asked for by name: Triton's default is about to change.
    options = {"num_warps": call.warps, "num_stages": call.stages, "enable_fp_fusion": True}
    try:
        made = triton.compile(source, target=GPUTarget("cuda", 10 * major + minor, _WARP), options=options)
    except Exception as error:
        reason = " ".join(str(error).split())[-300:]
        raise BuildError(
            f"kernel {call.name} cannot be compiled for {target}: {type(error).__name__}: {reason}"
        ) from None
    metadata: Any = made.metadata
    scratch = int(metadata.global_scratch_size) + int(getattr(metadata, "profile_scratch_size", 0) or 0)
    if scratch:
        raise BuildError(
            f"kernel {call.name} needs {scratch} bytes of global scratch memory, which engines do not give it"
        )
    expected = len(call.arguments) + _ADDED_PARAMETERS
    if _parameters(made.asm["ptx"]) != expected:
        raise BuildError(
            f"kernel {call.name} takes {_parameters(made.asm['ptx'])} parameters where {expected} were expected: Triton "
            f"{triton.__version__} is not supported, install 3.5 to 3.9"
        )
    return Compiled(str(metadata.name), bytes(made.asm["cubin"]), int(metadata.shared), int(metadata.num_warps))


def _parameters(ptx: str) -> int:
    """How many parameters the one entry function of PTX text takes."""
    head = re.search(r"\.entry\s+\w+\s*\((.*?)\)", ptx, re.DOTALL)
    return len(re.findall(r"\.param\b", head[1])) if head else 0
