import ctypes
import enum
import gc
from types import SimpleNamespace

import numpy as np
import pytest

from anycost.errors import BackendError
from anycost.runtime import backends
from anycost.runtime.cuda import devices as found
from anycost.runtime.cuda import driver as wrapped
from anycost.runtime.cuda.devices import CudaDevice
from anycost.runtime.cuda.driver import Cuda, KernelArguments


class CUresult(enum.Enum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_ILLEGAL_ADDRESS = 700


class CUfunctionAttribute(enum.Enum):
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8


class Driver:
    """cuda.bindings.driver: every function works and is noted, but for those that ``fails`` names."""

    CUresult, CUfunction_attribute = CUresult, CUfunctionAttribute

    def __init__(self):
        self.calls, self.fails = [], {}
        self.values = {
            "cuDevicePrimaryCtxRetain": ("context",),
            "cuMemAlloc": (4096,),
            "cuMemGetInfo": (10_000_000, 20_000_000),
            "cuModuleLoadData": ("module",),
            "cuModuleGetFunction": ("kernel",),
            "cuEventCreate": ("event",),
            "cuEventElapsedTime": (1.5,),
        }

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments):
            self.calls.append((name, *arguments))
            return (self.fails.get(name, CUresult.CUDA_SUCCESS), *self.values.get(name, ()))

        return call

    def names(self):
        return [call[0] for call in self.calls]


class Builder:
    def __init__(self, log):
        self.log = log

    def begin_building(self, mode):
        self.log.append(f"begin {mode}")

    def end_building(self):
        self.log.append("end")

    def complete(self):
        return "graph"

    def close(self):
        self.log.append("close")


class Core:
    LEGACY_DEFAULT_STREAM, PER_THREAD_DEFAULT_STREAM = "legacy", "per thread"

    class Stream:
        from_handle = staticmethod(lambda handle: f"stream {handle}")


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    modules = {"cuda.core": Core, "cuda.bindings.driver": driver}
    monkeypatch.setattr(wrapped, "import_module", modules.__getitem__)
    monkeypatch.setattr(wrapped, "devices", lambda: (CudaDevice(0, "a GPU", (8, 9), 24 << 30, (13, 0)),))
    return driver


@pytest.fixture
def cuda(driver):
    cuda = Cuda(0)
    driver.calls.clear()
    return cuda


