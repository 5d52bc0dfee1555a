"""One launch of one kernel as a plain value, whatever runs it: the interpreter, a GPU through Triton, or a plan of many.

Launch functions (``launch.py`` of each operator) look at shapes and types only, so they take tensors and ``Slot``s alike, and the
rule of a grid stands in one place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

# What Triton calls the types that kernels here take.
TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int32: "i32",
    torch.uint8: "u8",
}
_ALIGNED = 16  # Triton loads in vectors where it knows that an address or a row is a multiple of this.


@dataclass(frozen=True)
class Slot:
    """A tensor that does not exist yet: contiguous, in a place that a plan finds for it.

    shape: with one image, whatever the batch.
    shared: one for all images, as weights are; others have the batch as their first axis.

    A view lies inside another slot: base: that slot's name. offset: elements from its start to the view's. row: elements from an
    image of the view to the next (``columns`` makes such views).
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    shared: bool = False
    base: str | None = None
    offset: int = 0
    row: int | None = None

    def __post_init__(self) -> None:
        if self.base is None and (self.offset or self.row is not None):
            raise ValueError(f"slot {self.name} has an offset or a row but no base: name the slot that it is a view of")

    @property
    def aligned(self) -> bool:
        """Whether its address is a multiple of 16 bytes: a plan gives every slot that is no view such a place."""
        return self.offset * self.dtype.itemsize % _ALIGNED == 0


Operand: TypeAlias = torch.Tensor | Slot


@dataclass(frozen=True)
class Call:
    """A launch.

    kernel: a ``triton.jit`` function. arguments: its parameters that are not constexpr, in their order: operands and integers
    (int32). constants: its constexpr parameters. grid: programs; the last axis counts images and nothing else, so a plan for one
    image multiplies it by the batch. aligned: integers that are multiples of 16, which widens loads.
    """

    kernel: Any
    arguments: Mapping[str, Operand | int]
    constants: Mapping[str, Any]
    grid: tuple[int, int, int]
    warps: int = 4
    stages: int = 2
    aligned: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        names = list(self.kernel.arg_names)
        given = [name for name in names if name in self.arguments]
        if sorted(names) != sorted([*self.arguments, *self.constants]) or given != list(self.arguments):
            raise TypeError(
                f"kernel {self.name} takes {names}, in this order; given {list(self.arguments)} and {list(self.constants)}"
            )
        for name in self.aligned:
            value = self.arguments[name]
            if not isinstance(value, int) or value % _ALIGNED:
                raise TypeError(f"argument {name} of kernel {self.name} is {value}, no multiple of {_ALIGNED}")

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)

    def signature(self) -> dict[str, str]:
        """Triton's type of every parameter, in order."""
        types = {}
        for name in self.kernel.arg_names:
            if name in self.constants:
                types[name] = "constexpr"
            else:
                value = self.arguments[name]
                types[name] = "i32" if isinstance(value, int) else "*" + TYPES[value.dtype]
        return types

    def attributes(self) -> dict[tuple[int], list[list[Any]]]:
        """Parameters known to be multiples of 16: addresses, and the integers in ``aligned``."""
        return {
            (i,): [["tt.divisibility", _ALIGNED]]
            for i, name in enumerate(self.kernel.arg_names)
            if name in self.aligned or (name in self.arguments and _at_multiple(self.arguments[name]))
        }


def _at_multiple(value: Operand | int) -> bool:
    """Whether it is an operand whose address is a multiple of 16 bytes."""
    if isinstance(value, int):
        return False
    return value.aligned if isinstance(value, Slot) else value.data_ptr() % _ALIGNED == 0


def image_stride(operand: Operand) -> int:
    """Elements from one image to the next, 0 for one that all images share: a tensor with a batch of 1 is shared."""
    if isinstance(operand, Slot):
        if operand.shared:
            return 0
        return math.prod(operand.shape[1:]) if operand.row is None else operand.row
    return 0 if operand.shape[0] == 1 else operand.stride(0)


def columns(operand: Operand, start: int, count: int) -> Operand:
    """``operand[:, start : start + count]`` of one [N, S], as a tensor or a slot that is a view.

    Raises ValueError where it has no such columns.
    """
    if len(operand.shape) != 2 or not 0 <= start < start + count <= operand.shape[1]:
        raise ValueError(f"columns {start} to {start + count} are not within an operand of shape {list(operand.shape)}")
    if isinstance(operand, torch.Tensor):
        return operand[:, start : start + count]
    return Slot(
        f"{operand.name}[{start}:{start + count}]",
        (operand.shape[0], count),
        operand.dtype,
        operand.shared,
        operand.name if operand.base is None else operand.base,
        operand.offset + start,
        operand.shape[1] if operand.row is None else operand.row,
    )


def contiguous(**operands: Operand | None) -> None:
    """Raises ValueError for a tensor whose elements are not in order: kernels compute addresses from shapes."""
    for name, operand in operands.items():
        if isinstance(operand, torch.Tensor) and not operand.is_contiguous():
            raise ValueError(f"{name} {list(operand.shape)} is not contiguous: call .contiguous() first")


def divisible(**values: int) -> frozenset[str]:
    """The names of the values that are multiples of 16, for ``Call.aligned``."""
    return frozenset(name for name, value in values.items() if value % _ALIGNED == 0)


def run(call: Call) -> None:
    """Run it where its tensors are: by Triton on a GPU, in Triton's interpreter on a CPU."""
    tensors = [value for value in call.arguments.values() if isinstance(value, torch.Tensor)]
    if tensors[0].is_cuda:
        options = {"num_warps": call.warps, "num_stages": call.stages}
        call.kernel[call.grid](**call.arguments, **call.constants, **options)
    else:
        # Imported here: it patches Triton's language module, which a build machine has no use for.
        from anycost.kernels.interpreter import interpreted

        interpreted(call.kernel)[call.grid](**call.arguments, **call.constants)
