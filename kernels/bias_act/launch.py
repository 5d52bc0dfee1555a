"""The launch of bias_act, for tensors and ``Slot``s alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anycost.kernels.bias_act.bias_act_kernel import bias_act_kernel
from anycost.kernels.bias_act.functions import SELU_ALPHA, SELU_SCALE, activation
from anycost.kernels.call import Call, Operand, divisible, image_stride, run
from anycost.kernels.operands import ACTIVATIONS, expect

BLOCK = 1024  # elements a program


def bias_act_call(
    x: Operand,
    bias: Operand | None,
    out: Operand,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    block: int = BLOCK,
) -> Call:
    """out = clip(gain * act(x + bias)), as ``reference.bias_act`` says; x, out [N, ...], float32, float16 or bfloat16.

    bias: [x.shape[dim]], dim from 1 on. act: a name of ``functions.ACTIVATIONS``; alpha and gain: None for its own.
    """
    shape = tuple(x.shape)
    if not 1 <= dim < len(shape):
        raise ValueError(f"dim {dim} is no axis of {list(shape)} after the first, which counts images")
    if clamp is not None and clamp < 0:
        raise ValueError(f"clamp {clamp} is negative: give a bound on the absolute value, or None")
    chosen = activation(act, alpha, gain)
    images = out.shape[0]
    expect("out", out, (None, *shape[1:]), ACTIVATIONS, images)
    expect("x", x, (None, *shape[1:]), ACTIVATIONS, images)
    if bias is not None:
        expect("bias", bias, (shape[dim],), ACTIVATIONS)
    sizes = {
        "elements": math.prod(shape[1:]),
        "channels": shape[dim],
        "inner": math.prod(shape[dim + 1 :]),
        "x_stride": image_stride(x),
        "out_stride": image_stride(out),
    }
    return Call(
        kernel=bias_act_kernel,
        arguments={"x": x, "bias": out if bias is None else bias, "out": out, **sizes},
        constants={
            "HAS_BIAS": bias is not None,
            "ACT": act,
            "ALPHA": chosen.alpha,
            "GAIN": chosen.gain,
            "CLAMP": -1.0 if clamp is None else float(clamp),
            "SELU_ALPHA": SELU_ALPHA,
            "SELU_SCALE": SELU_SCALE,
            "BLOCK": block,
        },
        grid=(-(-sizes["elements"] // block), 1, images),
        aligned=divisible(**sizes),
    )


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """clip(gain * act(x + b)); arguments mean what they mean in stylegan3's ``bias_act``.

    x: any shape; b [x.shape[dim]] or None; clamp c: to [-c, c] -> a tensor of x's shape and type.
    """
    if not -x.dim() <= dim < x.dim():
        raise ValueError(f"dim {dim} is no axis of x {list(x.shape)}")
    x = x.contiguous()
    # A first axis of one image, so that any axis of x may carry the bias.
    out = torch.empty_like(x)
    if x.numel():
        bias = None if b is None else b.to(x.device).contiguous()
        run(bias_act_call(x[None], bias, out[None], dim % x.dim() + 1, act, alpha, gain, clamp))
    return out
