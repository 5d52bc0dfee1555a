"""Engines of TensorRT and of TensorRT-RTX: a plan without weights, the weights beside it, and runs that copy nothing.

The batch is dynamic within optimization profile 0. The activations of an engine lie in
one block that all its execution contexts share, since only one of them runs at a time.
"""

from __future__ import annotations

import lzma
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from anycost.errors import BackendError, InputError
from anycost.runtime.backends import BINDINGS_NAME, Bind, PlanBindings
from anycost.runtime.binding import Binding
from anycost.runtime.cuda.device_engine import LEAST, DeviceEngine
from anycost.runtime.cuda.driver import Cuda, DeviceMemory
from anycost.runtime.cuda.kernel_cache import KernelCache
from anycost.runtime.cuda.ports import Port, Ports, listed
from anycost.runtime.cuda.weights import DeviceWeights

PLAN_NAME = "engine.plan.xz"

# Each keeps an execution context and a graph.
KEPT_BATCH_SIZES = 4

# bindings.json's names of the types -> TensorRT's.
_TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}


@dataclass(frozen=True)
class Library:
    """One of the two libraries. backend: its name in messages. trt: its module. compiles_here: its plans hold no kernels, they
    are compiled for the device when they are first run, and kept in the user's cache."""

    backend: str
    trt: Any
    compiles_here: bool


@dataclass
class _Staged:
    """A context of one batch size that reads and writes the engine's own buffers, and its graph once it has one."""

    context: Any
    graph: Any = None
    runs: int = 0


