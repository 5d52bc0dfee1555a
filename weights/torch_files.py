"""PyTorch's own files, zip archives and the older run of pickles, read without PyTorch's loader.

Its ``weights_only`` loader runs nothing, but a few hundred bytes may cost it hours or terabytes. Here the pickle goes
through our bounded ``Machine``, and a tensor is a note of where its values lie in the file: only those that are wanted
are ever copied, so that optimizers, often two thirds of a checkpoint, cost nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anycost.weights.archives import entries
from anycost.weights.pickle_machine import Budget, Function, Machine, Refused, Unfinished
from anycost.weights.pickles import NUMPY, STORAGES, TYPES, check_view, make_size

MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # within the first pickle of the older files
_VERSION = 1001


class _Storage:
    """Values in the file, in the older files known only after the pickle that uses them."""

    def __init__(self, dtype: torch.dtype, count: int, data: memoryview | None = None):
        self.dtype, self.count, self.data = dtype, count, data
        self._flat: Tensor | None = None

    @property
    def size(self) -> int:
        return self.count * self.dtype.itemsize

    def flat(self, budget: Budget) -> Tensor:
        if self.data is None:
            raise Refused("holds a tensor without its values: it is truncated or damaged")
        if self._flat is None:
            budget.take(self.size)
            flat = torch.empty(self.size, dtype=torch.uint8)
            # A copy: it is aligned, and the file may change while we hold it.
            flat.numpy()[:] = np.frombuffer(self.data[: self.size], np.uint8)
            self._flat = flat.view(self.dtype)
        return self._flat


@dataclass(frozen=True)
class View:
    """A tensor that has not been copied from the file."""

    storage: _Storage
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    def tensor(self, budget: Budget) -> Tensor:
        """Contiguous; tensors that share values in the file may share them here."""
        count = prod(self.sizes)
        if count == 0:
            return torch.empty(self.sizes, dtype=self.storage.dtype)
        found = self.storage.flat(budget).as_strided(self.sizes, self.strides, self.offset)
        if not found.is_contiguous():
            budget.take(count * found.element_size())  # a stride of 0 can make a few bytes look like terabytes
        return found.contiguous()


def read_archive(data: memoryview, budget: Budget) -> Any:
    """What the archive's pickle describes: plain data, with a View for each tensor. Raises Refused, and nearly anything
    where the bytes are damaged."""
    files = entries(data)
    pickled = [name for name in files if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickled) != 1:
        raise Refused(f"is an archive with {len(pickled)} data.pkl, not a PyTorch checkpoint: it is not read")
    folder = pickled[0].removesuffix("data.pkl")
    if files.get(f"{folder}byteorder", b"little") != b"little":
        raise Refused("holds tensors of another byte order: they are not read")
    known: dict[tuple[str, torch.dtype, int], _Storage] = {}

    def persistent(pid: Any) -> _Storage:
        dtype, name, count = _storage_id(pid)
        if (name, dtype, count) not in known:
            if f"{folder}data/{name}" not in files:
                raise Refused("holds a tensor without its values: it is truncated or damaged")
            known[name, dtype, count] = storage = _Storage(dtype, count, files[f"{folder}data/{name}"])
            if storage.data is None or storage.size > len(storage.data):
                raise Refused("holds a tensor with too few values: it is truncated or damaged")
        return known[name, dtype, count]

    return Machine(files[pickled[0]], budget, _NAMES, persistent).load()


def read_legacy(data: memoryview, budget: Budget) -> Any:
    """The same of the form before archives: five pickles, then each storage's count and values."""
    known: dict[str, _Storage] = {}

    def persistent(pid: Any) -> _Storage:
        dtype, name, count = _storage_id(pid)
        storage = known.setdefault(name, _Storage(dtype, count))
        if (storage.dtype, storage.count) != (dtype, count):
            raise Refused("holds a tensor with two sizes: it is damaged")
        return storage

    machine = Machine(data, budget, _NAMES, persistent)
    magic, version, system = (machine.load() for _ in range(3))
    if (magic, version) != (int.from_bytes(MAGIC, "little"), _VERSION) or system["little_endian"] is not True:
        raise Refused("holds tensors of another version or byte order: they are not read")
    content, names = machine.load(), machine.load()
    if type(names) is not list or not all(type(name) is str and name in known for name in names):
        raise Refused("lists values that no tensor has: it is damaged")
    for name in names:
        storage = known[name]
        if struct.unpack("<q", machine.take(8)) != (storage.count,):
            raise Refused("holds a tensor with two sizes: it is damaged")
        storage.data = machine.take(storage.size)
    if any(storage.data is None for storage in known.values()):
        raise Refused("holds a tensor without its values: it is truncated or damaged")
    return content


