"""The least that a launch has to do, read from the launch itself: the counterpart of each operator's ``work.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from anycost.kernels.bias_act.work import bias_act_work
from anycost.kernels.call import Call, Operand
from anycost.kernels.mapping.work import linear_work
from anycost.kernels.modulated_conv.work import (
    conv3x3_work,
    conv_transpose3x3_work,
    fuse_filter_work,
    styles_work,
    to_rgb_work,
)
from anycost.kernels.upfirdn.work import finish_work, upfirdn2d_work
from anycost.kernels.work import Work

Array = np.ndarray
Layers = list[tuple[int, int, int | None]]
# Operators by the names of their kernels; ``convolve`` has one for each form.
OPERATORS = {
    "finish_kernel": "finish",
    "rgb": "to_rgb",
    "affine_styles": "styles",
    "linear_kernel": "linear",
    "fuse": "fuse_filter",
    "upfirdn2d_kernel": "upfirdn2d",
    "bias_act_kernel": "bias_act",
}
FORMS = {"same": "conv3x3", "fused": "conv3x3 up", "transposed": "conv_transpose3x3"}


def operator_of(call: Call) -> str:
    """The operator's name. Raises ValueError for a kernel that is not one of the project's."""
    if call.name == "convolve":
        return FORMS[call.constants["FORM"]]
    if call.name not in OPERATORS:
        raise ValueError(f"kernel {call.name} is not an operator that is known here")
    return OPERATORS[call.name]


def half(call: Call) -> bool:
    """Whether its activations have 16 bits, so that tensor cores multiply them at their full rate."""
    return any(dtype in (torch.float16, torch.bfloat16) for dtype in map(_dtype, _operands(call)))


def layers_of(units: Array) -> Layers:
    """The layers of a table of ``styles``, as ``units_of`` took them: its rows that begin a layer."""
    rows = [[int(value) for value in row] for row in units if row[6] == 0]
    return [(row[0], row[3], None if row[4] < 0 else row[5]) for row in rows]


def work_of(call: Call, tables: Mapping[str, Array]) -> Work:
    """Of one image. tables: the content of operands that say what is computed, by their slots' names: ``units``."""
    a: Mapping[str, Any] = call.arguments
    c = call.constants
    operator = operator_of(call)
    if operator in ("conv3x3", "conv3x3 up"):
        sizes = (a["height"], a["width"], a["channels"], a["outputs"], a["x"].dtype)
        return conv3x3_work(*sizes, up=operator != "conv3x3", noise=c["HAS_NOISE"], splits=a["splits"])
    if operator == "conv_transpose3x3":
        sizes = (a["height"], a["width"], a["channels"], a["outputs"], a["x"].dtype)
        return conv_transpose3x3_work(*sizes, splits=a["splits"])
    if operator == "finish":
        return finish_work(
            tuple(a["out"].shape),
            a["out"].dtype,
            taps=c["HAS_TAPS"],
            demodulation=c["HAS_DEMODULATION"],
            noise=int(c["HAS_NOISE"]),
            noise_dtype=a["noise"].dtype,
            bias=c["HAS_BIAS"],
            next_style=c["HAS_NEXT"],
            activate=c["ACTIVATE"],
            parts=c["PARTS"],
        )
    if operator == "to_rgb":
        return to_rgb_work(a["height"], a["width"], a["channels"], a["x"].dtype, skip=c["HAS_SKIP"])
    if operator == "styles":
        return styles_work(layers_of(tables[a["units"].name]), a["dim"])
    if operator == "linear":
        return linear_work(1, a["entering"], a["leaving"], normalize=c["NORMALIZE"])
    if operator == "fuse_filter":
        return fuse_filter_work(a["channels"], a["outputs"], a["weight"].dtype)
    if operator == "upfirdn2d":
        return upfirdn2d_work(
            tuple(a["x"].shape),
            tuple(a["taps"].shape),
            (c["UP_X"], c["UP_Y"]),
            (c["DOWN_X"], c["DOWN_Y"]),
            padding_of(call),
            a["x"].dtype,
        )
    return bias_act_work(a["elements"], a["channels"] * c["HAS_BIAS"], a["x"].dtype, act=c["ACT"])


def padding_of(call: Call) -> tuple[int, int, int, int]:
    """(x0, x1, y0, y1) of an upfirdn2d, whose launch is told the first of each pair and the size of its result."""
    a, c = call.arguments, call.constants
    pairs = []
    for axis, size, result in (("x", "width", "out_width"), ("y", "height", "out_height")):
        name = axis.upper()
        before = _number(a[f"pad_{axis}"])
        whole = (_number(a[result]) - 1) * c[f"DOWN_{name}"] + c[f"TAPS_{name}"]
        pairs += [before, whole - before - _number(a[size]) * c[f"UP_{name}"]]
    return pairs[0], pairs[1], pairs[2], pairs[3]


def _number(value: Operand | int) -> int:
    assert isinstance(value, int)
    return value


def _operands(call: Call) -> list[Operand]:
    return [value for value in call.arguments.values() if not isinstance(value, int)]


def _dtype(operand: Operand) -> torch.dtype:
    return operand.dtype
