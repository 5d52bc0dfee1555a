"""A lowered program on a CPU, launch by launch in Triton's interpreter: the packing, the offsets and the order are those that a
GPU gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from anycost.errors import BackendError
from anycost.kernels.call import Call
from anycost.kernels.compile import Compiled, kernel_key
from anycost.kernels.interpreter import interpreted
from anycost.kernels.lower import Draft, Lowered, lower
from anycost.runtime.backends import Bind
from anycost.runtime.cuda.arena import ALIGNMENT, lifetimes, pack
from anycost.runtime.cuda.constants import packed
from anycost.runtime.cuda.program import Choice, Place, Program, Region, Step

Array = np.ndarray

_TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int32": torch.int32,
}
_UNWRITTEN = 0xFF  # Every byte: NaN in all floating-point types, -1 as an integer.


def simulate(
    lowered: Lowered, inputs: Mapping[str, Array], bind: Bind, chosen: Mapping[str, str] | None = None
) -> dict[str, Array]:
    """inputs: float32 [N, ...] by name, one N in all -> the outputs by name, float32 [N, ...].

    bind: makes a constant. chosen: labels of alternatives by the step's name, the first where a step is not named.

    All regions lie in one block, scratch memory packed as on a device. Scratch memory is filled with NaN before the first
    launch that touches a region, so that a read of what no launch has written shows in the result. Raises BackendError for a
    label that a step does not have.
    """
    program = lowered.program
    choices = [_choice(step, (chosen or {}).get(step.name)) for step in program.steps]
    batch = len(next(iter(inputs.values())))
    spans = lifetimes(program, choices, batch)
    layout = pack(spans)
    offsets, end = dict(layout.offsets), layout.total
    for region in program.regions:
        if region.kind != "scratch":
            offsets[region.name] = end
            end += -(-region.bytes(batch) // ALIGNMENT) * ALIGNMENT
    memory = _Memory(torch.full((end,), _UNWRITTEN, dtype=torch.uint8), offsets, program.by_name(), batch)
    for region in program.regions:
        if region.kind in ("weight", "table"):
            memory.write(region.name, packed(region, bind) if region.kind == "weight" else region.table())
    for name in program.inputs:
        memory.write(name, np.ascontiguousarray(inputs[name], dtype=np.float32))
    for step in _needed(program, choices):
        for launch in step.choices[0].launches:
            _run(lowered, launch.kernel, launch.grid, launch.arguments, memory)
    first: dict[int, list[str]] = {}
    for span in spans:
        first.setdefault(span.first, []).append(span.name)
    for i, launch in enumerate(launch for choice in choices for launch in choice.launches):
        for name in first.get(i, ()):
            memory.clear(name)
        x, y, z = launch.grid
        _run(lowered, launch.kernel, (x, y, z * batch), launch.arguments, memory)
    return {name: memory.read(name) for name in program.outputs}


def uncompiled(draft: Draft, max_batch: int = 8) -> Lowered:
    """A draft lowered without machine code, in no time: for ``simulate``, not for a device."""
    return lower(draft, ["sm_90"], max_batch, compiler=_no_code)


def _no_code(calls: Iterable[Call], targets: Sequence[str], threads: int | None) -> dict[tuple[str, str], Compiled]:
    keys = {kernel_key(call): call for call in calls}
    return {(key, target): Compiled(c.name, key.encode(), 0, c.warps) for key, c in keys.items() for target in targets}


def _needed(program: Program, choices: Sequence[Choice]) -> list[Step]:
    """The steps of ``prepare`` whose results these choices read, as a device runs them."""
    wanted = set().union(*(choice.regions for choice in choices))
    kinds = {region.name: region.kind for region in program.regions}
    needed: list[Step] = []
    for step in reversed(program.prepare):
        if any(kinds[name] == "prepared" for name in step.regions & wanted):
            needed.append(step)
            wanted |= step.regions
    return needed[::-1]


class _Memory:
    def __init__(self, block: torch.Tensor, offsets: Mapping[str, int], regions: Mapping[str, Region], batch: int):
        self._block, self._offsets, self._regions, self._batch = block, offsets, regions, batch

    def at(self, place: Place) -> torch.Tensor:
        """From an element of a region to its end, flat."""
        region = self._regions[place.region]
        return self._bytes(place.region).view(_TYPES[region.dtype])[place.offset :]

    def write(self, name: str, array: Array) -> None:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._bytes(name).copy_(torch.from_numpy(data.copy()))

    def read(self, name: str) -> Array:
        shape = (self._batch, *self._regions[name].shape[1:])
        return np.array(self.at(Place(region=name)).numpy()).reshape(shape)

    def clear(self, name: str) -> None:
        self._bytes(name).fill_(_UNWRITTEN)

    def _bytes(self, name: str) -> torch.Tensor:
        start = self._offsets[name]
        return self._block[start : start + self._regions[name].bytes(self._batch)]


def _choice(step: Step, label: str | None) -> Choice:
    if label is None:
        return step.choices[0]
    for choice in step.choices:
        if choice.label == label:
            return choice
    raise BackendError(f"step {step.name} has no choice {label}: it has {[choice.label for choice in step.choices]}")


def _run(
    lowered: Lowered, kernel: int, grid: tuple[int, int, int], arguments: tuple[int | Place, ...], memory: _Memory
) -> None:
    call = lowered.calls[kernel]
    values = [memory.at(a) if isinstance(a, Place) else a for a in arguments]
    # A kernel's own arguments are in the order of the call that it was compiled from.
    named = dict(zip(call.arguments, values, strict=True))
    interpreted(call.kernel)[grid](**named, **call.constants)
