"""The operators as TensorRT's plugins with ahead-of-time kernels: what is built with them runs without Python and without Triton.

TensorRT asks each plugin for its output, for the block sizes to try (tactics), and for the kernel of each; it times them on the
device and keeps the fastest one's PTX in the engine.
"""

from __future__ import annotations

import inspect
from functools import cache
from types import GenericAlias, ModuleType
from typing import Any

import torch

from anycost.errors import BuildError
from anycost.kernels.plugin.operators import MOST_SHARED, OPERATORS, Operator
from anycost.kernels.plugin.ptx import Kernel, kernel

# As TensorRT's strings and attributes call them.
_WORDS = {torch.float32: "FP32", torch.float16: "FP16", torch.bfloat16: "BF16"}
_ATTRIBUTES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_registered: dict[int, _Registered] = {}


class _Registered:
    """The plugins of one module of TensorRT, which can be registered once; target: what their kernels are compiled for."""

    def __init__(self, trt: ModuleType, plugin: Any):
        self.trt, self.plugin, self.target = trt, plugin, ""
        self.dtypes = {getattr(trt, word): dtype for dtype, word in _ATTRIBUTES.items()}
        for operator in OPERATORS:
            self._register(operator)

    def _register(self, operator: Operator) -> None:
        """TensorRT reads names and types of arguments from the functions' signatures."""
        plugin = self.plugin

        def describe(*inputs: Any) -> Any:
            shapes = {name: tensor.shape_expr for name, tensor in zip(operator.inputs, inputs, strict=True)}
            found = inputs[0].like()
            found.shape_expr = plugin.ShapeExprs.from_tuple(operator.shape(shapes))
            types = operator.types([self.dtypes[tensor.dtype] for tensor in inputs])
            found.dtype = getattr(self.trt, _ATTRIBUTES[types[-1]])
            return found

        def tune(*given: Any) -> list[Any]:
            inputs = given[: len(operator.inputs)]
            types = operator.types([self.dtypes[tensor.dtype] for tensor in inputs])
            shapes = [tuple(tensor.shape) for tensor in inputs]
            tactics = [i for i in operator.tactics(shapes) if self._fits(operator, inputs, i)]
            tactics = tactics or [i for i in range(1, len(operator.configs) + 1) if self._fits(operator, inputs, i)]
            if not tactics:
                raise BuildError(f"plugin {operator.plugin_id} has no block sizes for {self.target}")
            return [plugin.AutoTuneCombination(", ".join(_WORDS[dtype] for dtype in types), "LINEAR", tactics)]

        def compiled(*given: Any) -> Any:
            inputs, tactic = given[: len(operator.inputs)], given[-1]
            made = self._kernel(operator, inputs, tactic)
            launch = plugin.KernelLaunchParams()
            launch.grid_x, launch.grid_y = made.grid[:2]
            launch.grid_z = dict(zip(operator.inputs, inputs, strict=True))[operator.batch].shape_expr[0]
            launch.block_x, launch.shared_mem = made.threads, made.shared
            integers = plugin.SymIntExprs(len(made.integers))
            for i, value in enumerate(made.integers):
                integers[i] = plugin.SymInt32(value)
            return made.symbol, made.ptx, launch, integers

        desc: Any = plugin.TensorDesc
        tensors = [(name, desc) for name in operator.inputs]
        outputs = ("outputs", GenericAlias(tuple, (desc,)))
        text = str | bytes
        kernels = GenericAlias(tuple, (text, text, plugin.KernelLaunchParams, plugin.SymExprs))
        combinations = GenericAlias(list, (plugin.AutoTuneCombination,))
        plugin.register(operator.plugin_id)(_signed(describe, tensors, desc))
        plugin.autotune(operator.plugin_id)(_signed(tune, [*tensors, outputs], combinations))
        plugin.aot_impl(operator.plugin_id)(_signed(compiled, [*tensors, outputs, ("tactic", int)], kernels))

    def _kernel(self, operator: Operator, inputs: Any, tactic: int) -> Kernel:
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        return _made(operator.name, shapes, tuple(self.dtypes[tensor.dtype] for tensor in inputs), tactic, self.target)

    def _fits(self, operator: Operator, inputs: Any, tactic: int) -> bool:
        return self._kernel(operator, inputs, tactic).shared <= MOST_SHARED


def register(trt: ModuleType, plugin: Any, target: str) -> None:
    """trt, plugin: the modules ``tensorrt`` and ``tensorrt.plugin``. target: the compute capability that kernels are compiled for
    from now on; PTX of one runs on it and, below sm_90, on all later ones. May be called again, for another target."""
    found = _registered.get(id(trt))
    if found is None:
        found = _registered[id(trt)] = _Registered(trt, plugin)
    found.target = target


@cache
def _made(
    name: str, shapes: tuple[tuple[int, ...], ...], dtypes: tuple[torch.dtype, ...], tactic: int, target: str
) -> Kernel:
    operator = next(operator for operator in OPERATORS if operator.name == name)
    return kernel(operator.call(shapes, dtypes, tactic), list(operator.inputs), "out", target)


def _signed(function: Any, parameters: list[tuple[str, Any]], returns: Any) -> Any:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    found = [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in parameters]
    function.__signature__ = inspect.Signature(found, return_annotation=returns)
    return function
