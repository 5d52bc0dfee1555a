"""The inputs and outputs of an engine on a device, and the check of what a caller gives for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from anycost.errors import InputError
from anycost.runtime.cuda.arrays import DeviceArray, as_device_array


@dataclass(frozen=True)
class Port:
    """A float32 input or output. shape: of one sample."""

    name: str
    shape: tuple[int, ...]

    def bytes(self, batch: int) -> int:
        return 4 * batch * math.prod(self.shape)


@dataclass(frozen=True)
class Ports:
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def require(self, given: Iterable[str]) -> None:
        """Raises InputError unless these are the names of the inputs."""
        names, given = [port.name for port in self.inputs], list(given)
        if set(given) != set(names):
            raise InputError(
                f"the engine takes the inputs {listed(names)}; {listed(sorted(given)) or 'none'} were given"
            )

    def batch(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The one batch size of all inputs. Raises InputError for another shape, or more than one size."""
        batch: int | None = None
        for port in self.inputs:
            shape = shapes[port.name]
            if len(shape) != 1 + len(port.shape) or shape[1:] != port.shape:
                raise InputError(f"input {port.name} has shape {list(shape)}: {['N', *port.shape]} was expected")
            if batch is not None and shape[0] != batch:
                raise InputError(f"input {port.name} has a batch of {shape[0]}, and {self.inputs[0].name} of {batch}")
            batch = shape[0]
        return batch or 0

    def given(self, outputs: Mapping[str, Any], batch: int, stream: int) -> dict[str, DeviceArray]:
        """A caller's arrays for outputs, as views; their content is ready when the stream gets to it. Raises InputError."""
        shapes = {port.name: (batch, *port.shape) for port in self.outputs}
        given = {}
        for name, output in outputs.items():
            if name not in shapes:
                raise InputError(f"the engine has no output {name}: it has {listed(list(shapes))}")
            array = as_device_array(output, f"output {name}", stream=stream)
            if array.shape != shapes[name] or array.readonly:
                state = "read-only " if array.readonly else ""
                raise InputError(
                    f"output {name} is {state}{list(array.shape)}: a writable array of {list(shapes[name])} was expected"
                )
            given[name] = array
        return given


def on_device(arrays: Mapping[str, DeviceArray], ordinal: int) -> None:
    """Raises InputError for an array that lies on another device."""
    for name, array in arrays.items():
        if array.device != ordinal:
            raise InputError(f"{name} lies on CUDA device {array.device}, and the engine on {ordinal}")


def listed(names: list[str]) -> str:
    """The first five, and how many more."""
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
