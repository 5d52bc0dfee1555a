import ctypes

import pytest

from anycost.errors import BackendError
from anycost.runtime.cuda import devices as found
from anycost.runtime.cuda.driver import Cuda

ATTRIBUTES = {75: 8, 76: 9}


class Library:
    """libcuda with two devices of 8.9, 24 GB. ctypes.byref hides its object in _obj."""

    def __init__(self, init=0, broken=()):
        self.init, self.broken = init, broken

    def cuInit(self, flags):  # noqa: N802
        return self.init

    def cuDriverGetVersion(self, version):  # noqa: N802
        version._obj.value = 12090
        return 0

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = 2
        return 0

    def cuDeviceGet(self, handle, ordinal):  # noqa: N802
        handle._obj.value = ordinal
        return 0

    def cuDeviceGetAttribute(self, value, attribute, handle):  # noqa: N802
        value._obj.value = ATTRIBUTES[attribute]
        return 101 if handle.value in self.broken else 0

    def cuDeviceTotalMem_v2(self, size, handle):  # noqa: N802
        size._obj.value = 24 << 30
        return 0

    def cuDeviceGetName(self, name, length, handle):  # noqa: N802
        name.value = b"NVIDIA GeForce RTX 4090"
        return 0

    def cuPointerGetAttribute(self, value, attribute, pointer):  # noqa: N802
        assert isinstance(pointer, ctypes.c_uint64)
        if pointer.value == 0:
            return 1
        on_device = pointer.value >= 1 << 32
        value._obj.value = {2: 2 if on_device else 1, 9: 1}[attribute]
        return 0


@pytest.fixture
def library(monkeypatch):
    def use(fake):
        monkeypatch.setattr(found, "_library", lambda: fake)
        found.devices.cache_clear()
        return fake

    yield use
    monkeypatch.undo()
    found.devices.cache_clear()


def test_devices_are_read_from_the_driver(library):
    library(Library())
    first, second = found.devices()
    assert first == found.CudaDevice(0, "NVIDIA GeForce RTX 4090", (8, 9), 24 << 30, (12, 9))
    assert second.ordinal == 1
    assert first.target == "sm_89"


def test_devices_are_asked_once(library, monkeypatch):
    library(Library())
    once = found.devices()
    monkeypatch.setattr(found, "_library", lambda: None)
    assert found.devices() is once


@pytest.mark.parametrize("fake", [None, Library(init=100), object()], ids=["no driver", "no device", "no CUDA library"])
def test_no_driver_is_no_error(library, fake):
    library(fake)
    assert found.devices() == ()
    assert found.device_of(1 << 40) is None
    with pytest.raises(BackendError, match="no NVIDIA driver or GPU"):
        Cuda(0)


def test_a_device_that_does_not_answer_is_left_out(library):
    library(Library(broken=(0,)))
    assert [device.ordinal for device in found.devices()] == [1]


def test_a_missing_ordinal_names_the_others(library):
    library(Library())
    with pytest.raises(BackendError, match=r"no CUDA device 2: there are 0 \(NVIDIA GeForce RTX 4090\), 1"):
        Cuda(2)


def test_the_device_of_an_address(library):
    library(Library())
    assert found.device_of(1 << 40) == 1
    assert found.device_of(4096) == -1
    assert found.device_of(0) is None


def test_the_real_driver_raises_nothing(library):
    found.devices.cache_clear()
    assert isinstance(found.devices(), tuple)
