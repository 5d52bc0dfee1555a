"""File kinds: safetensors, and PyTorch's zip and legacy pickles read with tensors and plain containers only."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from anycost.errors import CheckpointError

_LARGEST_HEADER = 100 << 20  # safetensors' own limit
_LARGEST_RATIO = 1.05  # PyTorch stores its tensors uncompressed; more unpacked than packed is a bomb


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name and the metadata of a file of any known kind. Raises CheckpointError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
    if size == 0:
        raise CheckpointError(f"{path} is empty: copy or download it again")
    if head[:4] == b"PK\x03\x04":
        _check_zip(path, size)
        return _torch(path)
    if len(head) >= 9 and head[8:9] == b"{":
        return _safetensors(path, size, head)
    if head[:1] == b"\x80":
        return _torch(path)
    raise CheckpointError(f"{path} is neither safetensors nor a PyTorch checkpoint: it begins with {head[:8]!r}")


def _safetensors(path: Path, size: int, head: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    (length,) = struct.unpack("<Q", head[:8])
    if length > min(size - 8, _LARGEST_HEADER):
        raise CheckpointError(
            f"{path} says its header is {length} bytes, and the file has {size}: it is truncated or damaged"
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, ValueError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not whole safetensors: {one_line(error)}; copy or download it again"
        ) from None


def _check_zip(path: Path, size: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
        raise CheckpointError(
            f"{path} is a truncated or damaged archive: {one_line(error)}; copy or download it again"
        ) from None
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size * _LARGEST_RATIO:
        raise CheckpointError(
            f"{path} unpacks {size} bytes to {unpacked}: PyTorch's checkpoints are not compressed, so it is not read"
        )


def _torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"(?:GLOBAL|global)\s+`?([\w.]+)", str(error))
        if asked:
            raise CheckpointError(
                f"{path} asks for {asked[1]}, and only tensors are read: save its state dict as safetensors where you trust it"
            ) from None
        raise CheckpointError(f"{path} is a pickle of something other than tensors: it is not read") from None
    except Exception as error:
        # A damaged pickle may raise nearly anything; all of it means the same to a user.
        raise CheckpointError(
            f"{path} is truncated or damaged: {_first_line(error)}; copy or download it again"
        ) from None
    if isinstance(content, dict) and isinstance(content.get("g_ema"), dict):
        content = content["g_ema"]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}: a state dict, or one under 'g_ema', was expected"
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: entry {name!r} is a {type(value).__name__}: only tensors belong in a state dict"
            )
        if value.layout != torch.strided or value.is_quantized:
            raise CheckpointError(f"{path}: tensor {name} is sparse or quantized: only plain tensors are read")
        if value.numel() * value.element_size() > path.stat().st_size * 2:
            # A stride of 0 can make a few bytes look like terabytes.
            raise CheckpointError(f"{path}: tensor {name} of shape {list(value.shape)} is larger than the file")
    return {name: value.detach().contiguous() for name, value in content.items()}, {}


def one_line(error: object) -> str:
    return " ".join(str(error).split())[:200]


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return one_line(lines[0]) if lines else type(error).__name__
