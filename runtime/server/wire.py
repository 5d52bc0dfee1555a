"""Messages between the server and its workers: JSON and arrays over a pipe.

    4 bytes   length of the header, big-endian
    header    JSON object; "arrays" lists {"name", "dtype", "shape"} in the order in which their bytes follow
    bytes     the arrays one after the other, C order, little-endian

Nothing in a message is executed (no pickle), and its sizes are checked before memory is taken.
"""

from __future__ import annotations

import asyncio
import json
import math
import struct
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Message = tuple[dict[str, Any], dict[str, Array]]

MOST_HEADER = 8 << 20
MOST_BYTES = 2 << 30
DTYPES = ("uint8", "bool", "int32", "int64", "float16", "float32", "float64")
_LENGTH = struct.Struct(">I")


class WireError(Exception):
    """Bytes that are no message: the other side is broken, and the pipe cannot be used any more."""


def pack(header: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> list[bytes | memoryview]:
    """The pieces of a message, to be written one after the other. Raises WireError for what a reader would refuse."""
    kept = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    listed = [{"name": name, "dtype": str(a.dtype), "shape": list(a.shape)} for name, a in kept.items()]
    _sizes(listed)
    text = json.dumps({**header, "arrays": listed}, allow_nan=False).encode()
    if len(text) > MOST_HEADER:
        raise WireError(f"a header of {len(text)} bytes is above {MOST_HEADER}")
    return [_LENGTH.pack(len(text)), text, *(_bytes(array) for array in kept.values())]


async def receive(stream: asyncio.StreamReader) -> Message:
    """The next message. Raises asyncio.IncompleteReadError where the pipe ends, WireError for what is none."""
    header, sizes = _header(await stream.readexactly(_length(await stream.readexactly(_LENGTH.size))))
    return header, {name: _array(await stream.readexactly(size), *form) for name, size, form in sizes}


def read(file: BinaryIO) -> Message | None:
    """The next message of a blocking file, None where it ends. Raises WireError."""
    first = file.read(_LENGTH.size)
    if not first:
        return None
    header, sizes = _header(_exactly(file, _length(_whole(first, _LENGTH.size))))
    return header, {name: _array(_exactly(file, size), *form) for name, size, form in sizes}


def write(file: BinaryIO, header: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> None:
    for piece in pack(header, arrays):
        file.write(piece)
    file.flush()


def _bytes(array: Array) -> memoryview:
    if sys.byteorder == "big":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.reshape(-1).view(np.uint8).data


def _array(data: bytes, dtype: str, shape: tuple[int, ...]) -> Array:
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(dtype, copy=False)


def _length(data: bytes) -> int:
    (length,) = _LENGTH.unpack(data)
    if not 2 <= length <= MOST_HEADER:
        raise WireError(f"a header of {length} bytes is outside 2..{MOST_HEADER}")
    return int(length)


def _header(text: bytes) -> tuple[dict[str, Any], list[tuple[str, int, tuple[str, tuple[int, ...]]]]]:
    try:
        header = json.loads(text)
        listed = header.pop("arrays")
        return header, _sizes(listed)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WireError(f"a header that is not understood: {error}") from None


def _sizes(listed: list[dict[str, Any]]) -> list[tuple[str, int, tuple[str, tuple[int, ...]]]]:
    found = []
    for entry in listed:
        name, dtype, shape = entry["name"], entry["dtype"], tuple(entry["shape"])
        if dtype not in DTYPES or not all(type(side) is int and side >= 0 for side in shape):
            raise WireError(f"array {name!r} of {dtype} {list(shape)} cannot be sent")
        found.append((name, math.prod(shape) * np.dtype(dtype).itemsize, (dtype, shape)))
    if sum(size for _, size, _ in found) > MOST_BYTES:
        raise WireError(f"arrays of more than {MOST_BYTES} bytes cannot be sent")
    return found


def _exactly(file: BinaryIO, size: int) -> bytes:
    return _whole(file.read(size), size)


def _whole(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise WireError(f"the pipe ended after {len(data)} of {size} bytes")
    return data
