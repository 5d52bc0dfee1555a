"""The constants of a program on a device: its weights and tables, and what it prepares from them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from anycost.errors import BackendError
from anycost.runtime.backends import Bind
from anycost.runtime.cuda.driver import Cuda, DeviceMemory
from anycost.runtime.cuda.launcher import Launcher
from anycost.runtime.cuda.program import CONSTANT_KINDS, HOST_TYPES, Program, Region
from anycost.runtime.cuda.weights import DeviceWeights

Array = np.ndarray


class Constants:
    """Made when they are first needed, and given back by ``keep``.

    bind: makes a constant. weights: the device's, which other engines share. stream: the handle of the engine's.
    """

    def __init__(
        self, program: Program, bind: Bind, cuda: Cuda, weights: DeviceWeights, launcher: Launcher, stream: int
    ):
        self._program, self._regions = program, program.by_name()
        self._bind, self._cuda, self._weights, self._launcher = bind, cuda, weights, launcher
        self._stream = stream
        self._held: dict[str, DeviceMemory] = {}

    @property
    def bytes(self) -> int:
        return sum(memory.size for memory in self._held.values())

    def addresses(self, names: Iterable[str]) -> dict[str, int]:
        """Of the constants among some regions. Raises BackendError when the device has no room, or for a weight of another
        shape than the program takes."""
        wanted = [name for name in sorted(set(names)) if self._regions[name].kind in CONSTANT_KINDS]
        self._prepare({name for name in wanted if self._regions[name].kind == "prepared"} - self._held.keys())
        for name in wanted:
            self._hold(name)
        return {name: self._held[name].pointer for name in wanted}

    def keep(self, names: Iterable[str]) -> None:
        """Give back all but these."""
        kept = set(names)
        self._held = {name: memory for name, memory in self._held.items() if name in kept}

    def _hold(self, name: str) -> None:
        region = self._regions[name]
        if name not in self._held:
            array = region.table() if region.kind == "table" else packed(region, self._bind)
            self._held[name] = self._weights.hold(array, self._stream)

    def _prepare(self, wanted: set[str]) -> None:
        """Run the steps that these regions need, and those that they need in turn; what only serves them goes afterwards."""
        if not wanted:
            return
        before, steps, touched = set(self._held), [], set(wanted)
        for step in reversed(self._program.prepare):
            if step.regions & touched:
                steps.append(step)
                touched |= {name for name in step.regions if self._regions[name].kind == "prepared"}
        done = False
        try:
            for step in reversed(steps):
                for name in sorted(step.regions):
                    if self._regions[name].kind != "prepared":
                        self._hold(name)
                    elif name not in self._held:
                        self._held[name] = self._cuda.allocate(self._regions[name].bytes())
                places = {name: self._held[name].pointer for name in step.regions}
                self._launcher.start(self._launcher.bind(step.choices, places), self._stream)
            self._cuda.synchronize(self._stream)
            done = True
        finally:
            # What was not finished must not be taken for made.
            self.keep(before | wanted if done else before)


def packed(region: Region, bind: Bind) -> Array:
    """A region of weights on the host: every part bound and padded with zeros, in a flat array of the region's type (bfloat16
    as uint16). Raises BackendError for a constant of another shape or type."""
    whole: Array = np.zeros(region.size, HOST_TYPES[region.dtype])
    for part in region.parts:
        array = bind(part.binding)
        if array.shape != part.binding.shape or array.dtype != whole.dtype:
            raise BackendError(
                f"the constant {part.binding.source} is {array.dtype} {list(array.shape)}, and the program takes "
                f"{region.dtype} {list(part.binding.shape)}: rebuild the bundle"
            )
        padded = whole[part.offset : part.offset + part.size].reshape(part.shape)
        padded[tuple(slice(0, n) for n in array.shape)] = array
    return whole
