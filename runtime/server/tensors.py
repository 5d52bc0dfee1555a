"""Tensors of the Open Inference Protocol: JSON, and bytes that follow it (its binary data extension)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import orjson
from pydantic import BaseModel, Field, ValidationError

from anycost.runtime.server.errors import RequestError
from anycost.runtime.server.jobs import Array

DTYPES = {"FP32": "<f4", "UINT8": "|u1", "INT64": "<i8", "INT32": "<i4", "UINT64": "<u8", "UINT32": "<u4"}
MOST_TENSORS = 64


@dataclass(frozen=True)
class Port:
    """An input or output; -1 in its shape is any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def values(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True)
class Call:
    """A request. wanted: whether each output asked for is to come as bytes, None for all of them; binary: whether they are
    then."""

    identity: str
    parameters: Mapping[str, Any]
    arrays: Mapping[str, Array]
    wanted: Mapping[str, bool] | None
    binary: bool


@dataclass(frozen=True)
class Answer:
    model: str
    version: str
    identity: str
    parameters: Mapping[str, Any]
    arrays: Mapping[str, Array]


class _Input(BaseModel):
    name: Annotated[str, Field(max_length=200)]
    shape: Annotated[list[Annotated[int, Field(ge=0, le=2**31, strict=True)]], Field(max_length=8)]
    datatype: Annotated[str, Field(max_length=20)]
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: list[Any] | None = None


class _Output(BaseModel):
    name: Annotated[str, Field(max_length=200)]
    parameters: dict[str, Any] = Field(default_factory=dict)


class _Request(BaseModel):
    id: Annotated[str, Field(max_length=200)] = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    inputs: Annotated[list[_Input], Field(min_length=1, max_length=MOST_TENSORS)]
    outputs: Annotated[list[_Output], Field(max_length=MOST_TENSORS)] | None = None


def read_call(
    body: bytes, header_length: str | None, ports: Mapping[str, Port], also: Mapping[str, Sequence[str]]
) -> Call:
    """header_length: of the JSON at the body's start; the rest is bytes. also: further types that a port takes.

    Raises RequestError for what is no request of the protocol, and for tensors that the ports do not take.
    """
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit()) or int(header_length[:18]) > len(body):
            raise RequestError(
                f"Inference-Header-Content-Length {header_length[:20]!r} is not a length within the body"
            )
        length = int(header_length)
    try:
        asked = _Request.model_validate_json(body[:length])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RequestError(f"{where[:100]}: {first['msg'][:300]}".lstrip(": ")) from None
    arrays: dict[str, Array] = {}
    at = length
    for entry in asked.inputs:
        if entry.name in arrays:
            raise RequestError(f"input {entry.name} is given twice")
        port = ports.get(entry.name)
        if port is None:
            raise RequestError(f"there is no input {entry.name!r}: the model takes {', '.join(ports)}")
        _check_form(entry, port, also.get(entry.name, ()))
        size = entry.parameters.get("binary_data_size")
        if size is None:
            arrays[entry.name] = _from_json(entry)
            continue
        arrays[entry.name] = _from_bytes(entry, body, at, size)
        at += size
    if at != len(body):
        raise RequestError(f"{len(body) - at} bytes follow the last tensor")
    binary = asked.parameters.get("binary_data_output") is True
    return Call(asked.id, asked.parameters, arrays, _wanted(asked, binary), binary)


def write_answer(answer: Answer, call: Call, ports: Sequence[Port]) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where bytes follow, else None. Raises RequestError for unknown outputs."""
    types = {port.name: port.datatype for port in ports}
    wanted = call.wanted if call.wanted is not None else dict.fromkeys(types, call.binary)
    outputs, tail = [], []
    for name, binary in wanted.items():
        if name not in types:
            raise RequestError(f"there is no output {name!r}: the model gives {', '.join(types)}")
        array = np.ascontiguousarray(answer.arrays[name], dtype=DTYPES[types[name]])
        entry: dict[str, Any] = {"name": name, "datatype": types[name], "shape": list(array.shape)}
        if binary:
            entry["parameters"] = {"binary_data_size": array.nbytes}
            tail.append(array.tobytes())
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            raise RequestError(f"output {name} holds a NaN or an infinity, which JSON has no word for: ask for bytes")
        else:
            entry["data"] = array.reshape(-1)
        outputs.append(entry)
    told: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version}
    if answer.identity:
        told["id"] = answer.identity
    told |= {"parameters": dict(answer.parameters), "outputs": outputs}
    # Arrays as they are: an image of 1024 px is three million numbers, and nothing else is answered meanwhile.
    text = orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([text, *tail]), len(text) if tail else None


def _wanted(asked: _Request, binary: bool) -> dict[str, bool] | None:
    if not asked.outputs:
        return None
    found = {}
    for output in asked.outputs:
        for name in output.parameters:
            if name in ("classification", "shared_memory_region"):
                raise RequestError(f"outputs with {name} are not made here")
        found[output.name] = output.parameters.get("binary_data", binary) is True
    return found


def _check_form(entry: _Input, port: Port, also: Sequence[str]) -> None:
    if "shared_memory_region" in entry.parameters:
        raise RequestError(f"input {entry.name} is in shared memory, which is not read: send it in the request")
    if entry.datatype != port.datatype and entry.datatype not in also:
        raise RequestError(f"input {entry.name} is {entry.datatype}: {port.datatype} is expected")
    fits = len(entry.shape) == len(port.shape) and all(
        own in (-1, given) for own, given in zip(port.shape, entry.shape, strict=True)
    )
    if not fits:
        raise RequestError(f"input {entry.name} has shape {entry.shape}: {list(port.shape)} is expected")


def _from_json(entry: _Input) -> Array:
    if entry.data is None:
        raise RequestError(f"input {entry.name} has neither data nor binary_data_size")
    try:
        found = np.asarray(entry.data)
    except ValueError:
        raise RequestError(f"input {entry.name} has rows of different lengths") from None
    dtype = np.dtype(DTYPES[entry.datatype])
    kinds = "iuf" if dtype.kind == "f" else "iu"
    if found.size != _count(entry.shape) or (found.size and found.dtype.kind not in kinds):
        raise RequestError(f"input {entry.name} does not hold {_count(entry.shape)} numbers of {entry.datatype}")
    with np.errstate(over="ignore"):
        return found.astype(dtype).reshape(entry.shape)


def _from_bytes(entry: _Input, body: bytes, at: int, size: Any) -> Array:
    dtype = np.dtype(DTYPES[entry.datatype])
    expected = _count(entry.shape) * dtype.itemsize
    if type(size) is not int or size != expected or entry.data is not None:
        raise RequestError(f"input {entry.name} takes {expected} bytes, and its binary_data_size differs")
    if at + size > len(body):
        raise RequestError(f"input {entry.name} is cut off: the body ends within it")
    return np.frombuffer(body, dtype, _count(entry.shape), at).reshape(entry.shape)


def _count(shape: Sequence[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
