"""What engines that run by addresses share: inputs and outputs in place or in memory of their own, streams, and what a run that
may not be over needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from anycost.errors import InputError
from anycost.runtime.backends import Array
from anycost.runtime.cuda.arrays import DeviceArray, as_device_array, as_stream
from anycost.runtime.cuda.driver import Cuda, DeviceMemory
from anycost.runtime.cuda.ports import Port, Ports, on_device

# Bytes of an allocation: one of none has no address.
LEAST = 256


class DeviceEngine(ABC):
    """A loaded engine on one device, of which one run at a time uses its scratch memory. Not thread-safe: use one for each
    thread.

    Inputs and outputs are float32 with the batch first. A subclass sets ``_ports`` and the batch sizes when it has read them.
    alignment: what its kernels take for granted of an address, in bytes; memory that the engine allocates has it. min_batch,
    max_batch: the samples that one execution takes.
    """

    alignment: ClassVar[int]
    min_batch = 1
    max_batch: int
    _ports: Ports

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        with cuda.active():
            self._stream = cuda.new_stream()
        self._handle = as_stream(self._stream)
        self._buffers: dict[str, DeviceMemory] = {}
        # The end of the last run, on whichever stream it was, and what runs that may not be over need.
        self._last: Any = None
        self._in_flight: list[tuple[Any, object]] = []

    @property
    @abstractmethod
    def device_bytes(self) -> int:
        """Memory of the device that this engine needs, in bytes."""

    @abstractmethod
    def _execute_own(self, batch: int) -> None:
        """One run over the engine's own memory for inputs and outputs, which is reserved, on its own stream."""

    @abstractmethod
    def _execute_at(self, batch: int, addresses: Mapping[str, int], stream: int) -> None:
        """One run. addresses: of every input and output, aligned, on this device."""

    def _ran(self, batch: int) -> None:  # noqa: B027 - most have nothing to do
        """After a run was put on its stream."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """inputs: float32 [N, ...] by name, one N in all -> the outputs by name, float32 [N, ...]. N above ``max_batch`` is run
        in pieces. Raises InputError for a missing input or a wrong shape, BackendError when the device fails."""
        self._ports.require(inputs)
        arrays = {port.name: np.ascontiguousarray(inputs[port.name], dtype=np.float32) for port in self._ports.inputs}
        batch = self._ports.batch({name: array.shape for name, array in arrays.items()})
        found = {port.name: np.empty((batch, *port.shape), np.float32) for port in self._ports.outputs}
        with self._cuda.active():
            self._follow(self._handle)
            for start in range(0, batch, self.max_batch):
                stop = min(start + self.max_batch, batch)
                self._reserve_ports((*arrays, *found), stop - start)
                for name, array in arrays.items():
                    self._cuda.upload(self._buffers[name].pointer, array[start:stop], self._handle)
                self._execute_own(stop - start)
                for name, array in found.items():
                    self._cuda.download(array[start:stop], self._buffers[name].pointer, self._handle)
                self._ran(stop - start)
            self._cuda.synchronize(self._handle)
        # All earlier runs were waited for.
        self._last, self._in_flight = None, []
        return found

    def run_device(
        self, inputs: Mapping[str, Any], *, stream: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> dict[str, DeviceArray]:
        """A run on arrays that lie on the device; it returns before the run is over.

        inputs: arrays of PyTorch, CuPy, ... by name (``as_device_array``), float32 [N, ...], N at most ``max_batch``. They must
        keep their content until the run is over. stream: the caller's, on which the run is put (``as_stream``); None for the
        engine's own. outputs: arrays to write to, by name; an output that is not named goes to the engine's own memory, which
        the next run overwrites. -> all outputs, to be read on that stream, or by a library that waits for it, as those with
        DLPack do. Nothing is copied, but for arrays whose address is not a multiple of ``alignment``.
        Raises InputError for an array that cannot be taken, BackendError when the device fails.
        """
        self._ports.require(inputs)
        handle = self._handle if stream is None else as_stream(stream)
        arrays = {p.name: as_device_array(inputs[p.name], f"input {p.name}", stream=handle) for p in self._ports.inputs}
        batch = self._ports.batch({name: array.shape for name, array in arrays.items()})
        if not self.min_batch <= batch <= self.max_batch:
            raise InputError(
                f"a batch of {batch} does not fit this engine, which takes {self.min_batch} to {self.max_batch}"
                + (": split it" if batch > self.max_batch else "")
            )
        given = self._ports.given(outputs or {}, batch, handle)
        on_device(arrays | given, self._cuda.ordinal)
        with self._cuda.active():
            self._follow(handle)
            for array in (*arrays.values(), *given.values()):
                if array.stream not in (None, handle):
                    self._cuda.order(array.stream or 0, handle)
            # Only for what the caller has no place of his own that can be used.
            unaligned = {name for name, array in (arrays | given).items() if array.pointer % self.alignment}
            self._reserve_ports(unaligned | {p.name for p in self._ports.outputs if p.name not in given}, batch)
            found = {p.name: given.get(p.name) or self._own(p, batch, handle) for p in self._ports.outputs}
            addresses = {name: array.pointer for name, array in (arrays | found).items()}
            addresses |= {name: self._buffers[name].pointer for name in unaligned}
            for name in unaligned & arrays.keys():
                self._cuda.copy(addresses[name], arrays[name].pointer, arrays[name].nbytes, handle)
            self._execute_at(batch, addresses, handle)
            for name in unaligned & given.keys():
                self._cuda.copy(given[name].pointer, addresses[name], given[name].nbytes, handle)
            self._last = self._cuda.record(handle)
            self._in_flight = [pair for pair in self._in_flight if not self._cuda.done(pair[0])]
            self._in_flight.append((self._last, (arrays, given)))
            self._ran(batch)
        return found

    def _follow(self, stream: int) -> None:
        """The scratch memory is one block: a run on this stream begins after the last one on any other."""
        if self._last is not None:
            self._cuda.wait(stream, self._last)

    def _reserve_ports(self, names: Iterable[str], batch: int) -> None:
        """Memory of the engine's own for some inputs and outputs; what is large enough stays where it is."""
        for port in (*self._ports.inputs, *self._ports.outputs):
            size = port.bytes(batch)
            if port.name in names and (port.name not in self._buffers or self._buffers[port.name].size < size):
                self._buffers[port.name] = self._cuda.allocate(max(size, LEAST))

    def _own(self, port: Port, batch: int, stream: int) -> DeviceArray:
        memory, shape = self._buffers[port.name], (batch, *port.shape)
        # The engine's own stream must live as long as anything can wait for it.
        owner = (memory, self._stream)
        return DeviceArray(memory.pointer, shape, np.dtype(np.float32), self._cuda.ordinal, owner, stream)
