"""The few operations that engines need on a GPU, over cuda.core and, for plain memory and kernels, the driver's own bindings.

Streams are given as integer handles (``arrays.as_stream``), so that those of any library serve. Every failure is a
BackendError with CUDA's name for it.
"""

from __future__ import annotations

import ctypes
import hashlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from anycost.errors import BackendError
from anycost.runtime.cuda.arrays import as_stream
from anycost.runtime.cuda.devices import devices

Array = np.ndarray

_OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"
_SHARED_WITHOUT_ASKING = 48 << 10  # bytes of shared memory that any kernel may have


class DeviceMemory:
    """Memory on a device, given back when nothing refers to this any more. pointer: its address. size: in bytes."""

    def __init__(self, pointer: int, size: int, free: Callable[[], None]):
        self.pointer, self.size = pointer, size
        # At the end of the process the driver takes all of it back, and may be gone before this runs.
        weakref.finalize(self, free).atexit = False


class KernelArguments:
    """What a kernel is launched with, in the layout that the driver reads: ``values`` are ctypes integers, 8 bytes for an address
    and 4 for a number, which may be changed between launches."""

    def __init__(self, values: Sequence[ctypes.c_uint64 | ctypes.c_int32]):
        self.values = tuple(values)
        self._table = (ctypes.c_void_p * len(self.values))(*(ctypes.addressof(value) for value in self.values))

    @property
    def pointer(self) -> int:
        return ctypes.addressof(self._table)


