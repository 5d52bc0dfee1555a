"""What the kernel of this folder computes, in the type of its inputs."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from anycost.kernels.bias_act.functions import activation


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """clip(gain * act(x + b)): x of any shape, b [x.shape[dim]], clamp c to [-c, c] -> the shape of x."""
    chosen = activation(act, alpha, gain)
    if b is not None:
        x = x + b.reshape([-1 if axis == dim % x.dim() else 1 for axis in range(x.dim())])
    functions = {
        "linear": lambda t: t,
        "relu": F.relu,
        "lrelu": lambda t: F.leaky_relu(t, chosen.alpha),
        "tanh": lambda t: t.tanh(),
        "sigmoid": lambda t: t.sigmoid(),
        "elu": F.elu,
        "selu": F.selu,
        "softplus": F.softplus,
        "swish": lambda t: t * t.sigmoid(),
    }
    y = functions[act](x) * chosen.gain
    return y if clamp is None else y.clamp(-clamp, clamp)
