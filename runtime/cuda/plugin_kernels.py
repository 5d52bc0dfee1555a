"""What a plan keeps of a plugin that this package launches, and its launches on a device."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from anycost.errors import BackendError
from anycost.runtime.cuda.devices import CudaDevice
from anycost.runtime.cuda.driver import Cuda, KernelArguments
from anycost.runtime.cuda.program import Kernel, Launch, Place
from anycost.runtime.cuda.targets import best_target, shared_limit

_RECORD = "plugin.json"
_THREADS = 32  # of a warp


class PluginRecord(BaseModel):
    """inputs, output: tensors, in the order in which TensorRT gives their addresses. tactics: by TensorRT's number, from 1, a
    launch whose places are whole tensors; its grid is for one image, the last axis is multiplied by the output's batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["anycost-plugin"]
    format_version: Literal[1]
    inputs: tuple[str, ...]
    output: str
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    kernels: tuple[Kernel, ...]
    tactics: Annotated[dict[Annotated[int, Field(ge=1)], Launch], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> PluginRecord:
        for kernel in self.kernels:
            if set(kernel.images) != set(self.targets):
                raise ValueError(f"kernel {kernel.symbol!r} is for {sorted(kernel.images)}, not {sorted(self.targets)}")
        for tactic, launch in self.tactics.items():
            if launch.kernel >= len(self.kernels):
                raise ValueError(f"tactic {tactic} launches kernel {launch.kernel} of {len(self.kernels)}")
            for place in launch.places:
                if place.region not in (*self.inputs, self.output) or place.offset:
                    raise ValueError(f"tactic {tactic} takes {place.region!r} at {place.offset}, which is no tensor")
        return self


@dataclass(frozen=True)
class PluginKernels:
    """All that one plugin of a plan needs. images: machine code by the names in the record."""

    record: PluginRecord
    images: Mapping[str, bytes]

    def to_bytes(self) -> bytes:
        """A safetensors file of uint8 arrays: the record as JSON, and the machine code."""
        arrays = {name: np.frombuffer(image, np.uint8) for name, image in sorted(self.images.items())}
        record = self.record.model_dump_json(exclude_defaults=True).encode()
        return bytes(save_tensors(arrays | {_RECORD: np.frombuffer(record, np.uint8)}))

    @classmethod
    def from_bytes(cls, data: bytes) -> PluginKernels:
        """Raises BackendError for what ``to_bytes`` has not made."""
        try:
            arrays = load_tensors(data)
            record = PluginRecord.model_validate_json(arrays.pop(_RECORD).tobytes())
        except (SafetensorError, KeyError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise BackendError(f"a plan's plugin cannot be read: {reason}; rebuild the bundle") from None
        missing = {entry for kernel in record.kernels for entry in kernel.images.values()} - set(arrays)
        if missing:
            raise BackendError(f"a plan's plugin has no kernel {min(missing)}: rebuild the bundle")
        return cls(record, {name: array.tobytes() for name, array in arrays.items()})


@dataclass(frozen=True)
class _Bound:
    """A tactic on the device. places: the arguments that hold an address, each with its number among the tensors."""

    kernel: Any
    launch: Launch
    threads: int
    shared: int
    arguments: KernelArguments
    places: Sequence[tuple[ctypes.c_uint64, int]]


class PluginLauncher:
    """One plugin in one execution context, whose launches follow each other. Raises BackendError where its kernels do not run on
    the device."""

    def __init__(self, kernels: PluginKernels, device: CudaDevice, cuda: Cuda):
        record = kernels.record
        target = best_target(record.targets, device.target)
        if target is None:
            raise BackendError(
                f"tensorrt: the plan's plugins were built for {', '.join(record.targets)} and {device.name} is "
                f"{device.target}: build again with --target {device.target}"
            )
        most, limit = max(kernel.shared[target] for kernel in record.kernels), shared_limit(device.target)
        if most > limit:
            raise BackendError(
                f"tensorrt: a plugin needs {most} bytes of shared memory and a block of {device.name} may have {limit}: "
                f"build again with --target {device.target}"
            )
        self.kernels, self._device, self._cuda, self._target = kernels, device, cuda, target
        self._order = {name: i for i, name in enumerate((*record.inputs, record.output))}
        self._bound: dict[int, _Bound] = {}

    def again(self) -> PluginLauncher:
        """For another context: arguments of its own, the same code."""
        return PluginLauncher(self.kernels, self._device, self._cuda)

    def load(self, tactic: int) -> _Bound:
        """Make ready what may not be made while a run is captured. tactic: 0 for the first. Raises BackendError."""
        tactics = self.kernels.record.tactics
        tactic = tactic or min(tactics)
        if tactic in self._bound:
            return self._bound[tactic]
        if tactic not in tactics:
            raise BackendError(f"tensorrt: a plugin has tactics {sorted(tactics)}, not {tactic}: rebuild the bundle")
        launch = tactics[tactic]
        kernel = self.kernels.record.kernels[launch.kernel]
        shared = kernel.shared[self._target]
        code = self.kernels.images[kernel.images[self._target]]
        values: list[ctypes.c_uint64 | ctypes.c_int32] = []
        places = []
        for argument in launch.arguments:
            if isinstance(argument, Place):
                address = ctypes.c_uint64()
                values.append(address)
                places.append((address, self._order[argument.region]))
            else:
                values.append(ctypes.c_int32(argument))
        # Triton's two scratch buffers, which our kernels have none of.
        arguments = KernelArguments([*values, ctypes.c_uint64(0), ctypes.c_uint64(0)])
        loaded = self._cuda.load_kernel(code, kernel.symbol, shared)
        found = _Bound(loaded, launch, _THREADS * kernel.warps, shared, arguments, places)
        self._bound[tactic] = found
        return found

    def launch(self, tactic: int, batch: int, addresses: Sequence[int], stream: int) -> None:
        """addresses: of the inputs and the output, in the record's order. Raises BackendError."""
        bound = self.load(tactic)
        for value, i in bound.places:
            value.value = addresses[i]
        x, y, z = bound.launch.grid
        # The library's thread may have another context current while it builds.
        with self._cuda.active():
            grid = (x, y, z * batch)
            self._cuda.launch_kernel(bound.kernel, grid, bound.threads, bound.shared, bound.arguments, stream)
