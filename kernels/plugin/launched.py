"""The operators as IPluginV3 classes, for a TensorRT that has no plugins with ahead-of-time kernels (10.3 to 10.7).

TensorRT asks each plugin for its output, for the block sizes to try (tactics), and has it launch each to time it. The plan keeps
machine code of all of them, and the number of the fastest; running it needs ``runtime.cuda.tensorrt_plugins``, and so Python.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import torch

from anycost.errors import BuildError
from anycost.kernels.call import Call, Slot
from anycost.kernels.compile import compile_calls, kernel_key
from anycost.kernels.plugin.operators import OPERATORS, Kind, Operator, Shape
from anycost.runtime.cuda import program
from anycost.runtime.cuda.devices import CudaDevice
from anycost.runtime.cuda.driver import Cuda
from anycost.runtime.cuda.plugin_kernels import PluginKernels, PluginLauncher, PluginRecord
from anycost.runtime.cuda.targets import best_target
from anycost.runtime.cuda.tensorrt_plugins import Plugins, plugin_class
from anycost.runtime.cuda.tensorrt_plugins import register as register_creators

_BY_NAME = {operator.name: operator for operator in OPERATORS}
_ATTRIBUTES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_OUT = "out"
_DIGITS = 16  # of the sha256 by which images are named


def register(trt: ModuleType, device: CudaDevice, cuda: Cuda, targets: Sequence[str]) -> None:
    """trt: the module ``tensorrt``. device, cuda: where tactics are timed. targets: what kernels are compiled for from now on,
    and the device's own, where none of them runs on it. May be called again, for others. Raises BackendError."""
    found = register_creators(trt, device, cuda)
    aims = tuple(targets) if best_target(targets, device.target) else (*targets, device.target)
    found.build = lambda name: _build_class(trt)(_BY_NAME[name], found, aims)


def allowed(operator: Operator, position: int, given: Sequence[torch.dtype | None]) -> bool:
    """Whether a plugin takes the type of the tensor at a position, inputs first and then the output, with those before it."""
    kind: Kind = [*operator.inputs.values(), operator.output][position]
    known = {"activation": (given[0],), "float32": (torch.float32,), "either": (given[0], torch.float32)}[kind]
    return given[position] is not None and given[position] in known


@cache
def plugin_kernels(
    name: str, shapes: tuple[Shape, ...], dtypes: tuple[torch.dtype, ...], targets: tuple[str, ...]
) -> PluginKernels:
    """What a plan keeps of a plugin. shapes, dtypes: of its inputs; an axis of the batch is anything but 1.

    Tactics that some target has too little shared memory for are left out; where all that suit the layer best are, the others
    are taken. Raises BuildError where none is left, or for a kernel that cannot be compiled.
    """
    operator = _BY_NAME[name]
    for numbers in (operator.tactics(shapes), range(1, len(operator.configs) + 1)):
        calls = {number: operator.call(shapes, dtypes, number) for number in numbers}
        compiled = compile_calls(calls.values(), targets)
        fitting = {
            number: call
            for number, call in calls.items()
            if all(compiled[kernel_key(call), target].fits(target) for target in targets)
        }
        if fitting:
            break
    else:
        raise BuildError(f"plugin {operator.plugin_id} has no block sizes for {', '.join(targets)}: give fewer targets")
    images: dict[str, bytes] = {}
    keys = list(dict.fromkeys(kernel_key(call) for call in fitting.values()))
    kernels = []
    for key in keys:
        made = {target: compiled[key, target] for target in targets}
        names = {target: hashlib.sha256(one.image).hexdigest()[:_DIGITS] for target, one in made.items()}
        images |= {names[target]: one.image for target, one in made.items()}
        one = made[targets[0]]
        shared = {target: found.shared for target, found in made.items()}
        kernels.append(program.Kernel(symbol=one.symbol, warps=one.warps, images=names, shared=shared))
    record = PluginRecord(
        format="anycost-plugin",
        format_version=1,
        inputs=tuple(operator.inputs),
        output=_OUT,
        targets=targets,
        kernels=tuple(kernels),
        tactics={number: _launch(call, keys.index(kernel_key(call))) for number, call in fitting.items()},
    )
    return PluginKernels(record, images)


