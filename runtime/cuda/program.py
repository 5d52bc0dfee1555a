"""program.json: an engine as a list of kernel launches over named regions of memory. docs/bundle.md specifies the format.

A launch says the same at every batch size, but for its last grid axis, which is multiplied by the batch.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from anycost.errors import BackendError
from anycost.runtime.binding import Binding, Count
from anycost.runtime.cuda.targets import shared_limit

PROGRAM_NAME = "program.json"
KERNELS_NAME = "kernels.safetensors.xz"

Array = np.ndarray
Dtype = Literal["float32", "float16", "bfloat16", "int32"]
Kind = Literal["input", "output", "weight", "table", "prepared", "scratch"]
# What NumPy keeps a type's bits in.
HOST_TYPES: dict[str, Any] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "int32": np.int32,
}
CONSTANT_KINDS = ("weight", "table", "prepared")

_LARGEST_GRID = (2**31 - 1, 65535, 65535)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Record):
    """One bound constant in a region of weights: it begins at element ``offset``, and is padded with zeros at the end of each
    axis to ``shape``."""

    binding: Binding
    offset: Annotated[int, Field(ge=0)] = 0
    shape: tuple[Count, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Region(_Record):
    """A contiguous array. shape: with one image, the batch first; shared: one for all images.

    kind: ``input``, ``output``: a port of the engine, float32; ``weight``: made of ``parts``, zeros between them; ``table``:
    ``values``; ``prepared``: written once by the program's ``prepare``; ``scratch``: written and read in every run.
    """

    name: str
    kind: Kind
    dtype: Dtype
    shape: Annotated[tuple[Count, ...], Field(min_length=1)]
    shared: bool = False
    parts: tuple[Part, ...] = ()
    values: tuple[int | float, ...] = ()

    @property
    def size(self) -> int:
        """Elements, with one image."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return int(np.dtype(HOST_TYPES[self.dtype]).itemsize)

    def bytes(self, batch: int = 1) -> int:
        return self.itemsize * self.size * (1 if self.shared else batch)

    def table(self) -> Array:
        return np.array(self.values, HOST_TYPES[self.dtype])

    @model_validator(mode="after")
    def _consistent(self) -> Region:
        constant = self.kind in CONSTANT_KINDS
        if constant and not self.shared:
            raise ValueError(f"region {self.name!r} of kind {self.kind} is not shared by all images")
        if self.kind in ("input", "output") and (self.shared or self.dtype != "float32" or self.shape[0] != 1):
            raise ValueError(f"port {self.name!r} is not float32 with one image first")
        if bool(self.parts) != (self.kind == "weight") or len(self.values) != (self.kind == "table") * self.size:
            raise ValueError(f"region {self.name!r} of kind {self.kind} has the content of another kind")
        if self.kind == "table" and self.dtype not in ("float32", "int32"):
            raise ValueError(f"table {self.name!r} is of {self.dtype}")
        end = 0
        for part in sorted(self.parts, key=lambda part: part.offset):
            shape, binding = part.shape, part.binding
            if len(shape) != len(binding.shape) or any(n < k for n, k in zip(shape, binding.shape, strict=True)):
                raise ValueError(f"{list(binding.shape)} of region {self.name!r} cannot be padded to {list(shape)}")
            if binding.dtype != self.dtype:
                raise ValueError(f"region {self.name!r} is {self.dtype}, and a part of it {binding.dtype}")
            if part.offset < end:
                raise ValueError(f"parts of region {self.name!r} overlap at element {part.offset}")
            end = part.offset + part.size
        if end > self.size:
            raise ValueError(f"the parts of region {self.name!r} end at {end}, and it at {self.size}")
        return self


class Kernel(_Record):
    """A compiled function. symbol: its name in the image. warps: of 32 threads, in a block. images: by target, the name of its
    machine code in kernels.safetensors.xz; a target that it cannot run on is left out. shared: by target, the dynamic shared
    memory of a block, in bytes."""

    symbol: str
    warps: Count
    images: dict[str, str]
    shared: dict[str, Annotated[int, Field(ge=0)]]

    @model_validator(mode="after")
    def _consistent(self) -> Kernel:
        if not self.images or set(self.images) != set(self.shared):
            raise ValueError(f"kernel {self.symbol!r} has images and shared memory of different targets, or none")
        return self


class Place(_Record):
    """The address of element ``offset`` of a region."""

    region: str
    offset: Annotated[int, Field(ge=0)] = 0


class Launch(_Record):
    """kernel: index. grid: blocks along x, y and z for one image. arguments: addresses and 32-bit integers, in order; after them
    every kernel takes two null addresses."""

    kernel: Annotated[int, Field(ge=0)]
    grid: tuple[Count, Count, Count]
    arguments: tuple[Annotated[int, Field(ge=-(2**31), lt=2**31)] | Place, ...]

    @property
    def places(self) -> list[Place]:
        return [argument for argument in self.arguments if isinstance(argument, Place)]


class Choice(_Record):
    """One way to do a step: launches, in order."""

    label: str
    launches: Annotated[tuple[Launch, ...], Field(min_length=1)]

    @property
    def regions(self) -> set[str]:
        return {place.region for launch in self.launches for place in launch.places}


class Step(_Record):
    """choices: each leaves the same in all regions that later steps read, but for rounding; the first is the default."""

    name: str
    choices: Annotated[tuple[Choice, ...], Field(min_length=1)]

    @property
    def regions(self) -> set[str]:
        return set().union(*(choice.regions for choice in self.choices))


