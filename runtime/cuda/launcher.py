"""The launches of a program on a device: kernels loaded, addresses filled in, put on a stream."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anycost.errors import BackendError
from anycost.runtime.cuda.devices import CudaDevice
from anycost.runtime.cuda.driver import Cuda, KernelArguments
from anycost.runtime.cuda.program import HOST_TYPES, Choice, Launch, Place, Program, launches, read_images
from anycost.runtime.cuda.targets import best_target, shared_limit

Array = np.ndarray
# Of a port: the arguments that hold an address in it, with their offsets in bytes.
PortArguments = dict[str, list[tuple[ctypes.c_uint64, int]]]

_THREADS = 32  # of a warp
_REPEATS = 10  # of a choice in one timed graph
_COMPARED = 1 << 20  # elements at either end of an image that choices are compared in


@dataclass(frozen=True)
class Bound:
    """A launch with its addresses filled in, but for those of ports, which change from run to run."""

    kernel: Any
    grid: tuple[int, int, int]
    threads: int
    shared: int
    arguments: KernelArguments


class Launcher:
    """folder: the engine's, which holds the kernels. Raises BackendError where no target of the program runs on the device."""

    def __init__(self, program: Program, folder: Path, device: CudaDevice, cuda: Cuda):
        target = best_target(program.targets, device.target)
        if target is None:
            raise BackendError(
                f"cuda: the engine was built for {', '.join(program.targets)} and {device.name} is {device.target}: "
                f"build again with --target {device.target}"
            )
        self._program, self._regions = program, program.by_name()
        self._target, self._cuda = target, cuda
        limit = shared_limit(device.target)
        for step in (*program.prepare, *program.steps):
            if not program.available(step, target, limit):
                raise BackendError(
                    f"cuda: step {step.name} was built for the shared memory of {target}, and {device.name} has {limit} bytes "
                    f"for a block: build again with --target {device.target}"
                )
        # The choices of every step that the device can run.
        self.available = [program.available(step, target, limit) for step in program.steps]
        images = read_images(program, folder)
        # Those of other devices are left in the file.
        self._images = [images[k.images[target]] if target in k.images else b"" for k in program.kernels]

    def bind(
        self, choices: Iterable[Choice], places: Mapping[str, int], batch: int = 1, ports: PortArguments | None = None
    ) -> list[Bound]:
        """The launches of some choices, in order. places: addresses of regions. ports: gets the arguments that name any other."""
        return [self._bound(launch, places, batch, ports) for launch in launches(choices)]

    def start(self, bound: Iterable[Bound], stream: int) -> None:
        """Put them on the stream, in order. To be called inside ``Cuda.active``. Raises BackendError."""
        try:
            for one in bound:
                self._cuda.launch_kernel(one.kernel, one.grid, one.threads, one.shared, one.arguments, stream)
        except BackendError as error:
            raise BackendError(
                f"cuda: a run could not be started: {error}; run it again, or use another backend"
            ) from None

    def _bound(self, launch: Launch, places: Mapping[str, int], batch: int, ports: PortArguments | None) -> Bound:
        values: list[ctypes.c_uint64 | ctypes.c_int32] = []
        for argument in launch.arguments:
            if not isinstance(argument, Place):
                values.append(ctypes.c_int32(argument))
                continue
            offset = argument.offset * self._regions[argument.region].itemsize
            if argument.region in places:
                values.append(ctypes.c_uint64(places[argument.region] + offset))
            else:
                value = ctypes.c_uint64(offset)
                values.append(value)
                assert ports is not None, argument.region
                ports.setdefault(argument.region, []).append((value, offset))
        # Triton's two scratch buffers, which our kernels have none of.
        arguments = KernelArguments([*values, ctypes.c_uint64(0), ctypes.c_uint64(0)])
        kernel = self._program.kernels[launch.kernel]
        shared = kernel.shared[self._target]
        loaded = self._cuda.load_kernel(self._images[launch.kernel], kernel.symbol, shared)
        x, y, z = launch.grid
        return Bound(loaded, (x, y, z * batch), _THREADS * kernel.warps, shared, arguments)


class StepBench:
    """Runs choices of steps for ``Tuning.measure``. places: addresses of all regions. own: the engine's stream, from
    ``Cuda.new_stream``, which graphs are captured on; stream: the handle of the one that is run on."""

    def __init__(
        self,
        program: Program,
        launcher: Launcher,
        cuda: Cuda,
        batch: int,
        places: Mapping[str, int],
        own: Any,
        stream: int,
    ):
        self._program, self._regions, self._launcher, self._cuda = program, program.by_name(), launcher, cuda
        self._batch, self._places, self._own, self._stream = batch, places, own, stream

    def run(self, choice: Choice) -> None:
        self._launcher.start(self._bound(choice), self._stream)

    def clear(self, step: int) -> None:
        for name in self._program.results(step):
            self._cuda.zero(self._places[name], self._regions[name].bytes(self._batch), self._stream)

    def results(self, step: int) -> dict[str, Array]:
        found = {}
        for name in self._program.results(step):
            region = self._regions[name]
            count = min(region.size, _COMPARED)
            array = np.empty((2, count), HOST_TYPES[region.dtype])
            end = self._places[name] + region.bytes(self._batch)
            self._cuda.download(array[0], end - region.bytes(), self._stream)
            self._cuda.download(array[1], end - array[1].nbytes, self._stream)
            found[name] = array
        self._cuda.synchronize(self._stream)
        return {name: _as_float(array) for name, array in found.items()}

    def timed_ms(self, choice: Choice) -> float:
        return self._cuda.timed_ms(self._stream, self._repeated(choice)) / _REPEATS

    def _repeated(self, choice: Choice) -> Callable[[], None]:
        """Several runs as one graph, so that the device is timed and not what starts kernels on it."""
        bound = self._bound(choice) * _REPEATS
        try:
            graph = self._cuda.capture(self._own, lambda stream: self._launcher.start(bound, stream))
        except BackendError:
            return lambda: self._launcher.start(bound, self._stream)
        return lambda: self._cuda.launch(graph, self._stream)

    def _bound(self, choice: Choice) -> list[Bound]:
        return self._launcher.bind([choice], self._places, self._batch)


def _as_float(array: Array) -> Array:
    if array.dtype == np.uint16:  # the bits of bfloat16
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.astype(np.float32)
