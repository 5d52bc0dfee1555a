"""What a checkpoint file holds: safetensors, PyTorch's zip archives and older pickles, NVIDIA's pickles.

Told from the content, never from the name. Nothing in a file is run, and none costs more than its size.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from anycost.errors import CheckpointError
from anycost.weights.pickle_machine import Budget, Refused
from anycost.weights.pickles import read_pickle, state_of
from anycost.weights.torch_files import MAGIC, groups, read_archive, read_legacy

_LARGEST_HEADER = 100 << 20  # safetensors' own limit
_STEPS = 300_000  # opcodes and values; all that a training run at 1024 px saves takes about 40 000
_LONGEST_NAME = 200
_WRAPPERS = ("module.", "_orig_mod.")  # prefixes of DataParallel and of torch.compile
_AVERAGED = "n_averaged"  # the counter of an AveragedModel


@dataclass(frozen=True)
class Content:
    """Contiguous tensors on the CPU by group and name.

    groups: the state dicts by the key that holds them ("g_ema", "state_dict", "G", ...); "" is a plain state dict, or the
    lone tensors beside the others. metadata: of safetensors. kind: "safetensors", "torch" or "nvidia pickle".
    """

    groups: dict[str, dict[str, Tensor]]
    metadata: dict[str, str] = field(default_factory=dict)
    kind: str = "torch"


def read_content(path: Path) -> Content:
    """The state dicts of a file of any known kind; whatever else is beside or within them is left out.

    Names that all begin with ``module.`` (DataParallel) or ``_orig_mod.`` (torch.compile) lose it. Raises CheckpointError, one
    line, for whatever is empty,
    truncated, damaged, of an unknown kind, without tensors, larger than the file, or asks for code; and OSError.
    """
    size = path.stat().st_size
    if not path.is_file():  # opening a pipe would wait for ever
        raise CheckpointError(f"{path} is not a file: give the path of a checkpoint")
    if size == 0:
        raise CheckpointError(f"{path} is empty: copy or download it again")
    with path.open("rb") as file:
        head = file.read(64)
    metadata: dict[str, str] = {}
    if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and MAGIC in head):
        kind, found = "torch", _torch(path, size, archive=head[:1] == b"P")
    elif len(head) >= 9 and head[8:9] == b"{":
        kind, (found, metadata) = "safetensors", _safetensors(path, size, head)
    elif head[:1] == b"\x80":
        kind, found = "nvidia pickle", _nvidia(path)
    else:
        raise CheckpointError(
            f"{path} is neither safetensors nor a PyTorch checkpoint nor NVIDIA's: it begins with {head[:8]!r}"
        )
    if not found:
        raise CheckpointError(f"{path} holds no tensors by name: a state dict, or one under 'g_ema', was expected")
    return Content({group: _unprefixed(tensors) for group, tensors in found.items()}, metadata, kind)


def _unprefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in (*_WRAPPERS, *_WRAPPERS):  # one may be around the other
        inner = {name: tensor for name, tensor in tensors.items() if name != _AVERAGED}
        if inner and all(name.startswith(prefix) for name in inner):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in inner.items()}
    return tensors


def _safetensors(path: Path, size: int, head: bytes) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    (length,) = struct.unpack("<Q", head[:8])
    if length > min(size - 8, _LARGEST_HEADER):
        raise CheckpointError(
            f"{path} says its header is {length} bytes, and the file has {size}: it is truncated or damaged"
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            metadata = dict(file.metadata() or {})
    except (SafetensorError, ValueError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not whole safetensors: {one_line(error)}; copy or download it again"
        ) from None
    _check_names(path, tensors)
    return {"": tensors} if tensors else {}, metadata


def _torch(path: Path, size: int, archive: bool) -> dict[str, dict[str, Tensor]]:
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
    found: dict[str, dict[str, Tensor]] = {}
    try:
        # Every value once in its storage, and the rest for tensors that have to be copied to be contiguous.
        budget = Budget(_STEPS, 3 * size)
        content = read_archive(data, budget) if archive else read_legacy(data, budget)
        if type(content) is not dict:
            kind = type(content).__name__.strip("_").lower()
            raise Refused(f"holds a {kind}: a state dict, or one under 'g_ema', was expected")
        for group, name, tensor in groups(content, budget):
            found.setdefault(group, {})[name] = tensor
    except Refused as refused:
        raise CheckpointError(f"{path} {refused}") from None
    except Exception as error:
        # A damaged file may raise nearly anything; all of it means the same to a user.
        raise CheckpointError(
            f"{path} is truncated or damaged ({type(error).__name__}): copy or download it again"
        ) from None
    for group, tensors in found.items():
        _check_names(path, [group, *tensors])
    return found


def _nvidia(path: Path) -> dict[str, dict[str, Tensor]]:
    """Networks by their keys (G, D, G_ema), and state dicts that somebody pickled without PyTorch."""
    found: dict[str, dict[str, Tensor]] = {}
    for group, value in read_pickle(path).items():
        tensors: dict[str, Tensor] = {}
        if type(value) is dict and value.keys() == {"class_name", "state"}:
            try:
                tensors = state_of(value)
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from None
        elif type(value) is dict:
            tensors = {name: inner for name, inner in value.items() if type(name) is str and type(inner) is Tensor}
        elif type(value) is Tensor:
            group, tensors = "", {group: value}
        if tensors:
            _check_names(path, [group, *tensors])
            found.setdefault(group, {}).update(tensors)
    return found


def _check_names(path: Path, names: Iterable[str]) -> None:
    """Names go into one-line messages."""
    for name in names:
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise CheckpointError(f"{path} holds a tensor with a name of no network, {name[:40]!r}: it is damaged")


def one_line(error: object) -> str:
    return " ".join(str(error).split())[:200]
