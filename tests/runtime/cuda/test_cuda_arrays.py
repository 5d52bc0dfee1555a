import ctypes
import gc
import subprocess
import sys
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_gpu import DeviceLike

from anycost.errors import InputError
from anycost.runtime.cuda import arrays, dlpack
from anycost.runtime.cuda.arrays import DeviceArray, as_device_array, as_stream

POINTER = 0x7F0000001000
FLOAT = np.dtype(np.float32)


class Owner:
    pass


def array(owner=None, **changes):
    return replace(DeviceArray(POINTER, (2, 3), FLOAT, 1, owner), **changes)


class Producer:
    """An array with DLPack alone."""

    def __init__(self, of, device=(dlpack.CUDA, 1), **asked):
        self.of, self.device, self.asked = of, device, asked

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **asked):
        self.asked.update(asked)
        return self.of.__dlpack__(stream=-1)


def test_capsule_says_what_the_array_is():
    capsule = array(owner=Owner()).__dlpack__()
    tensor, readonly = dlpack.tensor_of(capsule)
    assert tensor.data == POINTER
    assert (tensor.device.device_type, tensor.device.device_id) == (2, 1)
    assert (tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes) == (2, 32, 1)
    assert tensor.shape[: tensor.ndim] == [2, 3]
    assert tensor.strides[: tensor.ndim] == [3, 1]
    assert tensor.byte_offset == 0
    assert not readonly
    assert "dltensor" in repr(capsule)


def test_versioned_capsule_keeps_read_only():
    capsule = array(readonly=True).__dlpack__(max_version=(1, 1))
    assert "dltensor_versioned" in repr(capsule)
    tensor, readonly = dlpack.tensor_of(capsule)
    assert readonly
    assert tensor.data == POINTER
    with pytest.raises(BufferError, match="read-only"):
        array(readonly=True).__dlpack__()


