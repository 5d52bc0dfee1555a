"""Writing safetensors whole or not at all, and the same bytes for the same content."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from anycost.errors import CheckpointError
from anycost.runtime.files import write_whole
from anycost.weights.formats import one_line


def serialize(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file. The library writes the metadata in the order of a hash table that differs from run to run, so the
    header is put in order."""
    data = safetensors.torch.save({name: tensors[name].contiguous() for name in sorted(tensors)}, dict(metadata))
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    ordered += b" " * (-len(ordered) % 8)
    return struct.pack("<Q", len(ordered)) + ordered + data[8 + length :]


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Raises CheckpointError when it cannot be written."""
    try:
        write_whole(path, serialize(tensors, metadata))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {one_line(error)}; free space or give another folder"
        ) from None
