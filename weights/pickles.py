"""NVIDIA's StyleGAN2-ADA and StyleGAN3-repository ``.pkl`` files, read without running anything in them.

A pickle is a program: Python's own reader imports and calls what it names, and NVIDIA's loader also executes the source
that travels in the file. This one is an interpreter of our own for the few opcodes that such files need. A name in the
file is never imported: it is looked up among our functions, which build plain containers and tensors. Steps, bytes and
depth are bounded, because a few hundred bytes of pickle can ask for hours or terabytes.
"""

from __future__ import annotations

import mmap
import re
import struct
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anycost.errors import CheckpointError
from anycost.weights.pickle_machine import Budget, Function, Machine, Refused, Unfinished, key

_STEPS = 300_000  # opcodes and values; a 1024 px generator, its average and its discriminator take about 60 000
_DEEPEST = 100  # containers within containers; a network has about 20
_LONGEST_NAME = 200
_MOST_TENSORS = 10_000
TYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
# What the pickles within a storage's bytes may name, and nothing else.
STORAGES: dict[tuple[str, str], Any] = {("torch", f"{name}Storage"): dtype for name, dtype in TYPES.items()}
STORAGES["torch.storage", "UntypedStorage"] = torch.uint8


def read_pickle(path: Path) -> dict[str, Any]:
    """The file's dict as plain data: dict, list, tuple, set, str, numbers, None and contiguous tensors on the CPU.

    A network is ``{"class_name": ..., "state": {...}}``, for ``state_of``; its source is dropped unread, EasyDict and
    OrderedDict become dict, parameters and arrays become tensors. Raises CheckpointError, one line, for whatever is
    truncated, damaged, larger than the file, or asks for anything else; no code of the file runs.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():  # opening a pipe would wait for ever
            raise CheckpointError(f"{path} is not a file: give the path of a .pkl file")
        with path.open("rb") as file:
            if size == 0:
                raise CheckpointError(f"{path} is empty: copy or download it again")
            data = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    try:
        # Twice, for every value counts in its storage and again in a tensor.
        content = Machine(data, Budget(_STEPS, 2 * size), _GLOBALS).load()
        _check_plain(content)
    except Refused as refused:
        raise CheckpointError(f"{path} {refused}") from None
    except Exception as error:
        # A damaged pickle may raise nearly anything; all of it means the same to a user.
        raise CheckpointError(
            f"{path} is truncated or damaged ({type(error).__name__}): copy or download it again"
        ) from None
    if type(content) is not dict or not all(type(key) is str for key in content):
        raise CheckpointError(f"{path} holds a {type(content).__name__}: a dict of networks by name was expected")
    return content


def state_of(network: object) -> dict[str, Tensor]:
    """Tensors of a network from ``read_pickle`` by dotted name, as its ``state_dict()`` would give them.

    Raises CheckpointError when the value is not such a network.
    """
    found: dict[str, Tensor] = {}
    waiting: list[tuple[str, Any]] = [("", network)]
    while waiting:
        prefix, module = waiting.pop()
        if not (type(module) is dict and module.keys() == {"class_name", "state"} and type(module["state"]) is dict):
            raise CheckpointError(f"a pickled network was expected, and the file holds a {type(module).__name__}")
        for kind in ("_modules", "_parameters", "_buffers"):
            members = module["state"].get(kind, {})
            if type(members) is not dict:
                raise CheckpointError(f"the pickled network's {kind} are a {type(members).__name__}, not a dict")
            for name, value in members.items():
                full = f"{prefix}{name}"
                if not re.fullmatch(r"\w+", str(name)) or len(full) > _LONGEST_NAME or len(found) > _MOST_TENSORS:
                    raise CheckpointError(
                        f"the pickled network's tensors are more or other than any has: {full[:40]!r}"
                    )
                if value is None:  # a layer without a bias
                    continue
                if kind == "_modules":
                    waiting.append((f"{full}.", value))
                elif type(value) is Tensor:
                    found[full] = value
                else:
                    raise CheckpointError(f"the pickled network's {full} is a {type(value).__name__}, not a tensor")
    return found


def _check_plain(content: object) -> None:
    """Refuses leftovers of other types, and trees that are deep, endless or grow by sharing when they are walked."""
    steps = 0
    waiting: list[tuple[Any, int]] = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        kind = type(value)
        if kind in (dict, list, tuple):
            steps += len(value)  # before they are listed: a list that holds itself a thousand times is short
            if depth > _DEEPEST or steps > _STEPS:
                raise Refused("nests or repeats its values more than any network does, so it is not read")
            waiting += [(inner, depth + 1) for inner in (value.values() if kind is dict else value)]
        elif kind not in (str, int, float, bool, type(None), set, Tensor):
            raise Refused(f"holds a {kind.__name__.strip('_').lower()} where plain data or a tensor was expected")


class _Dtype(Unfinished):
    def __init__(self, name: object):
        if type(name) is not str or not re.fullmatch("f[248]|i[1248]|u[1248]|b1", name):
            asked = repr(name[:20]) if type(name) is str else "unknown"  # never repr of what may hold itself
            raise Refused(f"asks for numpy's type {asked}, and only plain numbers are read")
        self.numpy = np.dtype(name)

    def build(self, budget: Budget, state: Any) -> None:
        if state[1] not in ("<", "|") or any(part is not None for part in state[2:5]):
            raise Refused("holds numpy data in another byte order or with fields: it is not read")


class _Array(Unfinished):
    """A numpy array, pickled as an empty one first and filled afterwards."""

    def build(self, budget: Budget, state: Any) -> None:
        _, shape, dtype, by_columns, data = state
        if type(dtype) is not _Dtype or type(data) is not memoryview or not _are_sizes(shape):
            raise Refused("asks for a numpy array of something other than numbers: it is not read")
        if prod(shape) * dtype.numpy.itemsize != len(data):
            raise Refused(f"holds {len(data)} bytes for a numpy array of shape {list(shape)}: it is damaged")
        budget.take(len(data))
        array = np.frombuffer(data, dtype.numpy).reshape(shape, order="F" if by_columns else "C")
        self.value = torch.from_numpy(array.copy(order="C"))


def _are_sizes(sizes: object) -> bool:
    return type(sizes) is tuple and len(sizes) <= 8 and all(type(size) is int and size >= 0 for size in sizes)


def make_size(budget: Budget, sizes: tuple[int, ...]) -> tuple[int, ...]:
    if not _are_sizes(sizes):
        raise Refused("holds a shape of something other than a few sizes: it is damaged")
    return sizes


def _number(budget: Budget, dtype: _Dtype, data: memoryview) -> Any:
    if len(data) != dtype.numpy.itemsize:
        raise Refused(f"holds {len(data)} bytes for one number: it is damaged")
    return np.frombuffer(data, dtype.numpy)[0].item()


def _set(budget: Budget, items: list[Any]) -> set[Any]:
    budget.work(len(items))
    return {key(item) for item in items}


def check_view(held: int, offset: int, sizes: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Values of a tensor that lies within ``held`` values. Raises Refused where it does not."""
    whole = type(offset) is int and _are_sizes(sizes) and _are_sizes(strides)
    if not whole or len(sizes) != len(strides):
        raise Refused("holds a tensor with a negative or meaningless shape: it is damaged")
    count = prod(sizes)
    last = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) if count else -1
    if offset < 0 or offset + last >= held:
        raise Refused(f"holds a tensor of shape {list(sizes)} that goes beyond its {held} values")
    return count


