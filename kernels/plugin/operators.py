"""The operators that TensorRT takes as plugins, as plain values: shapes, types, launches. Nothing here imports TensorRT.

One operator is one kernel. Tensors are linear in memory and mean what ``export.fused`` says: activations [N, H, W, C], noise
[N or 1, 1, H, W], images planar [N, 3, H, W]; sizes are known when an engine is built, but for the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from anycost.kernels.call import Call, Slot
from anycost.kernels.modulated_conv import configs as conv_configs
from anycost.kernels.modulated_conv import launch as conv_launch
from anycost.kernels.upfirdn import launch as fir_launch

NAMESPACE = "anycost"
# Types of a tensor: of the activations, float32, or either of them (noise: stored in the one, given in the other).
Kind = Literal["activation", "float32", "either"]
Shape = tuple[int, ...]
# A size while an engine is built: a number, or the library's expression of one.
Expression = Any
# Dynamic shared memory of a block that needs no leave of the driver, which nothing here can ask.
MOST_SHARED = 48 << 10
_ACTIVATIONS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Operator:
    """inputs: their names in order, each with its kind. batch: the input whose first axis is the batch of the output (that of
    others may be 1). shape(sizes by input) -> the output's sizes. configs: all block sizes. make(slots, out, config) -> launch.
    """

    name: str
    inputs: Mapping[str, Kind]
    output: Kind
    batch: str
    shape: Callable[[Mapping[str, Sequence[Expression]]], tuple[Expression, ...]]
    configs: Sequence[Any]
    make: Callable[[Mapping[str, Slot], Slot, Any], Call]

    @property
    def plugin_id(self) -> str:
        return f"{NAMESPACE}::{self.name}"

    def types(self, given: Sequence[torch.dtype]) -> tuple[torch.dtype, ...]:
        """Types of the inputs and the output for those that the network has. Raises TypeError, with the name, for a type that
        the kernel does not take."""
        by_name = dict(zip(self.inputs, given, strict=True))
        activation = by_name[next(name for name, kind in self.inputs.items() if kind == "activation")]
        for name, kind in self.inputs.items():
            known = {"activation": (activation,), "float32": (torch.float32,)}.get(kind, (activation, torch.float32))
            if by_name[name] not in known or activation not in _ACTIVATIONS:
                raise TypeError(f"input {name} of plugin {self.plugin_id} is {by_name[name]}: expected {known[0]}")
        return (*given, activation if self.output == "activation" else torch.float32)

    def tactics(self, shapes: Sequence[Shape]) -> list[int]:
        """Numbers, from 1, of the block sizes to try: all, or for a convolution those that fit its sizes best."""
        if "weight" not in self.inputs or self.inputs["weight"] == "float32":
            return list(range(1, len(self.configs) + 1))
        sizes = dict(zip(self.inputs, shapes, strict=True))
        _, height, width, channels = sizes["x"]
        best = conv_configs.conv_configs(height * width, channels, sizes["weight"][2])
        return [i for i, config in enumerate(self.configs, 1) if config in best]

    def call(self, shapes: Sequence[Shape], given: Sequence[torch.dtype], tactic: int) -> Call:
        """The launch for one image. shapes: of the inputs; an axis of the batch is anything but 1. tactic: from 1."""
        dtypes = self.types(given)
        slots = {}
        sizes: dict[str, Shape] = {}
        for (name, shape), dtype in zip(zip(self.inputs, shapes, strict=True), dtypes, strict=False):
            rest = shape[2:] if name == "noise" else shape[1:]
            shared = shape[0] == 1 or name in _CONSTANT
            slots[name] = Slot(name, shape if name in _CONSTANT else (1, *rest), dtype, shared)
            sizes[name] = shape
        out = Slot("out", (1, *self.shape(sizes)[1:]), dtypes[-1])
        return self.make(slots, out, self.configs[tactic - 1])


# Without a batch.
_CONSTANT = frozenset({"weight", "strength", "bias", "taps"})


def _conv(slots: Mapping[str, Slot], out: Slot, config: Any) -> Call:
    given: dict[str, Any] = {name: slot for name, slot in slots.items() if name not in ("x", "weight")}
    return conv_launch.conv3x3(slots["x"], slots["weight"], out, config=config, **given)


def _transposed(slots: Mapping[str, Slot], out: Slot, config: Any) -> Call:
    return conv_launch.conv_transpose3x3(slots["x"], slots["weight"], out, style=slots["style"], config=config)


def _finish(slots: Mapping[str, Slot], out: Slot, config: Any) -> Call:
    given: dict[str, Any] = {name: slot for name, slot in slots.items() if name != "x"}
    return fir_launch.finish(slots["x"], out, config=config, **given)


def _rgb(slots: Mapping[str, Slot], out: Slot, config: Any) -> Call:
    below, taps = slots.get("below"), slots.get("taps")
    return conv_launch.to_rgb(
        slots["x"], slots["weight"], slots["bias"], out, style=slots["style"], skip=below, taps=taps, config=config
    )


_AFTER: dict[str, Kind] = {"demodulation": "float32", "noise": "either", "strength": "float32", "bias": "float32"}
_CONV: dict[str, Kind] = {"x": "activation", "weight": "activation", "style": "float32"}
_RGB: dict[str, Kind] = {"x": "activation", "weight": "float32", "style": "float32", "bias": "float32"}
_SKIP: dict[str, Kind] = {"below": "float32", "taps": "float32"}

OPERATORS = (
    Operator(
        "ModulatedConv",
        _CONV | _AFTER,
        "activation",
        "style",
        lambda s: (s["style"][0], s["x"][1], s["x"][2], s["weight"][2]),
        conv_configs.CONV_CONFIGS,
        _conv,
    ),
    Operator(
        "ModulatedConvTranspose",
        _CONV,
        "activation",
        "style",
        lambda s: (s["style"][0], s["x"][1] * 2 + 1, s["x"][2] * 2 + 1, s["weight"][2]),
        conv_configs.CONV_CONFIGS,
        _transposed,
    ),
    Operator(
        "Finish",
        {"x": "activation", "taps": "float32", **_AFTER},
        "activation",
        "demodulation",
        lambda s: (s["demodulation"][0], s["x"][1] - 1, s["x"][2] - 1, s["x"][3]),
        fir_launch.FINISH_CONFIGS,
        _finish,
    ),
    Operator(
        "FirstToRGB",
        _RGB,
        "float32",
        "style",
        lambda s: (s["style"][0], 3, s["x"][1], s["x"][2]),
        conv_configs.RGB_CONFIGS,
        _rgb,
    ),
    Operator(
        "ToRGB",
        _RGB | _SKIP,
        "float32",
        "style",
        lambda s: (s["style"][0], 3, s["x"][1], s["x"][2]),
        conv_configs.RGB_CONFIGS,
        _rgb,
    ),
)
