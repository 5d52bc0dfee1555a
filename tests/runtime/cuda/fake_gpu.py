"""A GPU in host memory, whose kernels are Python functions, and a TensorRT whose network is y [N, 2] = x [N, 3] @ w [2, 3].T:
enough to see what is called, in what order, and with which addresses. The classes offer only what the engine uses; a test holds
them against the real libraries."""

import ctypes
import enum
import lzma
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from anycost.runtime.backends import BINDINGS_NAME, PlanBindings
from anycost.runtime.binding import Binding
from anycost.runtime.cuda.arrays import as_stream
from anycost.runtime.cuda.driver import DeviceMemory
from anycost.runtime.cuda.tensorrt_engine import PLAN_NAME

WEIGHTS = np.array([[1, 2, 3], [-1, 0.5, 0.25]], np.float32)
PLAN = b"a plan"


def aligned(size, offset=0):
    """uint8 array of host memory whose address is a multiple of 256, plus the offset."""
    room = np.zeros(size + 512, np.uint8)
    start = -room.ctypes.data % 256 + offset
    return room[start : start + size]


def at(pointer, shape, dtype=np.float32):
    """The host memory at an address as an array."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(pointer), dtype).reshape(shape)


class DeviceLike:
    """A foreign array 'on the device', with the CUDA array interface."""

    def __init__(self, values, offset=0, **changes):
        values = np.asarray(values)
        self.memory = aligned(values.nbytes, offset)
        self.memory[:] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self.values = self.memory.view(values.dtype).reshape(values.shape)
        self.pointer = self.memory.ctypes.data
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
        } | changes


class FakeCuda:
    ordinal = 0

    def __init__(self):
        self.calls = []
        self.memory = {}
        self.depth = 0
        self.captured = None
        self.no_capture = False
        self.finished = set()
        # By symbol or machine code: function(grid, *arguments), what a launch of it takes in ms, and how often one was started.
        self.functions, self.times, self.started = {}, {}, []
        self.clock = 0.0

    @contextmanager
    def active(self):
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def allocate(self, size):
        assert size > 0
        room = aligned(size)
        pointer = room.ctypes.data
        self.memory[pointer] = room
        self.calls.append(("allocate", size))
        return DeviceMemory(pointer, size, lambda: self.memory.pop(pointer))

    def upload(self, pointer, array, stream):
        assert array.flags.c_contiguous
        self.calls.append(("upload", array.nbytes, stream))
        ctypes.memmove(pointer, array.ctypes.data, array.nbytes)

    def download(self, array, pointer, stream):
        assert array.flags.c_contiguous
        self.calls.append(("download", array.nbytes, stream))
        ctypes.memmove(array.ctypes.data, pointer, array.nbytes)

    def copy(self, to, source, size, stream):
        self.calls.append(("copy", size, stream))
        ctypes.memmove(to, source, size)

    def zero(self, pointer, size, stream):
        self.calls.append(("zero", size, stream))
        ctypes.memset(pointer, 0, size)

    def load_kernel(self, image, symbol, shared):
        self.calls.append(("load", image, symbol, shared))
        return image if image in self.functions else symbol

    def launch_kernel(self, kernel, grid, threads, shared, arguments, stream):
        assert self.depth
        # The driver reads what the table points to, when it is called.
        table = (ctypes.c_void_p * len(arguments.values)).from_address(arguments.pointer)
        values = [type(v).from_address(at).value for v, at in zip(arguments.values, table, strict=True)]
        assert [type(v) for v in arguments.values[-2:]] == [ctypes.c_uint64] * 2 and values[-2:] == [0, 0]

        def step():
            self.started.append((kernel, grid, threads, shared, tuple(values[:-2])))
            self.clock += self.times.get(kernel, 1.0)
            self.functions[kernel](grid, *values[:-2])

        if self.captured is not None:
            self.captured.append(step)
            return
        self.calls.append(("kernel", kernel, stream))
        step()

    def timed_ms(self, stream, work):
        before = self.clock
        work()
        return self.clock - before

    def new_stream(self):
        return SimpleNamespace(handle=7)

    def synchronize(self, stream):
        self.calls.append(("synchronize", stream))

    def record(self, stream):
        event = ("event", stream, len(self.calls))
        self.calls.append(("record", stream))
        return event

    def wait(self, stream, event):
        self.calls.append(("wait", stream, event[1]))

    def done(self, event):
        return event in self.finished

    def order(self, first, then):
        self.calls.append(("order", first, then))

    def capture(self, stream, work):
        from anycost.errors import BackendError

        self.calls.append(("capture",))
        if self.no_capture:
            raise BackendError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        self.captured = []
        work(as_stream(stream))
        graph, self.captured = self.captured, None
        return graph

    def launch(self, graph, stream):
        self.calls.append(("launch",))
        for step in graph:
            step()

    def count(self, name):
        return sum(call[0] == name for call in self.calls)


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    BF16 = 2


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    USER_MANAGED = 2


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    EAGER = 1


class ILogger:
    ERROR = "ERROR"
    INTERNAL_ERROR = "INTERNAL_ERROR"


class Weights:
    def __init__(self, kind, pointer, count):
        self._held = (kind, pointer, count)


class IRuntimeCache:
    def __init__(self, trt):
        self._trt = trt

    def deserialize(self, data):
        if self._trt.refuse_cache:
            raise RuntimeError("refused")
        self._trt.read = bytes(data)
        return data.startswith(b"kernels")

    def serialize(self):
        return memoryview(self._trt.kernels)


class IRuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy = None

    def __init__(self, trt):
        self._trt = trt

    def create_runtime_cache(self):
        return IRuntimeCache(self._trt)

    def set_runtime_cache(self, cache):
        self._cache = cache
        return True

    def set_execution_context_allocation_strategy(self, strategy):
        self._strategy = strategy


class IExecutionContext:
    def __init__(self, engine):
        self._engine = engine
        self._shapes, self._addresses, self._memory = {}, {}, None

    def set_device_memory(self, pointer, size):
        assert size >= self._engine.device_memory_size_v2
        self._memory = pointer

    def set_input_shape(self, name, shape):
        self._shapes[name] = shape
        return shape[0] <= self._engine._trt.largest

    def set_tensor_address(self, name, pointer):
        assert pointer % 256 == 0
        self._addresses[name] = pointer
        return True

    def is_stream_capturable(self, stream):
        return self._engine._trt.capturable

    def execute_async_v3(self, stream):
        trt, cuda = self._engine._trt, self._engine._trt.cuda
        assert cuda.depth and self._memory
        if trt.fail_runs:
            trt.logger.log(ILogger.ERROR, "the device\nis gone")
            return False
        addresses, shape = dict(self._addresses), self._shapes["x"]
        assert set(addresses) >= set(trt.tensors)

        def step():
            weights = trt.refitted if trt.refittable else at(addresses["w"], (2, 3), trt.weight_type)
            if trt.weight_type == np.uint16:
                weights = (weights.astype(np.uint32) << 16).view(np.float32)
            at(addresses["y"], (shape[0], 2))[:] = at(addresses["x"], shape) @ weights.astype(np.float32).T

        if cuda.captured is not None:
            cuda.captured.append(step)
            return True
        trt.runs.append((shape[0], stream, addresses))
        step()
        return True


class ICudaEngine:
    def __init__(self, trt):
        self._trt = trt

    @property
    def num_io_tensors(self):
        return len(self._trt.tensors)

    @property
    def device_memory_size_v2(self):
        return 1000

    def get_tensor_name(self, index):
        return list(self._trt.tensors)[index]

    def get_tensor_shape(self, name):
        return self._trt.tensors[name]

    def get_tensor_dtype(self, name):
        weights = {np.float32: DataType.FLOAT, np.float16: DataType.HALF, np.uint16: DataType.BF16}
        return weights[self._trt.weight_type] if name == "w" else DataType.FLOAT

    def get_tensor_mode(self, name):
        return TensorIOMode.OUTPUT if name == "y" else TensorIOMode.INPUT

    def get_tensor_profile_shape(self, name, index):
        assert (name, index) == ("x", 0)
        return (self._trt.least, 3), (2, 3), (self._trt.largest, 3)

    def create_runtime_config(self):
        self._trt.config = IRuntimeConfig(self._trt)
        return self._trt.config

    def create_execution_context(self, settings):
        assert self._trt.cuda.depth
        assert isinstance(settings, IRuntimeConfig | ExecutionContextAllocationStrategy)
        self._trt.contexts += 1
        return IExecutionContext(self)


class Refitter:
    def __init__(self, engine, logger):
        self._trt = engine._trt
        self._set = {}

    def get_all_weights(self):
        return ["w"]

    def set_named_weights(self, name, weights):
        self._set[name] = weights._held
        return not self._trt.refuse_weights

    def get_missing_weights(self):
        return self._trt.also_missing

    def refit_cuda_engine(self):
        kind, pointer, count = self._set["w"]
        types = {DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.BF16: np.uint16}
        self._trt.refitted = at(pointer, (2, 3), types[kind]).copy()
        assert count == 6
        return True


class Runtime:
    max_threads = 0

    def __init__(self, logger):
        self._log = logger

    def deserialize_cuda_engine(self, plan):
        trt = self._log._trt
        trt.logger, trt.runtime = self._log, self
        if plan != PLAN:
            self._log.log(ILogger.ERROR, "Serialization assertion failed")
            self._log.log("INFO", "something else")
            return None
        return ICudaEngine(trt)


class FakeTrt:
    """One 'module', with its settings and what was done."""

    DataType, TensorIOMode, Weights, Refitter, Runtime = DataType, TensorIOMode, Weights, Refitter, Runtime
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy

    def __init__(self, cuda, delivery="inputs", weight_type=np.float32):
        self.cuda, self.refittable, self.weight_type = cuda, delivery == "refit", weight_type
        self.tensors = {"x": (-1, 3), "w": (2, 3), "y": (-1, 2)}
        if self.refittable:
            del self.tensors["w"]
        self.least, self.largest = 1, 4
        self.kernels = b"kernels 1"
        self.refuse_cache = self.refuse_weights = self.fail_runs = False
        self.also_missing, self.capturable = [], True
        self.runs, self.contexts = [], 0
        self.config = self.read = self.refitted = self.logger = self.runtime = None
        self.ILogger = type("ILogger", (ILogger,), {"_trt": self})


def write_engine(folder, delivery="inputs", plan=PLAN, weights=None, dtype="float32"):
    binding = Binding(source="w", take=(2, 3), shape=(2, 3), dtype=dtype)
    weights = {"w": binding} if weights is None else weights
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLAN_NAME).write_bytes(lzma.compress(plan))
    (folder / BINDINGS_NAME).write_text(PlanBindings(delivery=delivery, weights=weights).model_dump_json())
    return folder
