"""Engines that are programs: our own kernels, compiled ahead of time, launched one after the other or as one CUDA graph.

Scratch memory lies in one block, in which regions that are never needed at
once share addresses; which alternative of a step is taken was timed on the device.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anycost.errors import BackendError
from anycost.runtime.backends import Bind
from anycost.runtime.cuda import arena, tuning
from anycost.runtime.cuda.constants import Constants
from anycost.runtime.cuda.device_engine import LEAST, DeviceEngine
from anycost.runtime.cuda.devices import CudaDevice
from anycost.runtime.cuda.driver import Cuda, DeviceMemory
from anycost.runtime.cuda.launcher import Bound, Launcher, PortArguments, StepBench
from anycost.runtime.cuda.ports import Port, Ports
from anycost.runtime.cuda.program import PROGRAM_NAME, Choice, read_program
from anycost.runtime.cuda.weights import DeviceWeights

# Each keeps its launches, and the graphs of as many sets of addresses.
KEPT_BATCH_SIZES = 4
KEPT_GRAPHS = 4

Addresses = tuple[int, ...]


@dataclass
class _Batch:
    """One batch size: its launches in order, and the arguments in them to be pointed at inputs and outputs. graphs: by the
    addresses of those, None where they could not be captured; seen: addresses that ran without."""

    chosen: list[Choice]
    launches: list[Bound]
    ports: PortArguments
    graphs: OrderedDict[Addresses, Any] = field(default_factory=OrderedDict)
    seen: OrderedDict[Addresses, None] = field(default_factory=OrderedDict)


class ProgramEngine(DeviceEngine):
    """folder: holds program.json and the kernels. bind: makes a constant, also later, when a batch size takes another
    alternative. weights: the device's, shared with its other engines. The second run on the same addresses makes a graph of
    them, which costs less to start. The first run of a batch size waits, where it has to be tuned. Raises BackendError.
    """

    alignment = 16

    def __init__(self, folder: Path, bind: Bind, device: CudaDevice, cuda: Cuda, weights: DeviceWeights) -> None:
        super().__init__(cuda)
        self._program = read_program(folder)
        self._regions = self._program.by_name()
        self._launcher = Launcher(self._program, folder, device, cuda)
        self._available = self._launcher.available
        sha256 = hashlib.sha256((folder / PROGRAM_NAME).read_bytes()).hexdigest()
        names = [step.name for step in self._program.steps]
        self._tuning = tuning.Tuning(device, sha256, self._program.precision, names, tuning.enabled())
        self.max_batch = self._program.max_batch
        self._ports = Ports(
            *(
                tuple(Port(name, self._regions[name].shape[1:]) for name in names)
                for names in (self._program.inputs, self._program.outputs)
            )
        )
        self._order = [port.name for port in (*self._ports.inputs, *self._ports.outputs)]
        self._batches: OrderedDict[int, _Batch] = OrderedDict()
        self._block: DeviceMemory | None = None
        with cuda.active():
            self._constants = Constants(self._program, bind, cuda, weights, self._launcher, self._handle)
            # What the first image needs, so that a device without room is found here; all alternatives where they have to be
            # timed first.
            known = self._tuning.known(1, self._available)
            self._constants.addresses(_named(known or self._candidates()))
            if known:
                self._reserve(1, known)

    @property
    def device_bytes(self) -> int:
        """Memory of the device that this engine holds now, in bytes: scratch memory, inputs and outputs for the largest batch so
        far, and all its constants, those too that it shares. The kernels' code is not in it."""
        buffers = sum(memory.size for memory in self._buffers.values())
        return (self._block.size if self._block else 0) + buffers + self._constants.bytes

    # Memory

    def _candidates(self) -> list[Choice]:
        return [choice for choices in self._available for choice in choices]

    def _reserve(self, batch: int, chosen: Sequence[Choice]) -> arena.Layout:
        """Scratch memory for a batch. A larger block than before replaces it, and with it all that names its addresses."""
        layout = arena.pack(arena.lifetimes(self._program, chosen, batch))
        if self._block is None or self._block.size < layout.total:
            self._batches.clear()
            # Given back first: both together may not fit. Freeing waits for runs that are under way.
            self._block = None
            self._block = self._cuda.allocate(max(layout.total, LEAST))
        return layout

    # Running

    def _execute_own(self, batch: int) -> None:
        self._execute(batch, tuple(self._buffers[name].pointer for name in self._order), self._handle)

    def _execute_at(self, batch: int, addresses: Mapping[str, int], stream: int) -> None:
        self._execute(batch, tuple(addresses[name] for name in self._order), stream)

    def _execute(self, batch: int, addresses: Addresses, stream: int) -> None:
        """One run. addresses: of the inputs and outputs, in their order; 16-byte aligned, on this device."""
        state = self._state(batch, addresses, stream)
        if addresses in state.seen and addresses not in state.graphs:
            # After one plain run: the first loads what a capture may not.
            del state.seen[addresses]
            state.graphs[addresses] = self._captured(state, addresses)
            if len(state.graphs) > KEPT_GRAPHS:
                _, old = state.graphs.popitem(last=False)
                # It may still be running, on a stream that this one follows.
                self._in_flight.append((self._cuda.record(stream), old))
        graph = state.graphs.get(addresses)
        if graph is not None:
            state.graphs.move_to_end(addresses)
            self._cuda.launch(graph, self._stream if stream == self._handle else stream)
            return
        self._point(state, addresses)
        self._launcher.start(state.launches, stream)
        if addresses not in state.graphs:
            state.seen[addresses] = None
            if len(state.seen) > KEPT_GRAPHS:
                state.seen.popitem(last=False)

    def _captured(self, state: _Batch, addresses: Addresses) -> Any:
        """The graph of a run, None where it cannot be had: it saves launches, the results are the same."""
        self._point(state, addresses)
        try:
            return self._cuda.capture(self._stream, lambda stream: self._launcher.start(state.launches, stream))
        except BackendError:
            return None

    def _point(self, state: _Batch, addresses: Addresses) -> None:
        """Fill in the addresses of inputs and outputs. (A launch and a capture take their own copies.)"""
        for name, address in zip(self._order, addresses, strict=True):
            for value, offset in state.ports.get(name, ()):
                value.value = address + offset

    def _state(self, batch: int, addresses: Addresses, stream: int) -> _Batch:
        """The launches of a batch size; its first run chooses among alternatives, which waits for the device."""
        if batch in self._batches:
            self._batches.move_to_end(batch)
            return self._batches[batch]
        chosen = self._tuning.known(batch, self._available) or self._tuned(batch, addresses, stream)
        # Graphs that go with what is dropped below may still be running.
        self._cuda.synchronize(stream)
        layout = self._reserve(batch, chosen)
        if len(self._batches) >= KEPT_BATCH_SIZES:
            self._batches.popitem(last=False)
        assert self._block is not None
        places = self._constants.addresses(_named(chosen)) | _placed(layout, self._block)
        ports: PortArguments = {}
        bound = self._launcher.bind(chosen, places, batch, ports)
        state = self._batches[batch] = _Batch(chosen, bound, ports)
        self._constants.keep(_named(choice for kept in self._batches.values() for choice in kept.chosen))
        return state

    def _tuned(self, batch: int, addresses: Addresses, stream: int) -> list[Choice]:
        """Time the alternatives on this run's inputs, in memory of their own."""
        layout = arena.pack(arena.lifetimes_of_steps(self._program, self._available, batch))
        block = self._cuda.allocate(max(layout.total, LEAST))
        places = self._constants.addresses(_named(self._candidates())) | _placed(layout, block)
        places |= dict(zip(self._order, addresses, strict=True))
        bench = StepBench(self._program, self._launcher, self._cuda, batch, places, self._stream, stream)
        found = self._tuning.measure(batch, self._available, bench)
        self._cuda.synchronize(stream)
        return found


def _named(choices: Iterable[Choice]) -> set[str]:
    """The regions that some choices touch."""
    return set().union(*(choice.regions for choice in choices))


def _placed(layout: arena.Layout, block: DeviceMemory) -> dict[str, int]:
    return {name: block.pointer + offset for name, offset in layout.offsets.items()}
