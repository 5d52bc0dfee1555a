"""Whether a launch has computed what it should: against the plain reference in float64, within bounds like its tests'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anycost.benchmarks.kernel_work import layers_of, operator_of, padding_of
from anycost.kernels.bias_act import reference as bias_act_reference
from anycost.kernels.call import Call
from anycost.kernels.mapping import reference as mapping_reference
from anycost.kernels.modulated_conv import reference as conv_reference
from anycost.kernels.upfirdn import reference as upfirdn_reference

# The largest relative error of one rounding to the nearest.
ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
# Of the largest result, for sums in float32 whose order differs from the reference's.
SUMS = 1e-5
# Tensor cores cut off what does not fit when they add, once for every 16 products.
_TRUNCATION, _PRODUCTS = 2.0**-23, 16
_OPTIONAL = {
    "taps": "HAS_TAPS",
    "style": "HAS_STYLE",
    "demodulation": "HAS_DEMODULATION",
    "noise": "HAS_NOISE",
    "strength": "HAS_STRENGTH",
    "bias": "HAS_BIAS",
    "next_style": "HAS_NEXT",
}


@dataclass(frozen=True)
class Check:
    """error: the largest, in parts of the largest expected value. of_bound: the largest in parts of what is allowed to it; NaN
    counts as infinite."""

    error: float
    of_bound: float

    @property
    def passed(self) -> bool:
        return self.of_bound <= 1


@dataclass(frozen=True)
class Expected:
    """What a launch leaves in one operand. value: float64. allowed: the error of each element, of value's shape or one number.
    summed: over which axis parts are added first, None for no parts."""

    name: str
    value: Tensor
    allowed: Tensor | float
    summed: int | None = None

    def check(self, call: Call) -> Check:
        found = call.arguments[self.name]
        assert isinstance(found, Tensor)
        result = found.double() if self.summed is None else found.double().sum(self.summed)
        error = (result - self.value).abs()
        largest = self.value.abs().max().clamp(min=1e-30)
        of_bound = (
            (error / torch.as_tensor(self.allowed, dtype=torch.float64, device=error.device).clamp(min=1e-300))
            .max()
            .item()
        )
        if error.isnan().any():
            return Check(float("inf"), float("inf"))
        return Check((error.max() / largest).item(), of_bound)


def expected(call: Call) -> list[Expected]:
    """Of a call on tensors of one image, from its inputs as they are: a call that overwrites them is not known here."""
    operator = operator_of(call)
    if operator in ("conv3x3", "conv3x3 up", "conv_transpose3x3"):
        return [_convolution(call, operator)]
    a: Mapping[str, Any] = call.arguments
    c = call.constants
    if operator == "styles":
        layers = layers_of(a["units"].cpu().numpy())
        found = conv_reference.styles(a["w_plus"], a["affine"], a["affine_bias"], a["energy"], a["peak"], layers)
        # Coefficients of layers differ in size: each by its own.
        return [
            Expected("style", found[0], _of_largest(found[0])),
            Expected("demodulation", found[1], SUMS * found[1].abs()),
        ]
    if operator == "finish":
        y = upfirdn_reference.finish(a["y"].double(), **_given(call), parts=c["PARTS"], activate=c["ACTIVATE"])
    elif operator == "to_rgb":
        skip = {"skip": a["skip"], "taps": a["taps"]} if c["HAS_SKIP"] else {}
        style = {"style": a["style"]} if c["HAS_STYLE"] else {}
        y = conv_reference.to_rgb(a["x"], a["weight"], a["bias"], **style, **skip)
    elif operator == "linear":
        x, weight, bias = (a[name].double() for name in ("x", "weight", "bias"))
        y = mapping_reference.linear(x, weight, bias, normalize=c["NORMALIZE"])
    elif operator == "fuse_filter":
        y = conv_reference.fuse_filter(a["weight"], a["taps"])
        return [Expected("out", y, ROUNDING[a["out"].dtype] * y.abs() + _of_largest(y))]
    elif operator == "upfirdn2d":
        x = a["x"].double().permute(0, 3, 1, 2)
        up, down = (c["UP_X"], c["UP_Y"]), (c["DOWN_X"], c["DOWN_Y"])
        y = upfirdn_reference.upfirdn2d(x, a["taps"], up, down, padding_of(call), c["FLIP"], c["GAIN"])
        y = y.permute(0, 2, 3, 1)
    else:
        bias = a["bias"].double() if c["HAS_BIAS"] else None
        clamp = None if c["CLAMP"] < 0 else c["CLAMP"]
        y = bias_act_reference.bias_act(a["x"].double(), bias, 1, c["ACT"], c["ALPHA"], c["GAIN"], clamp)
    return [Expected("out", y, _of_largest(y) + ROUNDING[a["out"].dtype] * y.abs().max().item())]


def _convolution(call: Call, operator: str) -> Expected:
    """Products with a style are rounded to the activations' type: an error in parts of the terms' absolute values."""
    a: Mapping[str, Any] = call.arguments
    splits, x, weight, given = a["splits"], a["x"], a["weight"], _given(call)
    if operator == "conv_transpose3x3":
        value = conv_reference.conv_transpose3x3(x, weight, **given)
    else:
        form = {"up": operator == "conv3x3 up", "activate": call.constants["ACTIVATE"]}
        value = conv_reference.conv3x3(x, weight, **given, **form)
    rounding = ROUNDING[a["out"].dtype] * value.abs()
    if "style" in given:
        sizes = {name: given[name].abs() for name in ("style", "demodulation", "next_style") if name in given}
        if operator == "conv_transpose3x3":
            terms = conv_reference.conv_transpose3x3(x.abs(), weight.abs(), **sizes)
        else:
            up = operator == "conv3x3 up"
            terms = conv_reference.conv3x3(x.abs(), weight.abs(), **sizes, activate=False, up=up)
        rounding = rounding + ROUNDING[x.dtype] * terms
    steps = 0 if x.dtype is torch.float32 else -(-9 * a["channels"] // _PRODUCTS)
    sums = (SUMS + steps * _TRUNCATION) * value.abs().max().item()
    return Expected("out", value, rounding + sums, 1 if splits > 1 else None)


def _given(call: Call) -> dict[str, Tensor]:
    """The operands that may be absent and are not, in float64."""
    found = {}
    for name, flag in _OPTIONAL.items():
        if call.constants.get(flag):
            value = call.arguments[name]
            assert isinstance(value, Tensor)
            found[name] = value.double()
    return found


def _of_largest(value: Tensor) -> float:
    return SUMS * value.abs().max().item()