class TensorRtEngine(DeviceEngine):
    """folder: holds the plan and bindings.json. bind: makes a constant. threads: that the library may use on the CPU. weights:
    the device's, shared with its other engines. Raises BackendError.
    """

    alignment = 256

    def __init__(
        self, library: Library, folder: Path, bind: Bind, threads: int, cuda: Cuda, weights: DeviceWeights
    ) -> None:
        super().__init__(cuda)
        self._library = library
        bindings = PlanBindings.model_validate_json((folder / BINDINGS_NAME).read_bytes())
        plan = _plan(folder / PLAN_NAME)
        self._staged: OrderedDict[int, _Staged] = OrderedDict()
        self._direct: Any = None
        self._direct_batch = 0
        self._log = _log(library.trt)
        self._log.errors.clear()
        with cuda.active():
            runtime = library.trt.Runtime(self._log)
            runtime.max_threads = max(threads, 1)
            self._engine = runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise self._failed(
                    f"the plan {folder / PLAN_NAME} was refused", "rebuild the bundle for this version and GPU"
                )
            self._weights: dict[str, DeviceMemory] = {}
            if bindings.delivery == "refit":
                self._weights_bytes = self._refit(bindings.weights, bind)
            else:
                self._weights = self._held(bindings.weights, bind, weights)
                self._weights_bytes = sum(memory.size for memory in self._weights.values())
            self._ports, self.min_batch, self.max_batch = self._read_ports()
            self._config, self._kernels = self._kernel_cache(plan)
            self._activations = cuda.allocate(max(int(self._engine.device_memory_size_v2), LEAST))
            # All and the largest now: graphs will hold their addresses.
            self._reserve_ports([port.name for port in (*self._ports.inputs, *self._ports.outputs)], self.max_batch)
        # Batch sizes whose kernels are in the cache by now.
        self._compiled: set[int] = set()
        # Those of a cache that was refused, say, explain no later failure.
        self._log.errors.clear()

    @property
    def device_bytes(self) -> int:
        """Memory of the device that this engine needs, in bytes: activations, inputs and outputs, and all its weights, those
        too that it shares. What the library keeps for itself (its kernels) is not in it."""
        buffers = sum(memory.size for memory in self._buffers.values())
        return self._activations.size + buffers + self._weights_bytes

    # Loading

    def _refit(self, weights: Mapping[str, Binding], bind: Bind) -> int:
        """Give a stripped plan all its weights. -> their bytes."""
        trt = self._library.trt
        refitter = trt.Refitter(self._engine, self._log)
        names = list(refitter.get_all_weights())
        unknown = [name for name in names if name not in weights]
        if unknown:
            raise BackendError(
                f"{self._library.backend} asks for weights that {BINDINGS_NAME} has not: {listed(unknown)}"
            )
        # The refitter reads them where they are.
        arrays = {name: bind(weights[name]) for name in names}
        for name, array in arrays.items():
            kind = getattr(trt.DataType, _TYPES[weights[name].dtype])
            if not refitter.set_named_weights(name, trt.Weights(kind, array.ctypes.data, array.size)):
                raise self._failed(f"the weights {name} were refused", "rebuild the bundle")
        missing = list(refitter.get_missing_weights())
        if missing:
            raise BackendError(
                f"{self._library.backend} has no value for the weights {listed(missing)}; rebuild the bundle"
            )
        if not refitter.refit_cuda_engine():
            raise self._failed("the weights could not be put into the plan", "rebuild the bundle")
        return sum(array.nbytes for array in arrays.values())

    def _held(self, wanted: Mapping[str, Binding], bind: Bind, weights: DeviceWeights) -> dict[str, DeviceMemory]:
        """The weights that are inputs of the network."""
        engine, trt = self._engine, self._library.trt
        names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        missing = [name for name in wanted if name not in names]
        if missing:
            raise BackendError(f"the plan has no inputs for the weights {listed(missing)}: rebuild the bundle")
        held = {}
        for name, binding in wanted.items():
            shape, kind = tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name)
            if shape != binding.shape or kind != getattr(trt.DataType, _TYPES[binding.dtype]):
                raise BackendError(
                    f"the plan takes the weights {name} as {kind} {list(shape)}, and {BINDINGS_NAME} makes them "
                    f"{binding.dtype} {list(binding.shape)}: rebuild the bundle"
                )
            held[name] = weights.hold(bind(binding), self._handle)
        return held

    def _read_ports(self) -> tuple[Ports, int, int]:
        """-> inputs and outputs, and the smallest and largest batch of the profile."""
        engine, trt = self._engine, self._library.trt
        inputs, outputs = [], []
        smallest, largest = 1, 0
        for name in [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]:
            if name in self._weights:
                continue
            shape, kind = tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name)
            if kind != trt.DataType.FLOAT or not shape or min(shape[1:], default=1) < 0:
                raise BackendError(
                    f"the plan has {name} as {kind} {list(shape)}, where float32 with only the batch dynamic was expected: "
                    "rebuild the bundle"
                )
            port = Port(name, shape[1:])
            if engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT:
                outputs.append(port)
                continue
            inputs.append(port)
            if shape[0] >= 0:
                low = high = shape[0]
            else:
                least, _, most = engine.get_tensor_profile_shape(name, 0)
                low, high = int(least[0]), int(most[0])
            smallest, largest = max(smallest, low), min(largest or high, high)
        if not inputs or not outputs or smallest > largest:
            raise BackendError(
                "the plan has no inputs, no outputs, or no batch size that all inputs share: rebuild the bundle"
            )
        return Ports(tuple(inputs), tuple(outputs)), smallest, largest

    def _kernel_cache(self, plan: bytes) -> tuple[Any, KernelCache | None]:
        """-> the settings of contexts, and the compiled kernels where there are any to keep."""
        trt = self._library.trt
        if not self._library.compiles_here:
            return None, None
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # Otherwise a batch size first runs on general kernels while its own are compiled: a graph would keep the slow ones.
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        kernels = KernelCache(config.create_runtime_cache(), plan)
        config.set_runtime_cache(kernels.cache)
        return config, kernels

    # Running

    def _execute_own(self, batch: int) -> None:
        staged = self._staged_for(batch)
        # After one plain run: the first makes what a capture may not.
        if staged.runs == 1:
            staged.graph = self._captured(staged.context)
        if staged.graph is None:
            self._enqueue(staged.context, self._handle)
        else:
            self._cuda.launch(staged.graph, self._stream)
        staged.runs += 1

    def _execute_at(self, batch: int, addresses: Mapping[str, int], stream: int) -> None:
        context = self._direct_context(batch)
        for name, address in addresses.items():
            self._set_address(context, name, address)
        self._enqueue(context, stream)

    def _captured(self, context: Any) -> Any:
        """The graph of a run, None where it cannot be had: it saves launches, the results are the same."""
        if self._library.compiles_here and not context.is_stream_capturable(self._handle):
            return None
        try:
            return self._cuda.capture(self._stream, lambda stream: self._enqueue(context, stream))
        except BackendError:
            self._log.errors.clear()
            return None

    def _enqueue(self, context: Any, stream: int) -> None:
        if not context.execute_async_v3(stream):
            raise self._failed("a run could not be started", "run it again, or use another backend")

    def _staged_for(self, batch: int) -> _Staged:
        # One context for each size: a graph stays valid only while its context is left as it was captured.
        if batch in self._staged:
            self._staged.move_to_end(batch)
            return self._staged[batch]
        context = self._context(batch)
        for port in (*self._ports.inputs, *self._ports.outputs):
            self._set_address(context, port.name, self._buffers[port.name].pointer)
        if len(self._staged) >= KEPT_BATCH_SIZES:
            # A piece of this very run may still be using it.
            self._cuda.synchronize(self._handle)
            self._staged.popitem(last=False)
        self._staged[batch] = _Staged(context)
        return self._staged[batch]

    def _direct_context(self, batch: int) -> Any:
        """The context of runs on arrays from outside, whose addresses change from run to run."""
        if self._direct is None:
            self._direct = self._context(batch)
        elif self._direct_batch != batch:
            self._set_shapes(self._direct, batch)
        self._direct_batch = batch
        return self._direct

    def _context(self, batch: int) -> Any:
        """A new execution context with the weights, for a batch size."""
        strategy = self._library.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy if self._config is None else self._config)
        if context is None:
            raise self._failed("no execution context could be made", "close other programs that use the GPU")
        context.set_device_memory(self._activations.pointer, self._activations.size)
        for name, memory in self._weights.items():
            self._set_address(context, name, memory.pointer)
        self._set_shapes(context, batch)
        return context

    def _set_shapes(self, context: Any, batch: int) -> None:
        if batch < self.min_batch:
            raise InputError(f"a batch of {batch} is smaller than the {self.min_batch} that this engine was built for")
        for port in self._ports.inputs:
            if not context.set_input_shape(port.name, (batch, *port.shape)):
                raise self._failed(f"the shape {[batch, *port.shape]} of {port.name} was refused", "rebuild the bundle")

    def _set_address(self, context: Any, name: str, pointer: int) -> None:
        if not context.set_tensor_address(name, pointer):
            raise self._failed(f"the address of {name} was refused", "rebuild the bundle")

    def _ran(self, batch: int) -> None:
        if self._kernels is not None and batch not in self._compiled:
            self._compiled.add(batch)
            self._kernels.keep()

    def _failed(self, what: str, advice: str) -> BackendError:
        reason = "".join(f": {error}" for error in self._log.errors)
        self._log.errors.clear()
        return BackendError(f"{self._library.backend}: {what}{reason}; {advice}")


def _plan(path: Path) -> bytes:
    try:
        return lzma.decompress(path.read_bytes())
    except (OSError, lzma.LZMAError, EOFError) as error:
        raise BackendError(f"{path} cannot be read: {error}; copy the bundle again, or rebuild it") from None


@cache
def _log(trt: Any) -> Any:
    """The one logger of a library, which may refer to the first it is given until the process ends. errors: the first since
    they were cleared, which tends to be the cause, and the last."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors[1:] = [" ".join(message.split())[:300]]

    return Log()
