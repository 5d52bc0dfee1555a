"""A mapping network that is built, not trained: w holds nearly one-hot options, so an affine of w can pick any of them.

Cross-entropy on a linear head of w does not give that: a linear map of z already answers it (logits = beta z), and then an
affine of w knows no more of the options than one of z. Here every block of z runs a winner-take-all competition instead
(MAXNET: Lippmann 1987, "An introduction to computing with neural nets"): x_i <- relu(x_i - theta * sum of the others).
Seven rounds fit the eight layers exactly, because relu(x) is a sum of leaky_relu(x) and leaky_relu(-x), and
leaky_relu(x) - leaky_relu(x - 1), which is 0.2 below 0 and 1 above 1, clips the winner to [0, 1].
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import torch
from torch import Tensor

from anycost.networks.stylegan2 import Generator
from recipes.avatars.data import Blocks

ENTERING = 3.5  # coordinates of a block that are above its first threshold, on average
THETA = 0.3  # how much a coordinate takes from the others in a round
GAIN = 1.25  # keeps the winner from fading
STEEP = 3.0  # of the clip: the share of undecided latents against the smoothness of interpolation
LEAK, ROOT2 = 0.2, sqrt(2)


@torch.no_grad()
def build(generator: Generator, blocks: Blocks) -> None:
    """Write the competition into ``generator.style``: w[:, :slots] is in [0, 1], the rest is 0."""
    slots, layers = blocks.size, generator.arch.n_mlp
    dim = generator.arch.style_dim
    if 2 * slots > dim or layers < 3:
        raise ValueError(f"{slots} slots need style_dim {2 * slots} and 3 layers: there are {dim} and {layers}")
    eye = torch.eye(slots)
    others = torch.block_diag(*[torch.ones(width, width) for width in blocks.widths]) - eye
    competition = GAIN * (eye - THETA * others)
    # Layer outputs carry the gain sqrt 2; rectified undoes it and joins each pair of units to relu(x).
    rectified = torch.cat([eye, LEAK * eye], 1) / ((1 - LEAK**2) * ROOT2)
    threshold = torch.cat([torch.full((w,), NormalDist().inv_cdf(1 - min(ENTERING / w, 0.5))) for w in blocks.widths])
    for layer in range(1, layers + 1):
        if layer == 1:
            x, bias = eye, -threshold
            weight, bias = torch.cat([x, -x]), torch.cat([bias, -bias])
        elif layer < layers - 1:
            x = competition @ rectified
            weight, bias = torch.cat([x, -x]), torch.zeros(2 * slots)
        elif layer == layers - 1:
            x = STEEP * competition @ rectified
            weight, bias = torch.cat([x, x]), torch.cat([torch.zeros(slots), -torch.ones(slots)])
        else:
            weight = torch.cat([eye, -eye], 1) / (ROOT2 * (1 - LEAK))
            bias = torch.full((slots,), -LEAK / (1 - LEAK))
        _write(generator.style[layer], weight, bias)


def _write(linear: torch.nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Store effective values in an equalized layer (weight * lr_mul / sqrt(fan_in), bias * lr_mul), zeros elsewhere."""
    lr_mul = 0.01
    linear.weight.zero_()
    linear.bias.zero_()
    linear.weight[: weight.shape[0], : weight.shape[1]] = weight * sqrt(linear.weight.shape[1]) / lr_mul
    linear.bias[: len(bias)] = bias / lr_mul
