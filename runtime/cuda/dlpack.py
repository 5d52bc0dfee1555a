"""DLPack capsules: the C structs by which array libraries hand each other memory without copying it.

cuda.core has them too, but asks the driver about every address; these serve without one.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

CUDA = 2
CUDA_MANAGED = 13

FLOAT = 2
_CODES = {"i": 0, "u": 1, "f": FLOAT}

_NAME, _VERSIONED_NAME = b"dltensor", b"dltensor_versioned"
_READ_ONLY = 1


class DLDevice(ctypes.Structure):
    _fields_ = (("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32))


class DLDataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class DLTensor(ctypes.Structure):
    """strides: in elements, NULL for a C-contiguous array."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class DLManagedTensor(ctypes.Structure):
    _fields_ = (("dl_tensor", DLTensor), ("manager_ctx", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("dl_tensor", DLTensor),
    )


_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_content = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
# By address: inside a capsule's destructor its reference count is zero, and must not be touched.
_dying_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_dying_content = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)

# What a capsule's struct points to, by its own number (`manager_ctx`), until its deleter is called.
_alive: dict[int, tuple[Any, ...]] = {}
_numbers = itertools.count(1)


# These run when anything frees an array, perhaps while the interpreter ends and globals are gone: they get theirs here.
def _forget(address: int, alive: dict[int, tuple[Any, ...]] = _alive, kind: Any = DLManagedTensor) -> None:
    alive.pop(kind.from_address(address).manager_ctx or 0, None)


def _forget_versioned(
    address: int, alive: dict[int, tuple[Any, ...]] = _alive, kind: Any = DLManagedTensorVersioned
) -> None:
    alive.pop(kind.from_address(address).manager_ctx or 0, None)


def _destroy(
    capsule: int,
    valid: Callable[..., int] = _dying_is_valid,
    content: Callable[..., int] = _dying_content,
    forget: Callable[[int], None] = _forget,
    name: bytes = _NAME,
) -> None:
    # A consumer that took the content has renamed the capsule, and calls the deleter itself.
    if valid(capsule, name):
        forget(content(capsule, name))


def _destroy_versioned(
    capsule: int,
    valid: Callable[..., int] = _dying_is_valid,
    content: Callable[..., int] = _dying_content,
    forget: Callable[[int], None] = _forget_versioned,
    name: bytes = _VERSIONED_NAME,
) -> None:
    if valid(capsule, name):
        forget(content(capsule, name))


def _lasting(function: Callable[..., None]) -> int:
    """The address of a C function (void *) -> void that takes the interpreter's lock and is never freed."""
    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(callback))
    address = ctypes.cast(callback, ctypes.c_void_p).value
    assert address is not None
    return address


_DELETER, _VERSIONED_DELETER = _lasting(_forget), _lasting(_forget_versioned)
_DESTRUCTOR, _VERSIONED_DESTRUCTOR = _lasting(_destroy), _lasting(_destroy_versioned)


def capsule_of(
    pointer: int,
    shape: tuple[int, ...],
    kind: str,
    itemsize: int,
    device: int,
    owner: object,
    *,
    versioned: bool,
    readonly: bool,
) -> object:
    """A capsule of a C-contiguous array on a CUDA device. kind, itemsize: of its NumPy type. owner: is kept alive until the
    consumer is done. versioned: the form of DLPack 1, which alone can say that the array is read-only."""
    lengths = (ctypes.c_int64 * max(len(shape), 1))(*shape)
    steps = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        steps[axis] = steps[axis + 1] * max(shape[axis + 1], 1)
    # Since DLPack 1.2 strides have to be given for contiguous arrays also.
    strides = (ctypes.c_int64 * max(len(shape), 1))(*steps)
    tensor = DLTensor(
        pointer or None,
        DLDevice(CUDA, device),
        len(shape),
        DLDataType(_CODES[kind], 8 * itemsize, 1),
        ctypes.cast(lengths, ctypes.POINTER(ctypes.c_int64)),
        ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64)),
        0,
    )
    number = next(_numbers)
    managed: ctypes.Structure
    if versioned:
        flags = _READ_ONLY if readonly else 0
        managed = DLManagedTensorVersioned(1, 0, number, _VERSIONED_DELETER, flags, tensor)
    else:
        managed = DLManagedTensor(tensor, number, _DELETER)
    _alive[number] = (managed, lengths, strides, owner)
    name, destructor = (_VERSIONED_NAME, _VERSIONED_DESTRUCTOR) if versioned else (_NAME, _DESTRUCTOR)
    capsule: object = _new_capsule(ctypes.addressof(managed), name, destructor)
    return capsule


def tensor_of(capsule: object) -> tuple[DLTensor, bool]:
    """What an unused capsule holds, and whether it is read-only. It is not consumed: the memory stays while the capsule does.

    Raises ValueError for anything else.
    """
    if _is_valid(capsule, _NAME):
        return DLManagedTensor.from_address(_content(capsule, _NAME)).dl_tensor, False
    if _is_valid(capsule, _VERSIONED_NAME):
        managed = DLManagedTensorVersioned.from_address(_content(capsule, _VERSIONED_NAME))
        if managed.major != 1:
            raise ValueError(f"a capsule of DLPack {managed.major}.{managed.minor}; 1 is understood")
        return managed.dl_tensor, bool(managed.flags & _READ_ONLY)
    raise ValueError("not an unused DLPack capsule")
