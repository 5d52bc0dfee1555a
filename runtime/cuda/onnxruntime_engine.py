"""A session of ONNX Runtime on a device, and runs that copy nothing.

A session runs on one stream for its whole life, which it is given when it is made. A run on a caller's stream is put there by
events: the session's stream waits for the caller's, and the caller's for the session's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from anycost.errors import BackendError, InputError
from anycost.runtime.backends import Array
from anycost.runtime.cuda.arrays import DeviceArray, as_device_array, as_stream
from anycost.runtime.cuda.driver import Cuda, DeviceMemory
from anycost.runtime.cuda.ports import Port, Ports, on_device

# Each keeps its buffers, and its CUDA graph where there are any.
KEPT_BATCH_SIZES = 4

# As onnxruntime_run_options_config_keys.h names them.
_NO_WAIT = "disable_synchronize_execution_providers"
_GRAPH_ID = "gpu_graph_id"
_NO_GRAPH = -1

_ALIGNMENT = 256
_LONGEST = 300


@dataclass
class _Staged:
    """The engine's own buffers for one batch size, bound to a run, and how the run is to be made."""

    buffers: dict[str, DeviceMemory]
    binding: Any
    options: Any


class OrtGpuEngine:
    """A session on one device. Not thread-safe: use one for each thread. backend: its name in messages. values: what the session
    reads as long as it lives. stream: that of the session. graphs: whether the session captures runs. Raises BackendError for a
    graph with other inputs or outputs than float32 with the batch first."""

    def __init__(
        self,
        backend: str,
        session: ort.InferenceSession,
        values: list[Any],
        cuda: Cuda,
        stream: Any,
        graphs: bool,
    ):
        self._backend, self._session, self._values, self._cuda = backend, session, values, cuda
        self._handle, self._graphs = as_stream(stream), graphs
        self._ports = Ports(_ports(session.get_inputs()), _ports(session.get_outputs()))
        # The first batch sizes keep their buffers for good: a graph reads and writes these addresses as long as the session
        # lives. One more serves all other sizes in turn.
        self._staged: dict[int, _Staged] = {}
        self._spare: tuple[int, _Staged] | None = None
        self._direct = session.io_binding()
        self._direct_options = _run_options(_NO_GRAPH)
        self._own: dict[str, DeviceMemory] = {}
        # Runs that may not be over, with what they read and write.
        self._in_flight: list[tuple[Any, object]] = []
        # The last attribute, as they go in this order: the session and its bindings must not outlive its stream.
        self._stream = stream

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """inputs: float32 [N, ...] by name, one N in all -> the outputs by name, float32 [N, ...]. Raises InputError for a
        missing input or a wrong shape, BackendError when the device fails."""
        self._ports.require(inputs)
        arrays = {p.name: np.ascontiguousarray(inputs[p.name], dtype=np.float32) for p in self._ports.inputs}
        batch = self._ports.batch({name: array.shape for name, array in arrays.items()})
        found = {port.name: np.empty((batch, *port.shape), np.float32) for port in self._ports.outputs}
        if not batch:
            return found
        with self._cuda.active():
            staged = self._staged_for(batch)
            for name, array in arrays.items():
                self._cuda.upload(staged.buffers[name].pointer, array, self._handle)
            self._execute(staged.binding, staged.options)
            for name, array in found.items():
                self._cuda.download(array, staged.buffers[name].pointer, self._handle)
            self._cuda.synchronize(self._handle)
        # Earlier runs were on the same stream.
        self._in_flight = []
        return found

    def warm_up(self) -> None:
        """One run of one sample of zeros."""
        self.run({port.name: np.zeros((1, *port.shape), np.float32) for port in self._ports.inputs})

    def run_device(
        self, inputs: Mapping[str, Any], *, stream: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> dict[str, DeviceArray]:
        """A run on arrays that lie on the device; it returns before the run is over, and copies nothing.

        inputs: arrays of PyTorch, CuPy, ... by name (``as_device_array``), float32 [N, ...]. They must keep their content until
        the run is over. stream: the caller's (``as_stream``): the run begins after what is on it, and what is put on it later
        begins after the run; None for the engine's own. outputs: arrays to write to, by name; an output that is not named goes
        to the engine's own memory, which the next run overwrites. -> all outputs, to be read on that stream, or by a library that
        waits for it, as those with DLPack do.
        Raises InputError for an array that cannot be taken, BackendError when the device fails.
        """
        self._ports.require(inputs)
        handle = self._handle if stream is None else as_stream(stream)
        arrays = {p.name: as_device_array(inputs[p.name], f"input {p.name}", stream=handle) for p in self._ports.inputs}
        batch = self._ports.batch({name: array.shape for name, array in arrays.items()})
        if not batch:
            raise InputError("a batch of 0 cannot be run on the device: give at least one sample")
        given = self._ports.given(outputs or {}, batch, handle)
        on_device(arrays | given, self._cuda.ordinal)
        with self._cuda.active():
            for array in (*arrays.values(), *given.values()):
                if array.stream not in (None, handle):
                    self._cuda.order(array.stream or 0, handle)
            found = {p.name: given.get(p.name) or self._own_array(p, batch, handle) for p in self._ports.outputs}
            self._bind(self._direct, arrays, found)
            if handle != self._handle:
                self._cuda.order(handle, self._handle)
            self._execute(self._direct, self._direct_options)
            if handle != self._handle:
                self._cuda.order(self._handle, handle)
            over = self._cuda.record(self._handle)
            self._in_flight = [pair for pair in self._in_flight if not self._cuda.done(pair[0])]
            self._in_flight.append((over, (arrays, found)))
        return found

    def _execute(self, binding: Any, options: Any) -> None:
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:  # ONNX Runtime's types have no common base but this
            raise BackendError(
                f"{self._backend}: a run failed: {_line(error)}; run it again, or use another backend"
            ) from error

    def _bind(self, binding: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """inputs, outputs: arrays with shape and pointer."""
        for name, array in inputs.items():
            binding.bind_input(name, "cuda", self._cuda.ordinal, np.float32, list(array.shape), array.pointer)
        for name, array in outputs.items():
            binding.bind_output(name, "cuda", self._cuda.ordinal, np.float32, list(array.shape), array.pointer)

    def _staged_for(self, batch: int) -> _Staged:
        if batch in self._staged:
            return self._staged[batch]
        if self._spare and self._spare[0] == batch:
            return self._spare[1]
        kept = len(self._staged) < KEPT_BATCH_SIZES
        if not kept:
            self._spare = None  # Its memory goes before more is taken.
        buffers = {
            p.name: self._cuda.allocate(max(p.bytes(batch), _ALIGNMENT))
            for p in (*self._ports.inputs, *self._ports.outputs)
        }
        binding = self._session.io_binding()
        self._bind(
            binding,
            {port.name: self._view(buffers[port.name], port, batch) for port in self._ports.inputs},
            {port.name: self._view(buffers[port.name], port, batch) for port in self._ports.outputs},
        )
        graph = len(self._staged) if self._graphs and kept else _NO_GRAPH
        staged = _Staged(buffers, binding, _run_options(graph))
        if kept:
            self._staged[batch] = staged
        else:
            self._spare = (batch, staged)
        return staged

    def _own_array(self, port: Port, batch: int, handle: int) -> DeviceArray:
        memory = self._own.get(port.name)
        if memory is None or memory.size < port.bytes(batch):
            memory = self._own[port.name] = self._cuda.allocate(max(port.bytes(batch), _ALIGNMENT))
        return self._view(memory, port, batch, handle)

    def _view(self, memory: DeviceMemory, port: Port, batch: int, handle: int | None = None) -> DeviceArray:
        # The session's stream must live as long as anything can wait for it.
        owner = (memory, self._stream)
        dtype: np.dtype[Any] = np.dtype(np.float32)
        return DeviceArray(memory.pointer, (batch, *port.shape), dtype, self._cuda.ordinal, owner, handle)


def _run_options(graph: int) -> Any:
    options = ort.RunOptions()
    # A run returns when it is on the stream, not when it is over.
    options.add_run_config_entry(_NO_WAIT, "1")
    options.add_run_config_entry(_GRAPH_ID, str(graph))
    return options


def _ports(values: Any) -> tuple[Port, ...]:
    ports = []
    for value in values:
        shape = tuple(value.shape)
        if value.type != "tensor(float)" or not shape or not all(isinstance(axis, int) for axis in shape[1:]):
            raise BackendError(
                f"the graph has {value.name} as {value.type} {list(shape)}, where float32 with only the batch dynamic was "
                "expected: rebuild the bundle"
            )
        ports.append(Port(value.name, shape[1:]))
    return tuple(ports)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:_LONGEST]