@pytest.mark.parametrize("version", [None, (0, 8), (1, 0)])
def test_an_unused_capsule_frees_its_owner(version):
    owner = Owner()
    gone = weakref.ref(owner)
    capsule = array(owner=owner).__dlpack__(max_version=version)
    del owner
    gc.collect()
    assert gone() is not None
    del capsule
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_a_consumer_frees_the_owner_by_the_deleter(version):
    owner = Owner()
    gone = weakref.ref(owner)
    capsule = array(owner=owner).__dlpack__(max_version=version)
    del owner
    name, kind = (
        (b"dltensor", dlpack.DLManagedTensor)
        if version is None
        else (b"dltensor_versioned", dlpack.DLManagedTensorVersioned)
    )
    address = dlpack._content(capsule, name)
    # As a consumer does: rename it, and call the deleter when it is done.
    used = b"used_" + name
    rename = ctypes.pythonapi.PyCapsule_SetName
    rename.argtypes = [ctypes.py_object, ctypes.c_char_p]
    assert rename(capsule, used) == 0
    deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kind.from_address(address).deleter)
    del capsule
    gc.collect()
    assert gone() is not None
    deleter(address)
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_a_real_consumer_takes_the_capsule(monkeypatch, version):
    """NumPy and PyTorch read the same structs; host memory lets them."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    monkeypatch.setattr(dlpack, "CUDA", 1)
    owner = Owner()
    gone = weakref.ref(owner)
    capsule = dlpack.capsule_of(
        values.ctypes.data, (2, 3), "f", 4, 0, owner, versioned=version is not None, readonly=False
    )
    del owner
    taken = torch.utils.dlpack.from_dlpack(capsule)
    del capsule
    gc.collect()
    assert gone() is not None
    assert taken.tolist() == values.tolist()
    del taken
    gc.collect()
    assert gone() is None


def test_nothing_is_freed_after_its_interpreter():
    code = (
        "import numpy as np\n"
        "from anycost.runtime.cuda.arrays import DeviceArray\n"
        "a = DeviceArray(4096, (1,), np.dtype('f4'), 0, None)\n"
        "kept = [a.__dlpack__(), a.__dlpack__(max_version=(1, 0))]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_consumers_stream_waits(monkeypatch):
    ordered = []
    fake = SimpleNamespace(order=lambda first, then: ordered.append((first, then)))
    monkeypatch.setattr("anycost.runtime.cuda.driver.cuda", lambda ordinal: fake)
    written_on = array(stream=77)
    for stream in (None, 1, 5, 77, -1):
        written_on.__dlpack__(stream=stream)
    array(stream=0).__dlpack__(stream=1)
    array(stream=None).__dlpack__(stream=5)
    assert ordered == [(77, 1), (77, 1), (77, 5)]


def test_copies_and_other_devices_are_refused():
    with pytest.raises(BufferError, match="as it is"):
        array().__dlpack__(copy=True)
    with pytest.raises(BufferError, match="lies on"):
        array().__dlpack__(dl_device=(1, 0))
    array().__dlpack__(dl_device=(2, 1), copy=False)


def test_interface():
    assert array(stream=0).__cuda_array_interface__ == {
        "shape": (2, 3),
        "typestr": "<f4",
        "data": (POINTER, False),
        "strides": None,
        "stream": 1,
        "version": 3,
    }
    assert array().__cuda_array_interface__["stream"] is None
    assert array().nbytes == 24


def test_an_array_with_dlpack_is_taken():
    owner = Owner()
    gone = weakref.ref(owner)
    producer = Producer(array(owner=owner))
    taken = as_device_array(producer, stream=9)
    del owner
    assert producer.asked == {"stream": 9}
    assert (taken.pointer, taken.shape, taken.dtype, taken.device, taken.stream) == (POINTER, (2, 3), FLOAT, 1, None)
    del producer
    gc.collect()
    assert gone() is not None
    del taken
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("stream", [None, 0, 1])
def test_the_default_stream_is_one_to_dlpack(stream):
    producer = Producer(array())
    as_device_array(producer, stream=stream)
    assert producer.asked == {"stream": 1}


def test_an_array_with_the_interface_is_taken():
    given = DeviceLike(np.ones((2, 3), np.float32), stream=5)
    taken = as_device_array(given)
    assert (taken.pointer, taken.shape, taken.stream, taken.readonly) == (given.pointer, (2, 3), 5, False)
    assert taken.owner is given
    assert as_device_array(taken) is taken


@pytest.mark.parametrize(
    "strides", [(12, 4), None, [12, 4]], ids=["those of C, as PyCUDA gives them", "none", "as a list"]
)
def test_contiguous_strides(strides):
    given = DeviceLike(np.ones((2, 3), np.float32), strides=strides)
    assert as_device_array(given).pointer == given.pointer


def test_strides_of_single_axes_mean_nothing():
    given = DeviceLike(np.ones((1, 2, 1, 3), np.float32), strides=(999, 12, 5, 4))
    assert as_device_array(given).shape == (1, 2, 1, 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((2, 3), np.float32), "numpy.ndarray that does not lie on a CUDA device"),
        (torch.zeros(2, 3), "torch.Tensor that does not lie on a CUDA device"),
        ([1.0], "builtins.list, which is no array on a GPU"),
        (DeviceLike(np.zeros((2, 3))), "is float64: convert it to float32"),
        (DeviceLike(np.zeros((2, 3), np.float32), strides=(4, 8)), r"strides \[4, 8\]: make it C-contiguous"),
        (DeviceLike(np.zeros((2, 3), np.float32), mask=object()), "with a mask"),
        (DeviceLike(np.zeros(2, np.float32), data=None), "unusable CUDA array interface"),
        (DeviceLike(np.zeros(2, np.float32), typestr="bogus"), "unusable CUDA array interface"),
        (Producer(array(dtype=np.dtype(np.float16))), "is float16: convert it to float32"),
        (Producer(array(dtype=np.dtype(np.int32))), "type code 0 of 32 bits"),
        (Producer(array(), device=(1, 0)), "does not lie on a CUDA device"),
        (Producer(array(readonly=True)), "cannot be handed over: BufferError"),
    ],
)
def test_what_cannot_be_taken_is_said(given, said):
    with pytest.raises(InputError, match=rf"input w_plus .*{said}"):
        as_device_array(given, "input w_plus")


def test_a_host_address_behind_the_interface_is_refused(monkeypatch):
    monkeypatch.setattr(arrays, "device_of", lambda pointer: -1)
    with pytest.raises(InputError, match="does not lie on a CUDA device"):
        as_device_array(DeviceLike(np.zeros(2, np.float32)))


def test_a_used_capsule_is_refused():
    producer = Producer(array())
    producer.__dlpack__ = None
    used = SimpleNamespace(__dlpack_device__=lambda: (2, 0), __dlpack__=lambda stream: object())
    with pytest.raises(InputError, match="not an unused DLPack capsule"):
        as_device_array(used)


class Protocol:
    def __cuda_stream__(self):
        return 0, 11


class PropertyProtocol:
    __cuda_stream__ = (0, 12)


@pytest.mark.parametrize(
    ("stream", "handle"),
    [
        (0, 0),
        (140000, 140000),
        (Protocol(), 11),
        (PropertyProtocol(), 12),
        (SimpleNamespace(cuda_stream=13), 13),
        (SimpleNamespace(ptr=14), 14),
        (SimpleNamespace(handle=15), 15),
        (SimpleNamespace(handle=ctypes.c_void_p(16)), 16),
        (SimpleNamespace(handle=ctypes.c_void_p(None)), 0),
    ],
    ids=["default", "handle", "cuda.core", "property", "torch", "cupy", "pycuda", "numba", "numba default"],
)
def test_streams_of_every_library(stream, handle):
    assert as_stream(stream) == handle


@pytest.mark.parametrize("stream", [None, True, -1, "0x10", SimpleNamespace(ptr="x"), object()])
def test_what_is_no_stream_is_refused(stream):
    with pytest.raises(InputError, match="is no CUDA stream"):
        as_stream(stream)