def test_the_primary_context_is_used_and_the_callers_is_back_after(cuda, driver):
    with cuda.active():
        assert driver.calls == [("cuCtxPushCurrent", "context")]
    assert driver.names() == ["cuCtxPushCurrent", "cuCtxPopCurrent"]
    driver.fails["cuStreamSynchronize"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    driver.calls.clear()
    with pytest.raises(BackendError, match="CUDA_ERROR_ILLEGAL_ADDRESS from cuStreamSynchronize on device 0"):
        cuda.synchronize(7)
    assert driver.names() == ["cuCtxPushCurrent", "cuStreamSynchronize", "cuCtxPopCurrent"]


def test_memory_is_freed_with_its_owner(cuda, driver):
    memory = cuda.allocate(1000)
    assert (memory.pointer, memory.size) == (4096, 1000)
    assert ("cuMemAlloc", 1000) in driver.calls
    del memory
    gc.collect()
    assert ("cuMemFree", 4096) in driver.calls


def test_no_room_says_how_much_there_is(cuda, driver):
    driver.fails["cuMemAlloc"] = CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(BackendError, match="CUDA_ERROR_OUT_OF_MEMORY: 50 MB asked of device 0, which has 10 MB free"):
        cuda.allocate(50_000_000)
    assert cuda.memory_info() == (10_000_000, 20_000_000)
    driver.fails["cuMemAlloc"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(BackendError, match="CUDA_ERROR_ILLEGAL_ADDRESS from cuMemAlloc"):
        cuda.allocate(1)


def test_copies_name_addresses_and_stream(cuda, driver):
    array = np.zeros(6, np.float32)
    cuda.upload(4096, array, 7)
    cuda.download(array, 4096, 7)
    cuda.copy(8192, 4096, 24, 7)
    host = array.ctypes.data
    assert [call for call in driver.calls if call[0].startswith("cuMem")] == [
        ("cuMemcpyHtoDAsync", 4096, host, 24, 7),
        ("cuMemcpyDtoHAsync", host, 4096, 24, 7),
        ("cuMemcpyDtoDAsync", 8192, 4096, 24, 7),
    ]


def test_kernels_are_loaded_once_and_get_their_shared_memory(cuda, driver):
    assert cuda.load_kernel(b"code", "conv", 48 << 10) == "kernel"
    assert [name for name in driver.names() if not name.startswith("cuCtx")] == [
        "cuModuleLoadData",
        "cuModuleGetFunction",
    ]
    assert ("cuModuleGetFunction", "module", b"conv") in driver.calls
    driver.calls.clear()
    cuda.load_kernel(b"code", "conv", 48 << 10)
    assert "cuModuleLoadData" not in driver.names()
    cuda.load_kernel(b"other", "conv", 90_000)
    largest = CUfunctionAttribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    assert ("cuFuncSetAttribute", "kernel", largest, 90_000) in driver.calls


def test_a_kernel_gets_addresses_and_numbers(cuda, driver):
    arguments = KernelArguments([ctypes.c_uint64(2**40 + 16), ctypes.c_int32(-5), ctypes.c_uint64(0)])
    cuda.launch_kernel("kernel", (4, 2, 3), 128, 1024, arguments, 7)
    assert driver.calls == [("cuLaunchKernel", "kernel", 4, 2, 3, 128, 1, 1, 1024, 7, arguments.pointer, 0)]
    table = (ctypes.c_void_p * 3).from_address(arguments.pointer)
    assert ctypes.c_uint64.from_address(table[0]).value == 2**40 + 16
    assert ctypes.c_int32.from_address(table[1]).value == -5
    arguments.values[0].value = 32
    assert ctypes.c_uint64.from_address(table[0]).value == 32


def test_memory_is_set_to_zero_in_order(cuda, driver):
    cuda.zero(4096, 100, 7)
    assert ("cuMemsetD8Async", 4096, 0, 100, 7) in driver.calls


def test_work_is_timed_between_events(cuda, driver):
    assert cuda.timed_ms(7, lambda: driver.calls.append(("work",))) == 1.5
    names = [name for name in driver.names() if not name.startswith("cuCtx")]
    assert names == [
        *("cuEventCreate", "cuEventCreate", "cuEventRecord", "work", "cuEventRecord", "cuEventSynchronize"),
        *("cuEventElapsedTime", "cuEventDestroy", "cuEventDestroy"),
    ]
    driver.fails["cuEventSynchronize"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    driver.calls.clear()
    with pytest.raises(BackendError, match="CUDA_ERROR_ILLEGAL_ADDRESS from cuEventSynchronize"):
        cuda.timed_ms(7, lambda: None)
    assert driver.names().count("cuEventDestroy") == 2


def test_graphs_are_launched_on_any_stream(cuda):
    launched = []
    cuda.launch(SimpleNamespace(launch=launched.append), 70)
    cuda.launch(SimpleNamespace(launch=launched.append), "own")
    assert launched == ["stream 70", "own"]


def test_a_capture_ends_whatever_happens(cuda):
    log = []
    stream = SimpleNamespace(handle=7, create_graph_builder=lambda: Builder(log))
    assert cuda.capture(stream, lambda handle: log.append(handle)) == "graph"
    assert log == ["begin thread_local", 7, "end", "close"]
    log.clear()

    def fail(handle):
        raise BackendError("not this")

    with pytest.raises(BackendError, match="not this"):
        cuda.capture(stream, fail)
    assert log == ["begin thread_local", "end", "close"]


def test_errors_of_cuda_core_keep_their_name(cuda):
    def launch(stream):
        raise RuntimeError("CUDA_ERROR_LAUNCH_FAILED: it\nfailed")

    with pytest.raises(BackendError, match="a graph cannot be launched: CUDA_ERROR_LAUNCH_FAILED: it failed"):
        cuda.launch(SimpleNamespace(launch=launch), None)


@pytest.mark.parametrize(("handle", "stream"), [(0, "legacy"), (1, "legacy"), (2, "per thread"), (70, "stream 70")])
def test_default_streams_have_numbers(cuda, handle, stream):
    assert cuda._stream(handle) == stream


def test_a_missing_package_is_said(driver, monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(wrapped, "import_module", missing)
    with pytest.raises(BackendError, match=r"No module named 'cuda.core'; pip install cuda-core\[cu13\]"):
        Cuda(0)


@pytest.mark.parametrize("backend", ["cuda", "tensorrt_rtx", "tensorrt"])
def test_backends_need_a_device(tmp_path, monkeypatch, backend):
    monkeypatch.setattr(found, "_library", lambda: None)
    monkeypatch.setattr(backends, "installed", lambda name: "1")
    found.devices.cache_clear()
    wrapped.cuda.cache_clear()
    with pytest.raises(BackendError, match="no CUDA device 0: no NVIDIA driver or GPU was found"):
        backends.load(backend, tmp_path, lambda binding: None, 1)
    monkeypatch.undo()
    found.devices.cache_clear()


def test_names_exist_in_the_packages():
    core = pytest.importorskip("cuda.core")
    graph = pytest.importorskip("cuda.core.graph")
    bindings = pytest.importorskip("cuda.bindings.driver")
    functions = [
        *("cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent", "cuCtxPopCurrent"),
        *("cuMemAlloc", "cuMemFree", "cuMemGetInfo", "cuStreamSynchronize"),
        *("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemcpyDtoDAsync", "cuMemsetD8Async"),
        *("cuModuleLoadData", "cuModuleGetFunction", "cuFuncSetAttribute", "cuLaunchKernel"),
        *("cuEventCreate", "cuEventRecord", "cuEventSynchronize", "cuEventElapsedTime", "cuEventDestroy"),
    ]
    assert [name for name in functions if not hasattr(bindings, name)] == []
    assert bindings.CUresult.CUDA_ERROR_OUT_OF_MEMORY.name == "CUDA_ERROR_OUT_OF_MEMORY"
    largest = bindings.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    assert largest.value == CUfunctionAttribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES.value
    for kind, names in {
        core: ("LEGACY_DEFAULT_STREAM", "PER_THREAD_DEFAULT_STREAM", "Device", "Stream"),
        core.Device: ("set_current", "create_stream"),
        core.Stream: ("from_handle", "record", "wait", "create_graph_builder", "__cuda_stream__"),
        core.Event: ("is_done",),
        graph.GraphBuilder: ("begin_building", "end_building", "complete", "close"),
        graph.Graph: ("launch",),
    }.items():
        assert [name for name in names if not hasattr(kind, name)] == [], kind
