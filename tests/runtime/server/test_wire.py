import asyncio
import contextlib
import io
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anycost.runtime.server import wire

ARRAYS = {
    "image": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
    "w_plus": np.linspace(-1, 1, 6, dtype=np.float32).reshape(1, 2, 3)[:, ::-1],
    "mask": np.array([[True, False]]),
    "none": np.zeros((0, 3), np.float32),
    "one": np.array(7, np.int64),
}


def joined(header, arrays=None):
    return b"".join(wire.pack(header, arrays))


def test_what_is_sent_is_what_is_read():
    file = io.BytesIO(joined({"operation": "x", "tasks": [{"psi": 0.5}]}, ARRAYS) + joined({}))
    header, arrays = wire.read(file)
    assert header == {"operation": "x", "tasks": [{"psi": 0.5}]} and list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert wire.read(file) == ({}, {}) and wire.read(file) is None


def test_the_asynchronous_reader_is_the_same():
    async def read():
        stream = asyncio.StreamReader()
        stream.feed_data(joined({"a": 1}, ARRAYS))
        return await wire.receive(stream)

    header, arrays = asyncio.run(read())
    assert header == {"a": 1}
    np.testing.assert_array_equal(arrays["w_plus"], ARRAYS["w_plus"])


def test_objects_and_nan_in_a_header_are_not_sent():
    with pytest.raises(wire.WireError, match="object"):
        wire.pack({}, {"x": np.array([{}])})
    with pytest.raises(ValueError, match="JSON"):
        wire.pack({"x": float("nan")})


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", 0),
        struct.pack(">I", 2**32 - 1),
        struct.pack(">I", 2) + b"[]",
        struct.pack(">I", 2) + b"{}",
        struct.pack(">I", 9) + b"\xff" * 9,
        joined({}, ARRAYS)[:-1],
        joined({}, ARRAYS)[:3],
    ],
)
def test_what_is_no_message_is_refused(data):
    with pytest.raises(wire.WireError):
        wire.read(io.BytesIO(data))


@pytest.mark.parametrize("entry", [{"shape": [2**40]}, {"shape": [-1]}, {"shape": [1.5]}, {"dtype": "object"}])
def test_sizes_are_checked_before_memory_is_taken(entry):
    text = json.dumps({"arrays": [{"name": "x", "dtype": "uint8", "shape": [1]} | entry]}).encode()
    with pytest.raises(wire.WireError):
        wire.read(io.BytesIO(struct.pack(">I", len(text)) + text))


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    with contextlib.suppress(wire.WireError):
        wire.read(io.BytesIO(data))
