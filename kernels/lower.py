"""From calls to a program: what launch functions return becomes launches over named regions, with the machine code beside them.

draft = Draft(precision="fp16", inputs=[...], outputs=[...], weights={...}, tables={...}, prepare=[...], steps=[...])
lowered = lower(draft, ["sm_86", "sm_90"])
lowered.write(folder)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError

from anycost.errors import BuildError
from anycost.kernels.call import Call, Slot
from anycost.kernels.compile import Compiled, compile_calls, kernel_key
from anycost.runtime.cuda import program
from anycost.runtime.cuda.program import HOST_TYPES, Part, Program, Region, write_program
from anycost.runtime.cuda.targets import capability

Array = np.ndarray

_TYPES: dict[torch.dtype, program.Dtype] = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.int32: "int32",
}
Compiler = Callable[[Iterable[Call], Sequence[str], int | None], dict[tuple[str, str], Compiled]]
_ALIGNMENT = 256  # bytes, of every constant in a packed region
_DIGITS = 16  # of the sha256 by which images are named


@dataclass(frozen=True)
class Step:
    """choices: (label, calls) of each way to do it, in order of preference; all leave the same in what later steps read.
    A target leaves out choices that it has too little shared memory for."""

    name: str
    choices: Sequence[tuple[str, Sequence[Call]]]


@dataclass(frozen=True)
class Draft:
    """An engine, before anything is compiled.

    inputs, outputs: float32 slots with one image, by the names and in the shapes that callers use; calls may name them with
    another shape of as many elements. weights: the parts of each region of weights, by the name of its slot (or of the base of
    views; ``pack`` lays them out). tables: float32 or int32 arrays by the name of their slot. prepare: steps of one choice that
    run once when an engine is loaded, over constants alone; what they write and later steps read stays. steps: in order. All
    other slots are scratch memory, alive from the first step that names them to the last.
    """

    precision: Literal["fp32", "fp16", "bf16"]
    inputs: Sequence[Slot]
    outputs: Sequence[Slot]
    steps: Sequence[Step]
    weights: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    tables: Mapping[str, Array] = field(default_factory=dict)
    prepare: Sequence[Step] = ()


@dataclass(frozen=True)
class Lowered:
    """program, images: what an engine's folder holds. calls: by index in ``program.kernels``, a call of that kernel, whose
    function and constants are what ``simulate`` interprets."""

    program: Program
    images: Mapping[str, bytes]
    calls: Sequence[Call]

    def write(self, folder: Path) -> None:
        write_program(self.program, self.images, folder)


def pack(parts: Sequence[Part]) -> list[Part]:
    """The same parts one after the other in one region, each at a multiple of 256 bytes."""
    found, end = [], 0
    for part in parts:
        step = _ALIGNMENT // (4 if part.binding.dtype == "float32" else 2)
        start = -(-end // step) * step
        found.append(part.model_copy(update={"offset": start}))
        end = start + part.size
    return found


def lower(
    draft: Draft,
    targets: Sequence[str],
    max_batch: int = 8,
    threads: int | None = None,
    compiler: Compiler = compile_calls,
) -> Lowered:
    """Compile every kernel for every target, and name what the launches take.

    max_batch: the most images in one run. threads: compilations at a time. compiler: another than Triton's, which tests do
    without. Raises BuildError for slots that contradict each other, a kernel that cannot be compiled, or a step that no choice
    is left of on a target.
    """
    try:
        targets = sorted(set(targets), key=capability)
    except ValueError as error:
        raise BuildError(str(error)) from None
    regions = _regions(draft)
    calls = [call for step in (*draft.prepare, *draft.steps) for _, made in step.choices for call in made]
    compiled = compiler(calls, targets, threads)
    by_key: dict[str, Call] = {}
    for call in calls:
        by_key.setdefault(kernel_key(call), call)
    images: dict[str, bytes] = {}
    # Kernels that no target has room for are left out, with the choices that use them.
    kernels = {key: kernel for key in by_key if (kernel := _kernel(key, targets, compiled, images))}
    index = {key: i for i, key in enumerate(kernels)}
    lowered_steps = [_step(step, index) for step in draft.steps]
    lowered_prepare = [_step(step, index) for step in draft.prepare]
    used = set().union(*(step.regions for step in (*lowered_prepare, *lowered_steps)))
    try:
        made = Program(
            format="anycost-program",
            format_version=1,
            precision=draft.precision,
            max_batch=max_batch,
            targets=tuple(targets),
            inputs=tuple(slot.name for slot in draft.inputs),
            outputs=tuple(slot.name for slot in draft.outputs),
            regions=tuple(region for name, region in regions.items() if name in used or region.kind == "input"),
            kernels=tuple(kernels.values()),
            prepare=tuple(lowered_prepare),
            steps=tuple(lowered_steps),
        )
    except ValueError as error:
        raise BuildError(f"the kernels of this network make no engine: {_first(error)}") from None
    return Lowered(made, images, [by_key[key] for key in kernels])


def _kernel(
    key: str, targets: Sequence[str], compiled: Mapping[tuple[str, str], Compiled], images: dict[str, bytes]
) -> program.Kernel | None:
    """The kernel for the targets that have room for it; its machine code goes into ``images``."""
    entries, shared = {}, {}
    for target in targets:
        found = compiled[key, target]
        if found.fits(target):
            entries[target] = hashlib.sha256(found.image).hexdigest()[:_DIGITS]
            images[entries[target]] = found.image
            shared[target] = found.shared
    if not entries:
        return None
    one = compiled[key, next(iter(entries))]
    return program.Kernel(symbol=one.symbol, warps=one.warps, images=entries, shared=shared)


def _step(step: Step, index: Mapping[str, int]) -> program.Step:
    choices = []
    for label, calls in step.choices:
        keys = [kernel_key(call) for call in calls]
        if all(key in index for key in keys):
            made = tuple(_launch(call, index[key]) for call, key in zip(calls, keys, strict=True))
            choices.append(program.Choice(label=label, launches=made))
    if not choices:
        raise BuildError(f"no target has the shared memory that step {step.name} needs: give smaller blocks")
    return program.Step(name=step.name, choices=tuple(choices))


def _launch(call: Call, kernel: int) -> program.Launch:
    arguments: list[int | program.Place] = []
    for name, value in call.arguments.items():
        if isinstance(value, int):
            arguments.append(value)
        elif isinstance(value, Slot):
            arguments.append(program.Place(region=value.base or value.name, offset=value.offset))
        else:
            raise BuildError(f"argument {name} of kernel {call.name} is a tensor: a plan takes slots")
    return program.Launch(kernel=kernel, grid=call.grid, arguments=tuple(arguments))


def _regions(draft: Draft) -> dict[str, Region]:
    """Every region by name: ports, constants, and what else the calls name. Raises BuildError where two uses do not agree."""
    fixed = [_region(slot, "input") for slot in draft.inputs] + [_region(slot, "output") for slot in draft.outputs]
    fixed += [_weights(name, parts) for name, parts in draft.weights.items()]
    fixed += [_table(name, array) for name, array in draft.tables.items()]
    found = {region.name: region for region in fixed}
    if len(found) != len(fixed):
        raise BuildError("two of the inputs, outputs, weights and tables have one name")
    kinds: list[tuple[program.Kind, Sequence[Step]]] = [("prepared", draft.prepare), ("scratch", draft.steps)]
    used = [(kind, slot) for kind, steps in kinds for step in steps for slot in _slots(step)]
    for kind, slot in used:
        if slot.base is None and slot.name not in found:
            found[slot.name] = _region(slot, kind)
    for _, slot in used:
        _agree(slot, found)
    return found


def _slots(step: Step) -> list[Slot]:
    calls = [call for _, made in step.choices for call in made]
    return [value for call in calls for value in call.arguments.values() if isinstance(value, Slot)]


def _agree(slot: Slot, regions: Mapping[str, Region]) -> None:
    """Raises BuildError where a slot does not say of its region what is known of it."""
    name = slot.base or slot.name
    if name not in regions:
        raise BuildError(f"slot {slot.name} is a view of {name}, which nothing makes")
    region, size = regions[name], math.prod(slot.shape)
    said = f"slot {slot.name} {list(slot.shape)} of {slot.dtype} does not fit {name} {list(region.shape)} of {region.dtype}"
    if _TYPES.get(slot.dtype) != region.dtype:
        raise BuildError(said)
    if slot.shared != region.shared:
        raise BuildError(
            f"slot {slot.name} is {'one for all images' if slot.shared else 'for each image'}, {name} is not"
        )
    if slot.offset + size > region.size or (slot.base is None and size != region.size):
        raise BuildError(said)
    if slot.row is not None and slot.row != region.size and not region.shared:
        raise BuildError(f"images of slot {slot.name} lie {slot.row} elements apart, those of {name} {region.size}")


def _region(slot: Slot, kind: program.Kind) -> Region:
    if slot.dtype not in _TYPES:
        raise BuildError(f"slot {slot.name} is of {slot.dtype}: regions are {', '.join(_TYPES.values())}")
    return _checked(name=slot.name, kind=kind, dtype=_TYPES[slot.dtype], shape=slot.shape, shared=slot.shared)


def _weights(name: str, parts: Sequence[Part]) -> Region:
    if not parts:
        raise BuildError(f"weights {name} have no parts")
    end = max(part.offset + part.size for part in parts)
    return _checked(
        name=name, kind="weight", dtype=parts[0].binding.dtype, shape=(end,), shared=True, parts=tuple(parts)
    )


def _table(name: str, array: Array) -> Region:
    dtype = next((key for key in ("float32", "int32") if array.dtype == HOST_TYPES[key]), str(array.dtype))
    values = tuple(array.reshape(-1).tolist())
    return _checked(name=name, kind="table", dtype=dtype, shape=array.shape, shared=True, values=values)


def _checked(**fields: Any) -> Region:
    try:
        return Region(**fields)
    except ValueError as error:
        raise BuildError(f"the memory of this network makes no engine: {_first(error)}") from None


def _first(error: ValueError) -> str:
    return str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
