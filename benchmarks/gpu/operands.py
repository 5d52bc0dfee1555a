"""Tensors in place of the slots of a launch, with contents such as a network has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from anycost.kernels.call import Call, Operand, Slot

Array = np.ndarray
# Styles and weights are normalized to at most 1, demodulation makes up for it.
_UNIFORM = {"style": (-1.0, 1.0), "next_style": (-1.0, 1.0), "energy": (0.0, 1.0), "peak": (0.1, 1.0)}


def bound(calls: Sequence[Call], tables: Mapping[str, Array], device: str, seed: int = 0) -> list[Call]:
    """The same calls on tensors of one image, new ones; slots of one name are one tensor. tables: what slots of those names hold.
    Random content; what a call writes is NaN until it does."""
    generator = torch.Generator(device).manual_seed(seed)
    made: dict[str, Tensor] = {}
    found = []
    for call in calls:
        arguments: dict[str, Operand | int] = {}
        for name, value in call.arguments.items():
            arguments[name] = value
            if isinstance(value, Slot):
                arguments[name] = _tensor(name, value, call, tables, made, generator)
        found.append(replace(call, arguments=arguments))
    return found


def copied(calls: Sequence[Call]) -> list[Call]:
    """The same with the same content in other memory."""
    made: dict[tuple[int, torch.Size], Tensor] = {}

    def copy(value: Operand | int) -> Operand | int:
        if not isinstance(value, Tensor):
            return value
        place = value.data_ptr(), value.shape
        if place not in made:
            made[place] = value.clone()
        return made[place]

    return [replace(call, arguments={name: copy(value) for name, value in call.arguments.items()}) for call in calls]


def total_bytes(calls: Sequence[Call]) -> int:
    """Of all their tensors, each once."""
    tensors = [value for call in calls for value in call.arguments.values() if isinstance(value, Tensor)]
    return sum({x.data_ptr(): x.numel() * x.element_size() for x in tensors}.values())


def _tensor(
    name: str, slot: Slot, call: Call, tables: Mapping[str, Array], made: dict[str, Tensor], generator: torch.Generator
) -> Tensor:
    whole = slot.base or slot.name
    if slot.base is not None:
        # A view has its own address within a row that is as long as the plan's.
        if slot.name not in made:
            row = torch.zeros(1, slot.row or slot.offset + slot.shape[1], dtype=slot.dtype, device=generator.device)
            made[slot.name] = row[:, slot.offset : slot.offset + slot.shape[1]]
            made[slot.name].copy_(_content(name, slot, call, generator))
        return made[slot.name]
    if whole not in made:
        if whole in tables:
            made[whole] = torch.from_numpy(tables[whole].copy()).to(generator.device)
        else:
            made[whole] = _content(name, slot, call, generator)
    found = made[whole]
    return found if found.shape == slot.shape else found.reshape(slot.shape)


def _content(name: str, slot: Slot, call: Call, generator: torch.Generator) -> Tensor:
    shape, device = slot.shape, generator.device
    # An absent operand has the result in its place.
    if slot == call.arguments.get("out") or (call.name == "affine_styles" and name in ("style", "demodulation")):
        return torch.full(shape, math.nan, dtype=slot.dtype, device=device)
    if name in _UNIFORM:
        least, most = _UNIFORM[name]
        return least + (most - least) * torch.rand(shape, generator=generator, device=device)
    if name == "weight" and call.name in ("convolve", "fuse"):
        return (2 * torch.rand(shape, generator=generator, device=device) - 1).to(slot.dtype)
    x = torch.randn(shape, generator=generator, device=device)
    if name in ("weight", "affine"):
        # Rows for what enters: results of about 1.
        x /= math.sqrt(shape[-1] if call.name == "rgb" else shape[0] if name == "weight" else _dim(call))
    elif name == "demodulation":
        channels = call.arguments.get("channels")
        products = 9 * channels if call.name == "convolve" and isinstance(channels, int) else 1
        x = (0.5 + torch.rand(shape, generator=generator, device=device)) / math.sqrt(products)
    return x.to(slot.dtype)


def _dim(call: Call) -> int:
    dim = call.arguments["dim"]
    assert isinstance(dim, int)
    return dim
