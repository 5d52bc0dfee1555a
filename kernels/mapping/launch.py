"""The launch of a layer of the mapping network, for tensors and ``Slot``s alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from anycost.kernels.call import Call, Operand, divisible, image_stride
from anycost.kernels.mapping.linear_kernel import linear_kernel
from anycost.kernels.operands import expect

_FLOAT = (torch.float32,)


@dataclass(frozen=True)
class LinearConfig:
    """leaving: outputs a program. entering: inputs that it multiplies at a time."""

    leaving: int = 16
    entering: int = 128
    warps: int = 4
    stages: int = 2


LINEAR = LinearConfig()
# One image leaves a device idle unless there are many programs; each reads runs of at least 32 bytes of a row of the weights.
LINEAR_CONFIGS = (
    LINEAR,
    LinearConfig(leaving=8, entering=256),
    LinearConfig(leaving=32),
    LinearConfig(entering=256, warps=8),
)


def linear(
    x: Operand, weight: Operand, bias: Operand, out: Operand, *, normalize: bool, config: LinearConfig = LINEAR
) -> Call:
    """out [N, O] = leaky(x weight + bias), all float32: x [N, I], weight [I, O], bias [O]; slope 0.2, no gain.

    normalize: x is divided by the root of its mean square (plus 1e-8) first, as the mapping network does with z.
    """
    expect("weight", weight, (None, None), _FLOAT)
    entering, leaving = weight.shape
    expect("bias", bias, (leaving,), _FLOAT)
    images = out.shape[0]
    expect("out", out, (None, leaving), _FLOAT, images)
    expect("x", x, (None, entering), _FLOAT, images)
    sizes = {"entering": entering, "leaving": leaving, "x_stride": image_stride(x), "out_stride": image_stride(out)}
    return Call(
        kernel=linear_kernel,
        arguments={"x": x, "weight": weight, "bias": bias, "out": out, **sizes},
        constants={"NORMALIZE": normalize, "BLOCK_I": config.entering, "BLOCK_O": config.leaving},
        grid=(-(-leaving // config.leaving), 1, images),
        warps=config.warps,
        stages=config.stages,
        aligned=divisible(**sizes),
    )