class Cuda:
    """The primary context of one device, which PyTorch, CuPy and others share. ordinal: the device's.

    Raises BackendError without the packages, a driver or the device.
    """

    def __init__(self, ordinal: int = 0):
        found = devices()
        if not 0 <= ordinal < len(found):
            have = ", ".join(f"{device.ordinal} ({device.name})" for device in found)
            raise BackendError(
                f"there is no CUDA device {ordinal}: "
                + (f"there are {have}" if have else "no NVIDIA driver or GPU was found; choose a backend of the CPU")
            )
        self.ordinal = ordinal
        try:
            self._core: Any = import_module("cuda.core")
            self._driver: Any = import_module("cuda.bindings.driver")
        except ImportError as error:
            raise BackendError(
                f"the package cuda-core cannot be imported: {error}; pip install cuda-core[cu13]"
            ) from None
        with _named("the device cannot be opened"):
            self._call("cuInit", 0)
            self._context = self._call("cuDevicePrimaryCtxRetain", self._call("cuDeviceGet", ordinal))
        self._loaded: dict[tuple[bytes, str], Any] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """The device's context is current in this thread inside, and after it the one that was before."""
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def allocate(self, size: int) -> DeviceMemory:
        """size: bytes, at least 1. The address is a multiple of 256."""
        # Not a memory pool's: what is freed goes back to the device at once, where budgets and other programs see it, and
        # freeing waits for the work that uses it, on whatever stream that is.
        with self.active():
            try:
                pointer = int(self._call("cuMemAlloc", size))
            except BackendError as error:
                if _OUT_OF_MEMORY not in str(error):
                    raise
                raise BackendError(
                    f"{_OUT_OF_MEMORY}: {size / 1e6:.0f} MB asked of device {self.ordinal}, which has "
                    f"{self.memory_info()[0] / 1e6:.0f} MB free: close other programs, or use a smaller sub-network or batch"
                ) from None
        return DeviceMemory(pointer, size, lambda: self._free(pointer))

    def _free(self, pointer: int) -> None:
        with self.active():
            self._call("cuMemFree", pointer)

    def upload(self, pointer: int, array: Array, stream: int) -> None:
        """Copy a C-contiguous array to the device, in the order of the stream. The array may change when this returns."""
        with self.active():
            # From pageable memory, as NumPy's is, the driver takes its own copy before it returns.
            self._call("cuMemcpyHtoDAsync", pointer, array.ctypes.data, array.nbytes, stream)

    def download(self, array: Array, pointer: int, stream: int) -> None:
        """Fill a C-contiguous array from the device, in the order of the stream; it is whole after ``synchronize``."""
        with self.active():
            self._call("cuMemcpyDtoHAsync", array.ctypes.data, pointer, array.nbytes, stream)

    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        """Copy bytes from one address of the device to another, in the order of the stream."""
        with self.active():
            self._call("cuMemcpyDtoDAsync", to, source, size, stream)

    def zero(self, pointer: int, size: int, stream: int) -> None:
        """Set bytes to zero, in the order of the stream."""
        with self.active():
            self._call("cuMemsetD8Async", pointer, 0, size, stream)

    def load_kernel(self, image: bytes, symbol: str, shared: int) -> Any:
        """A kernel of machine code for this device, for ``launch_kernel``. shared: the dynamic shared memory that a block of it
        gets, in bytes. It stays loaded as long as the process: it is small, engines share it, and graphs refer to it."""
        key = hashlib.sha256(image).digest(), symbol
        with self.active():
            if key not in self._loaded:
                module = self._call("cuModuleLoadData", np.frombuffer(image, np.uint8).ctypes.data)
                kernel = self._call("cuModuleGetFunction", module, symbol.encode())
                if shared > _SHARED_WITHOUT_ASKING:
                    attributes = self._driver.CUfunction_attribute
                    largest = attributes.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                    self._call("cuFuncSetAttribute", kernel, largest, shared)
                self._loaded[key] = kernel
            return self._loaded[key]

    def launch_kernel(
        self,
        kernel: Any,
        grid: tuple[int, int, int],
        threads: int,
        shared: int,
        arguments: KernelArguments,
        stream: int,
    ) -> None:
        """Put a kernel on the stream: grid blocks of so many threads along x, each with ``shared`` bytes of shared memory. To be
        called inside ``active``: an engine makes dozens of these."""
        self._call("cuLaunchKernel", kernel, *grid, threads, 1, 1, shared, stream, arguments.pointer, 0)

    def timed_ms(self, stream: int, work: Callable[[], None]) -> float:
        """How long the device needs for what ``work`` puts on the stream, in milliseconds; waits for it."""
        with self.active():
            events = [self._call("cuEventCreate", 0) for _ in range(2)]
            try:
                self._call("cuEventRecord", events[0], stream)
                work()
                self._call("cuEventRecord", events[1], stream)
                self._call("cuEventSynchronize", events[1])
                return float(self._call("cuEventElapsedTime", *events))
            finally:
                for event in events:
                    self._call("cuEventDestroy", event)

    def new_stream(self) -> Any:
        """A stream that does not wait for the default one; destroyed when nothing refers to it."""
        with self.active(), _named("a stream cannot be made"):
            device = self._core.Device(self.ordinal)
            device.set_current()
            return device.create_stream()

    def synchronize(self, stream: int) -> None:
        """Wait until everything on the stream is done. An error of earlier work shows up here."""
        with self.active():
            self._call("cuStreamSynchronize", stream)

    def record(self, stream: int) -> Any:
        """An event: what is on the stream now."""
        with self.active(), _named("an event cannot be recorded"):
            return self._stream(stream).record()

    def wait(self, stream: int, event: Any) -> None:
        """The stream's further work begins after the event."""
        with self.active(), _named("a stream cannot wait"):
            self._stream(stream).wait(event)

    def done(self, event: Any) -> bool:
        """Whether everything before the event has been run."""
        with self.active(), _named("an event cannot be asked"):
            return bool(event.is_done)

    def order(self, first: int, then: int) -> None:
        """Further work on the stream ``then`` begins after what is now on ``first``."""
        self.wait(then, self.record(first))

    def capture(self, stream: Any, work: Callable[[int], None]) -> Any:
        """Record what ``work`` puts on the stream, without running it, as a graph for ``launch``. stream: from ``new_stream``.

        Raises BackendError when the work cannot be captured; the stream is usable after it.
        """
        with self.active(), _named("the work cannot be captured as a graph"):
            builder = stream.create_graph_builder()
            try:
                # Allocations by other threads must not spoil it; those of this one must.
                builder.begin_building("thread_local")
                try:
                    work(as_stream(stream))
                finally:
                    builder.end_building()
                return builder.complete()
            finally:
                builder.close()

    def launch(self, graph: Any, stream: Any) -> None:
        """Run a captured graph. stream: from ``new_stream``, or a handle."""
        with self.active(), _named("a graph cannot be launched"):
            graph.launch(self._stream(stream) if isinstance(stream, int) else stream)

    def memory_info(self) -> tuple[int, int]:
        """(free, total) memory of the device, in bytes; free: for all programs together."""
        with self.active():
            free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def _stream(self, handle: int) -> Any:
        if handle in (0, 1):
            return self._core.LEGACY_DEFAULT_STREAM
        if handle == 2:
            return self._core.PER_THREAD_DEFAULT_STREAM
        return self._core.Stream.from_handle(handle)

    def _call(self, function: str, *arguments: Any) -> Any:
        """The result of a driver's function: None, one value or a tuple."""
        error, *values = getattr(self._driver, function)(*arguments)
        if error != self._driver.CUresult.CUDA_SUCCESS:
            raise BackendError(f"{error.name} from {function} on device {self.ordinal}")
        return values[0] if len(values) == 1 else tuple(values) or None


@cache
def cuda(ordinal: int = 0) -> Cuda:
    """The one ``Cuda`` of a device in this process. Raises BackendError."""
    return Cuda(ordinal)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """cuda.core raises types of its own, with CUDA's name of the error in their message."""
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(f"{what}: {' '.join(str(error).split())[:300]}") from error