def _tensor(
    budget: Budget, flat: Tensor, offset: int, sizes: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> Tensor:
    if type(flat) is not Tensor or flat.dim() != 1:
        raise Refused("holds a tensor with a negative or meaningless shape: it is damaged")
    budget.take(check_view(flat.numel(), offset, sizes, strides) * flat.element_size())
    return flat.as_strided(sizes, strides, offset).contiguous()


def _parameter(budget: Budget, data: Tensor, *_: object) -> Tensor:
    if type(data) is not Tensor:
        raise Refused("holds a parameter that is no tensor: it is damaged")
    return data


def _network(budget: Budget, meta: dict[str, Any]) -> dict[str, Any]:
    """What NVIDIA's persistence rebuilds by executing ``module_src``; here that is left alone."""
    if type(meta["class_name"]) is not str:
        raise Refused("holds a network whose class has no name: it is damaged")
    return {"class_name": meta["class_name"][:_LONGEST_NAME], "state": meta["state"]}


def _flat(budget: Budget, data: memoryview) -> Tensor:
    """The one storage in bytes that ``torch.save`` wrote in its older form: five pickles, a count and the values."""
    if type(data) is not memoryview or data[:2] == b"PK":
        raise Refused("holds tensors in another form than NVIDIA's files: they are not read")
    machine = Machine(data, budget, STORAGES, _storage_id)
    magic, version, system = (machine.load() for _ in range(3))
    if (magic, version) != (0x1950A86A20F9469CFC6C, 1001) or system["little_endian"] is not True:
        raise Refused("holds tensors of another version or byte order: they are not read")
    dtype, name, count = machine.load()
    size = count * dtype.itemsize
    if machine.load() != [name] or len(data) - machine.at != 8 + size:
        raise Refused(f"holds {len(data) - machine.at - 8} bytes for a tensor of {size}: it is truncated or damaged")
    if struct.unpack_from("<q", data, machine.at) != (count,):
        raise Refused("holds a tensor with two sizes: it is damaged")
    budget.take(size)
    flat = torch.empty(size, dtype=torch.uint8)
    flat.numpy()[:] = np.frombuffer(data[machine.at + 8 :], np.uint8)  # a copy: the file may change while we hold it
    return flat.view(dtype)


def _storage_id(pid: Any) -> tuple[torch.dtype, str, int]:
    kind, dtype, name, _device, count, view = pid
    if kind != "storage" or (type(dtype), type(name), type(count), view) != (torch.dtype, str, int, None):
        raise Refused("asks for a persistent object, and only tensors are read")
    return dtype, name, count


def _easy_dict(budget: Budget) -> dict[str, Any]:
    return {}


# What numpy's arrays and numbers name.
NUMPY: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "numpy.ndarray",
    ("numpy", "dtype"): Function(lambda budget, name, *_: _Dtype(name)),
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    NUMPY[_module, "_reconstruct"] = Function(lambda budget, *_: _Array())
    NUMPY[_module, "scalar"] = Function(_number)
_GLOBALS: dict[tuple[str, str], Any] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Function(_network),
    ("dnnlib.util", "EasyDict"): Function(_easy_dict, by_new=True),
    ("collections", "OrderedDict"): Function(_easy_dict),
    ("builtins", "set"): Function(_set),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_tensor),
    ("torch._utils", "_rebuild_parameter"): Function(_parameter),
    ("torch.nn.parameter", "Parameter"): Function(_parameter),
    ("torch.storage", "_load_from_bytes"): Function(_flat),
    ("torch", "Size"): Function(make_size),
    ("torch", "device"): Function(lambda budget, kind, index=None: kind),
    **NUMPY,
}
_GLOBALS |= {("torch", str(dtype).removeprefix("torch.")): str(dtype) for dtype in TYPES.values()}