class Program(_Record):
    """inputs, outputs: names of regions, as callers use them. max_batch: the most images in one run. prepare: run once when the
    engine is loaded, one choice each. targets: compute capabilities that it was compiled for."""

    format: Literal["anycost-program"]
    format_version: Literal[1]
    precision: Literal["fp32", "fp16", "bf16"]
    max_batch: Annotated[int, Field(ge=1)] = 8
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    inputs: Annotated[tuple[str, ...], Field(min_length=1)]
    outputs: Annotated[tuple[str, ...], Field(min_length=1)]
    regions: tuple[Region, ...]
    kernels: tuple[Kernel, ...]
    prepare: tuple[Step, ...] = ()
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]

    def by_name(self) -> dict[str, Region]:
        return {region.name: region for region in self.regions}

    def available(self, step: Step, target: str, shared_bytes: int) -> list[Choice]:
        """The choices of a step whose kernels run on a target with so much shared memory a block."""
        return [
            choice
            for choice in step.choices
            if all(
                target in kernel.images and kernel.shared[target] <= shared_bytes
                for kernel in (self.kernels[launch.kernel] for launch in choice.launches)
            )
        ]

    def results(self, index: int) -> list[str]:
        """The regions that a step is the first to touch and later steps or the caller read: what its choices must agree in."""
        kinds = {region.name: region.kind for region in self.regions}
        before = set().union(*(step.regions for step in self.steps[:index]), self.inputs)
        after = set().union(*(step.regions for step in self.steps[index + 1 :]), self.outputs)
        found = self.steps[index].regions & after - before
        return sorted(name for name in found if kinds[name] not in CONSTANT_KINDS)

    @model_validator(mode="after")
    def _consistent(self) -> Program:
        regions = self.by_name()
        if len(regions) != len(self.regions):
            raise ValueError("two regions have one name")
        for kind, ports in (("input", self.inputs), ("output", self.outputs)):
            if sorted(ports) != sorted(region.name for region in self.regions if region.kind == kind):
                raise ValueError(f"the {kind}s {list(ports)} are not the regions of that kind")
        for step in (*self.prepare, *self.steps):
            self._check_step(step, regions)
        if len({step.name for step in self.steps}) != len(self.steps):
            raise ValueError("two steps have one name")
        for step in self.prepare:
            kinds = {regions[name].kind for name in step.regions}
            if len(step.choices) != 1 or kinds - {*CONSTANT_KINDS}:
                raise ValueError(f"step {step.name!r} of prepare has choices, or takes an input or output")
        for i, step in enumerate(self.steps):
            results = set(self.results(i))
            for choice in step.choices:
                lost = results - choice.regions
                if lost:
                    raise ValueError(f"choice {choice.label!r} of step {step.name!r} leaves out {sorted(lost)}")
        made = set().union(*(step.regions for step in self.prepare))
        used = set().union(*(step.regions for step in self.steps))
        for region in self.regions:
            if region.kind == "prepared" and region.name not in made:
                raise ValueError(f"nothing prepares region {region.name!r}")
            if region.kind == "output" and region.name not in used:
                raise ValueError(f"nothing writes output {region.name!r}")
        for target in self.targets:
            for step in (*self.prepare, *self.steps):
                if not self.available(step, target, shared_limit(target)):
                    raise ValueError(f"step {step.name!r} has no choice for {target}")
        return self

    def _check_step(self, step: Step, regions: Mapping[str, Region]) -> None:
        if len({choice.label for choice in step.choices}) != len(step.choices):
            raise ValueError(f"two choices of step {step.name!r} have one label")
        for launch in launches(step.choices):
            if launch.kernel >= len(self.kernels):
                raise ValueError(f"step {step.name!r} launches kernel {launch.kernel} of {len(self.kernels)}")
            x, y, z = launch.grid
            if any(n > most for n, most in zip((x, y, z * self.max_batch), _LARGEST_GRID, strict=True)):
                raise ValueError(f"step {step.name!r} has a grid of {list(launch.grid)}")
            for place in launch.places:
                if place.region not in regions:
                    raise ValueError(f"step {step.name!r} takes region {place.region!r}, which is none")
                if place.offset >= regions[place.region].size:
                    raise ValueError(f"step {step.name!r} takes element {place.offset} of region {place.region!r}")


def launches(choices: Iterable[Choice]) -> Iterator[Launch]:
    for choice in choices:
        yield from choice.launches


def read_program(folder: Path) -> Program:
    """Raises BackendError for a file that is missing, damaged or inconsistent."""
    path = folder / PROGRAM_NAME
    try:
        return Program.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise BackendError(f"{path} cannot be used: {reason}; rebuild the bundle") from None


def write_program(program: Program, images: Mapping[str, bytes], folder: Path) -> None:
    """images: the machine code of all targets by entry name. It goes into one file: kernels are alike, and compress well."""
    (folder / PROGRAM_NAME).write_text(program.model_dump_json(exclude_defaults=True))
    arrays = {name: np.frombuffer(image, np.uint8) for name, image in sorted(images.items())}
    (folder / KERNELS_NAME).write_bytes(lzma.compress(save_tensors(arrays), preset=9))


def read_images(program: Program, folder: Path) -> dict[str, bytes]:
    """The machine code by entry name. Raises BackendError."""
    path = folder / KERNELS_NAME
    try:
        arrays = load_tensors(lzma.decompress(path.read_bytes()))
    except (OSError, lzma.LZMAError, EOFError, SafetensorError) as error:
        raise BackendError(f"{path} cannot be read: {error}; copy the bundle again, or rebuild it") from None
    missing = {entry for kernel in program.kernels for entry in kernel.images.values()} - set(arrays)
    if missing:
        raise BackendError(f"{path} has no kernel {min(missing)}: rebuild the bundle")
    return {name: array.tobytes() for name, array in arrays.items()}