def groups(content: dict[Any, Any], budget: Budget) -> Iterator[tuple[str, str, Tensor]]:
    """Group, name and tensor of each that is at the top (in group "") or in a dict at the top."""
    for group, members in content.items():
        held = members if type(members) is dict else {group: members}
        # A dict may stand under any number of names: each time it is walked counts.
        budget.work(len(held))
        for name, value in held.items():
            if type(value) is View and type(name) is str and type(group) is str:
                yield group if held is members else "", name, value.tensor(budget)


def _storage_id(pid: Any) -> tuple[torch.dtype, str, int]:
    if type(pid) is not tuple or not 5 <= len(pid) <= 6 or pid[0] != "storage" or pid[5:] not in ((), (None,)):
        raise Refused("asks for a persistent object, and only tensors are read")
    _, dtype, name, _device, count, *_ = pid
    if (type(dtype), type(name), type(count)) != (torch.dtype, str, int) or not 0 <= count < 1 << 60:
        raise Refused("asks for a persistent object, and only tensors are read")
    return dtype, name, count


def _view(
    budget: Budget,
    storage: _Storage,
    offset: int,
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: bool = False,
    hooks: object = None,
    bits: object = None,
) -> View:
    if type(storage) is not _Storage or bits:
        raise Refused("holds a tensor of another kind than plain numbers: it is not read")
    check_view(storage.count, offset, sizes, strides)
    return View(storage, offset, sizes, strides)


def _parameter(budget: Budget, data: View, *_: object) -> View:
    if type(data) is not View:
        raise Refused("holds a parameter that is no tensor: it is damaged")
    return data


class _Namespace(Unfinished):
    """What argparse gives: training scripts save their options with their tensors."""

    def build(self, budget: Budget, state: Any) -> None:
        if type(state) is not dict:
            raise Refused("sets attributes of a Namespace to something other than options: it is damaged")
        self.value = state


def _encode(budget: Budget, text: str, encoding: str) -> memoryview:
    """How protocol 2, which ``torch.save`` uses, writes bytes: numpy's numbers are such."""
    if (type(text), type(encoding)) != (str, str) or encoding != "latin1":
        raise Refused("asks for text in another encoding than latin1: it is not read")
    budget.take(len(text))  # the same text may be encoded over and over
    return memoryview(text.encode("latin1"))


# What training scripts leave beside their tensors is made a plain value, or a None where nothing would look at it.
_NAMES: dict[tuple[str, str], Any] = {
    **STORAGES,
    **NUMPY,
    ("torch._utils", "_rebuild_tensor"): Function(_view),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_view),
    ("torch._utils", "_rebuild_parameter"): Function(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Function(_parameter),
    ("torch.nn.parameter", "Parameter"): Function(_parameter),
    ("torch", "Size"): Function(make_size),
    ("torch", "device"): Function(lambda budget, kind, index=None: kind),
    ("torch.serialization", "_get_layout"): Function(lambda budget, name: name),
    ("collections", "OrderedDict"): Function(lambda budget: {}),
    ("collections", "deque"): Function(lambda budget, *_: None),
    ("collections", "Counter"): Function(lambda budget, *_: {}),
    ("collections", "defaultdict"): Function(lambda budget, *_: {}),
    ("argparse", "Namespace"): Function(lambda budget: _Namespace(), by_new=True),
    ("_codecs", "encode"): Function(_encode),
}
_NAMES |= {("torch", str(dtype).removeprefix("torch.")): str(dtype) for dtype in TYPES.values()}
for _module in ("builtins", "__builtin__"):
    _NAMES |= {(_module, kind): Function(lambda budget, items: items) for kind in ("set", "frozenset")}
    _NAMES |= {(_module, kind): Function(lambda budget, *_: None) for kind in ("range", "xrange", "slice")}
    _NAMES |= {(_module, kind): kind for kind in ("dict", "list", "int", "float")}  # what a defaultdict makes
