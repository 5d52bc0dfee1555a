"""The activation functions of bias_act, with stylegan3's names and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True)
class Activation:
    """alpha: the slope of lrelu for x < 0; others have none. gain: what the result is multiplied by unless another is given."""

    alpha: float = 0.0
    gain: float = 1.0


ACTIVATIONS = {
    "linear": Activation(),
    "relu": Activation(gain=sqrt(2)),
    "lrelu": Activation(alpha=0.2, gain=sqrt(2)),
    "tanh": Activation(),
    "sigmoid": Activation(),
    "elu": Activation(),
    "selu": Activation(),
    "softplus": Activation(),
    "swish": Activation(gain=sqrt(2)),
}
# Klambauer et al., "Self-Normalizing Neural Networks" (arXiv 1706.02515): the negative side's scale, and that of both.
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


def activation(name: str, alpha: float | None, gain: float | None) -> Activation:
    """The function's alpha and gain, the default ones for None; ValueError for a name that is not known."""
    if name not in ACTIVATIONS:
        raise ValueError(f"no activation function {name!r}: choose one of {', '.join(ACTIVATIONS)}")
    default = ACTIVATIONS[name]
    return Activation(default.alpha if alpha is None else float(alpha), default.gain if gain is None else float(gain))
