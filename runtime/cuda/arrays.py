"""Arrays on a GPU, handed over without a copy: to and from PyTorch, CuPy, Numba, JAX and PyCUDA.

DLPack is used where an object has it: it also orders the streams of both sides. The CUDA array interface serves the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from anycost.errors import InputError
from anycost.runtime.cuda import dlpack
from anycost.runtime.cuda.devices import device_of

# What DLPack and the CUDA array interface call the default stream of a process: 0 would be ambiguous there.
LEGACY_STREAM = 1


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """A C-contiguous array in the memory of a GPU.

    pointer: its address on the device. device: the ordinal. owner: kept alive as long as this is. stream: the handle of the
    stream on which its content is written, None when it has been.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int
    owner: object
    stream: int | None = None
    readonly: bool = False

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, self.readonly),
            "strides": None,
            "stream": None if self.stream is None else self.stream or LEGACY_STREAM,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """stream: the consumer's, which is made to wait for this array's content: None or 1 for the default stream, -1 for no
        waiting. Raises BufferError for a copy or another device, which this does not make."""
        if copy:
            raise BufferError("this array is handed over as it is: copy it in the library that takes it")
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError(f"this array lies on {self.__dlpack_device__()}, not on {tuple(dl_device)}")
        versioned = max_version is not None and max_version[0] >= 1
        if self.readonly and not versioned:
            raise BufferError("this array is read-only, which only DLPack 1 can say")
        consumer = LEGACY_STREAM if stream is None else int(stream)
        producer = None if self.stream is None else self.stream or LEGACY_STREAM
        if producer is not None and consumer != -1 and producer != (consumer or LEGACY_STREAM):
            from anycost.runtime.cuda.driver import cuda

            cuda(self.device).order(producer, consumer or LEGACY_STREAM)
        return dlpack.capsule_of(
            self.pointer,
            self.shape,
            self.dtype.kind,
            self.dtype.itemsize,
            self.device,
            self.owner,
            versioned=versioned,
            readonly=self.readonly,
        )


def as_device_array(given: Any, name: str = "the array", *, stream: int | None = None) -> DeviceArray:
    """A view of another library's array; it keeps that one alive.

    given: C-contiguous float32 on a CUDA device, with ``__dlpack__`` or ``__cuda_array_interface__``. PyCUDA has to use the
    device's primary context (``pycuda.autoprimaryctx``), as all others do. stream: handle of the stream that will read it;
    with DLPack, that stream is made to wait until the array is written. None: the default stream. name: for messages.
    Raises InputError that says what was given.
    """
    if isinstance(given, DeviceArray):
        found = given
    elif hasattr(given, "__dlpack__") and hasattr(given, "__dlpack_device__"):
        found = _from_dlpack(given, name, stream)
    elif _has_interface(given):
        found = _from_interface(given, name)
    else:
        raise InputError(
            f"{name} is a {_kind(given)}, which is no array on a GPU: give one with __dlpack__ or "
            "__cuda_array_interface__ (PyTorch, CuPy, Numba, JAX, PyCUDA)"
        )
    if found.dtype != np.float32:
        raise InputError(f"{name} is {found.dtype}: convert it to float32")
    return found


def as_stream(given: Any) -> int:
    """The handle of a CUDA stream: an int itself, or a stream of PyTorch, CuPy, PyCUDA, Numba or cuda.core. 0 and 1 are the
    default stream, 2 that of the thread. Raises InputError for anything else."""
    if isinstance(given, int) and not isinstance(given, bool):
        handle: Any = given
    elif hasattr(given, "__cuda_stream__"):
        protocol = given.__cuda_stream__
        handle = (protocol() if callable(protocol) else protocol)[1]
    else:
        # PyTorch, CuPy, then PyCUDA and Numba; the last holds a ctypes pointer.
        names = [name for name in ("cuda_stream", "ptr", "handle") if hasattr(given, name)]
        handle = getattr(given, names[0]) if names else None
        handle = (handle.value or 0) if hasattr(handle, "value") else handle
    try:
        found = int(handle)
    except (TypeError, ValueError):
        found = -1
    if found < 0:
        raise InputError(
            f"{given!r} is no CUDA stream: give its handle, or a stream of PyTorch, CuPy, Numba, PyCUDA or cuda.core"
        )
    return found


def _from_dlpack(given: Any, name: str, stream: int | None) -> DeviceArray:
    # The device first: asking an array in host memory for a capsule on a stream is an error of its own in each library.
    kind, device = (int(part) for part in given.__dlpack_device__())
    if kind not in (dlpack.CUDA, dlpack.CUDA_MANAGED):
        raise InputError(f"{name} is a {_kind(given)} that does not lie on a CUDA device: move it there")
    try:
        capsule = given.__dlpack__(stream=stream or LEGACY_STREAM)
        tensor, readonly = dlpack.tensor_of(capsule)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{name} is a {_kind(given)} that cannot be handed over: {_line(error)}") from None
    if tensor.dtype.lanes != 1 or tensor.dtype.code != dlpack.FLOAT or tensor.dtype.bits not in (16, 32, 64):
        raise InputError(
            f"{name} has the DLPack type code {tensor.dtype.code} of {tensor.dtype.bits} bits: convert it to float32"
        )
    dtype = np.dtype(f"f{tensor.dtype.bits // 8}")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(step * dtype.itemsize for step in tensor.strides[: tensor.ndim]) if tensor.strides else None
    _require_contiguous(name, shape, strides, dtype)
    # The capsule is left unused: when it goes, its own destructor gives the memory back.
    return DeviceArray(
        (tensor.data or 0) + tensor.byte_offset, shape, dtype, device, (given, capsule), readonly=readonly
    )


def _has_interface(given: Any) -> bool:
    try:
        return hasattr(given, "__cuda_array_interface__")
    except RuntimeError:  # how some libraries refuse it for arrays that cannot have it
        return False


def _from_interface(given: Any, name: str) -> DeviceArray:
    try:
        values = given.__cuda_array_interface__
        pointer, readonly = values["data"]
        shape, dtype = tuple(int(n) for n in values["shape"]), np.dtype(values["typestr"])
        strides, stream, mask = values.get("strides"), values.get("stream"), values.get("mask")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is a {_kind(given)} with an unusable CUDA array interface: {_line(error)}") from None
    if mask is not None:
        raise InputError(f"{name} is a {_kind(given)} with a mask: give an array without one")
    _require_contiguous(name, shape, None if strides is None else tuple(int(step) for step in strides), dtype)
    # The interface does not name the device.
    device = device_of(int(pointer or 0)) if math.prod(shape) else None
    if device == -1:
        raise InputError(f"{name} is a {_kind(given)} that does not lie on a CUDA device: move it there")
    stream = None if stream is None else int(stream)
    return DeviceArray(int(pointer or 0), shape, dtype, device or 0, given, stream, bool(readonly))


def _require_contiguous(
    name: str, shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: np.dtype[Any]
) -> None:
    """strides: in bytes. Those of axes of length 1 mean nothing."""
    if strides is None or 0 in shape:
        return
    step = dtype.itemsize
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != step:
            raise InputError(f"{name} of shape {list(shape)} has strides {list(strides)}: make it C-contiguous first")
        step *= length


def _kind(given: object) -> str:
    return f"{type(given).__module__}.{type(given).__qualname__}"


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
