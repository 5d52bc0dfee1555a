"""The CUDA devices of this machine, asked of the driver itself: no package is needed to know them."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

# Of cuDeviceGetAttribute and cuPointerGetAttribute.
_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76
_POINTER_MEMORY_TYPE = 2
_POINTER_DEVICE = 9
_MEMORY_OF_DEVICE = 2

_NAME_BYTES = 256


@dataclass(frozen=True)
class CudaDevice:
    """One GPU. ordinal: its number, as CUDA_VISIBLE_DEVICES leaves it. capability: (major, minor), what compilers build for.
    memory_bytes: all of its memory. driver: the newest CUDA version (major, minor) that the installed driver runs."""

    ordinal: int
    name: str
    capability: tuple[int, int]
    memory_bytes: int
    driver: tuple[int, int]

    @property
    def target(self) -> str:
        """The architecture, as compilers name it: ``sm_89``."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


@cache
def devices() -> tuple[CudaDevice, ...]:
    """Every device that the driver shows, in its order; empty without a driver or a device. Raises nothing.

    This starts the driver in the process: children that use a GPU have to be spawned after it, not forked.
    """
    library = _library()
    if library is None:
        return ()
    try:
        return _devices(library)
    except (AttributeError, OSError, ctypes.ArgumentError):  # a library that is no CUDA driver
        return ()


def device_of(pointer: int) -> int | None:
    """The ordinal of the device on which an address lies, -1 for host memory, None where the driver cannot say."""
    if not devices():
        return None
    library = _library()
    kind, ordinal = ctypes.c_uint(), ctypes.c_int()
    address = ctypes.c_uint64(pointer)
    if library.cuPointerGetAttribute(ctypes.byref(kind), _POINTER_MEMORY_TYPE, address):
        return None
    if library.cuPointerGetAttribute(ctypes.byref(ordinal), _POINTER_DEVICE, address):
        return None
    return ordinal.value if kind.value == _MEMORY_OF_DEVICE else -1


def _library() -> Any:
    """The driver's library, None where there is none. It comes with the driver, never with a package."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def _devices(library: Any) -> tuple[CudaDevice, ...]:
    version, count = ctypes.c_int(), ctypes.c_int()
    if library.cuInit(0) or library.cuDriverGetVersion(ctypes.byref(version)):
        return ()
    if library.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    driver = (version.value // 1000, version.value % 1000 // 10)
    found = [_device(library, ordinal, driver) for ordinal in range(count.value)]
    return tuple(device for device in found if device is not None)


def _device(library: Any, ordinal: int, driver: tuple[int, int]) -> CudaDevice | None:
    """None for a device that does not answer: the others may still be used."""
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    memory, name = ctypes.c_size_t(), ctypes.create_string_buffer(_NAME_BYTES)
    failed = (
        library.cuDeviceGet(ctypes.byref(handle), ordinal)
        or library.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, handle)
        or library.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, handle)
        or library.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
        or library.cuDeviceGetName(name, _NAME_BYTES, handle)
    )
    if failed:
        return None
    text = name.value.decode("utf-8", "replace")
    return CudaDevice(ordinal, text, (major.value, minor.value), memory.value, driver)
