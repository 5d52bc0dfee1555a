"""Where the entries of a PyTorch zip archive lie in its bytes. They are stored uncompressed, so nothing is unpacked.

Python's ``zipfile`` keeps to itself where an entry's bytes begin, and reads directories of any length.
"""

from __future__ import annotations

import struct

from anycost.weights.pickle_machine import Refused

_MOST_ENTRIES = 50_000  # tensors of a training run with its optimizers are a few thousand
_LONGEST_COMMENT = 65_535
_END = 22  # bytes of the end record without its comment
_CUT = "is a truncated or damaged archive: copy or download it again"
_WIDE = 0xFFFFFFFF  # in place of a number that does not fit: it is in the entry's extra fields


def entries(data: memoryview) -> dict[str, memoryview]:
    """Bytes of each entry by its name, not copied. Raises Refused, and struct.error where the directory is damaged."""
    at, count = _directory(data)
    if count > _MOST_ENTRIES:
        raise Refused(f"is an archive of {count} entries, more than any checkpoint: it is not read")
    found = {}
    for _ in range(count):
        if data[at : at + 4] != b"PK\x01\x02":
            raise Refused(_CUT)
        flags, method, _, _, packed, size, *lengths = struct.unpack_from("<2H2I2I3H", data, at + 8)
        start = struct.unpack_from("<I", data, at + 42)[0]
        name_end = at + 46 + lengths[0]
        name = str(data[at + 46 : name_end], "utf-8", "replace")
        size, packed, start = _widened(data[name_end : name_end + lengths[1]], [size, packed, start])
        if flags & 1:
            raise Refused("is an encrypted archive: only plain checkpoints are read")
        if method or packed != size:
            raise Refused(
                f"unpacks {packed} bytes to {size}: PyTorch's checkpoints are not compressed, so it is not read"
            )
        found[name] = _stored(data, start, size)
        at += 46 + sum(lengths)
    return found


def _directory(data: memoryview) -> tuple[int, int]:
    """Its position and its number of entries."""
    begin = max(0, len(data) - _END - _LONGEST_COMMENT)
    end = begin + bytes(data[begin:]).rfind(b"PK\x05\x06")
    if end < begin:
        raise Refused(_CUT)
    count, _, at = struct.unpack_from("<HII", data, end + 10)
    if end >= 20 and data[end - 20 : end - 16] == b"PK\x06\x07":  # PyTorch writes the 64-bit record always
        (wide,) = struct.unpack_from("<Q", data, end - 12)
        if wide > len(data) - 56 or data[wide : wide + 4] != b"PK\x06\x06":
            raise Refused(_CUT)
        count, _, at = struct.unpack_from("<QQQ", data, wide + 32)
    if at > len(data):
        raise Refused(_CUT)
    return at, count


def _widened(extra: memoryview, numbers: list[int]) -> list[int]:
    at = 0
    while _WIDE in numbers and at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            waiting = iter(range(at + 4, at + 4 + size, 8))
            return [struct.unpack_from("<Q", extra, next(waiting))[0] if n == _WIDE else n for n in numbers]
        at += 4 + size
    return numbers


def _stored(data: memoryview, start: int, size: int) -> memoryview:
    if start > len(data) - 30 or data[start : start + 4] != b"PK\x03\x04":
        raise Refused(_CUT)
    start += 30 + sum(struct.unpack_from("<HH", data, start + 26))
    if size > len(data) - start:
        raise Refused(_CUT)
    return data[start : start + size]