def _launch(call: Call, kernel: int) -> program.Launch:
    arguments: list[int | program.Place] = []
    for name, value in call.arguments.items():
        if isinstance(value, int):
            arguments.append(value)
        elif isinstance(value, Slot) and value.base is None:
            arguments.append(program.Place(region=value.name))
        else:
            raise BuildError(f"argument {name} of kernel {call.name} is no whole tensor, as a plugin's are")
    return program.Launch(kernel=kernel, grid=call.grid, arguments=tuple(arguments))


class _Size:
    """A size while a network is defined, with the operations that shapes are computed by."""

    def __init__(self, trt: Any, builder: Any, expression: Any):
        self._trt, self._builder, self.expression = trt, builder, expression

    def _with(self, operation: str, other: int | _Size) -> _Size:
        second = self._builder.constant(other) if isinstance(other, int) else other.expression
        kind = getattr(self._trt.DimensionOperation, operation)
        return _Size(self._trt, self._builder, self._builder.operation(kind, self.expression, second))

    def __add__(self, other: int | _Size) -> _Size:
        return self._with("SUM", other)

    def __sub__(self, other: int | _Size) -> _Size:
        return self._with("SUB", other)

    def __mul__(self, other: int | _Size) -> _Size:
        return self._with("PROD", other)


@cache
def _build_class(trt: Any) -> Any:
    base = plugin_class(trt)
    dtypes: Mapping[Any, torch.dtype] = {getattr(trt, word): dtype for dtype, word in _ATTRIBUTES.items()}

    class BuildPlugin(base, trt.IPluginV3OneBuild):  # type: ignore[misc, name-defined, valid-type]
        """A plugin of a network, which has all three capabilities."""

        def __init__(self, operator: Operator, plugins: Plugins, targets: tuple[str, ...]) -> None:
            base.__init__(self, operator.name)
            trt.IPluginV3OneBuild.__init__(self)
            self.num_outputs = 1
            # Tactics are numbers of block sizes: measured ones are of no use when these have changed.
            self.timing_cache_id = hashlib.sha256(repr((operator.configs, targets)).encode()).hexdigest()[:_DIGITS]
            self.operator, self.plugins, self.targets = operator, plugins, targets

        def _new(self) -> Any:
            return BuildPlugin(self.operator, self.plugins, self.targets)

        def get_capability_interface(self, type: Any) -> Any:
            return self

        def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
            types = self.operator.types([dtypes[kind] for kind in input_types])
            return [getattr(trt, _ATTRIBUTES[types[-1]])]

        def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], builder: Any) -> list[Any]:
            sizes = {
                name: [_Size(trt, builder, shape[i]) for i in range(len(shape))]
                for name, shape in zip(self.operator.inputs, inputs, strict=True)
            }
            found = self.operator.shape(sizes)
            return [trt.DimsExprs([builder.constant(n) if isinstance(n, int) else n.expression for n in found])]

        def supports_format_combination(self, pos: int, in_out: Sequence[Any], num_inputs: int) -> bool:
            # Tensors after this one are not to be looked at.
            seen = [dtypes.get(tensor.desc.type) for tensor in in_out[: pos + 1]]
            return in_out[pos].desc.format == trt.TensorFormat.LINEAR and allowed(self.operator, pos, seen)

        def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            shapes = tuple(tuple(tensor.desc.dims) for tensor in inputs)
            given = tuple(dtypes[tensor.desc.type] for tensor in inputs)
            kernels = plugin_kernels(self.operator.name, shapes, given, self.targets)
            self.launcher = PluginLauncher(kernels, self.plugins.device, self.plugins.cuda)

        def get_valid_tactics(self) -> list[int]:
            """Of the sizes and types that were last configured."""
            if self.launcher is None:
                raise BuildError(f"TensorRT asks {self.operator.plugin_id} for tactics before it says the sizes")
            return sorted(self.launcher.kernels.record.tactics)

    return BuildPlugin
