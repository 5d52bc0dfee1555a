"""Ordering the channels of a generator by importance, so that a sub-network, which takes the first ones, takes the best.

Source: Anycost GAN (arXiv 2103.03243), section 3.2: channels are sorted by the magnitude of the kernels before adaptive
channel training. The order is a permutation inside the network: its full function does not change.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anycost.networks.channels import Layer
from anycost.networks.stylegan2 import Generator


@torch.no_grad()
def order_channels(generator: Generator, first: int = 4) -> list[Tensor]:
    """Sort, in place, the output channels of every 3x3 convolution at ``first`` px and above; returns the permutations.

    A channel's importance is the sum of |weight| over all that reads it: the next convolution and, where there is one, the
    to-RGB, each times the mean size of its style. The constant input is sorted with them when ``first`` is 4.
    """
    layers = generator.arch.full().layers()
    convolutions = [layer for layer in layers if not layer.rgb]
    permutations = []
    if first <= 4:
        order = _importance(generator, [convolutions[0]]).argsort(descending=True)
        generator.input.input.copy_(generator.input.input[:, order])
        _permute_inputs(generator, convolutions[0], order)
        permutations.append(order)
    for i, layer in enumerate(convolutions):
        if layer.resolution < first:
            continue
        readers = [
            other for other in layers if other.rgb and other.resolution == layer.resolution and _reads(other, layer)
        ]
        readers += convolutions[i + 1 : i + 2]
        order = _importance(generator, readers).argsort(descending=True)
        module = generator.get_submodule(layer.name)
        module.conv.weight.copy_(module.conv.weight[:, order])
        module.activate.bias.copy_(module.activate.bias[order])
        for reader in readers:
            _permute_inputs(generator, reader, order)
        permutations.append(order)
    return permutations


def _reads(rgb: Layer, layer: Layer) -> bool:
    """A to-RGB reads the last convolution of its resolution: the only one at 4 px, the one that does not enlarge above."""
    return not layer.up


def _importance(generator: Generator, readers: list[Layer]) -> Tensor:
    """[channels]"""
    found = []
    for reader in readers:
        conv = generator.get_submodule(reader.name).conv
        # The bias is the style of a mean w, to which the trained affines add a smaller part.
        found.append(conv.scale * conv.weight.abs().sum([0, 1, 3, 4]) * conv.modulation.bias.abs())
    return torch.stack(found).sum(0)


def _permute_inputs(generator: Generator, reader: Layer, order: Tensor) -> None:
    conv = generator.get_submodule(reader.name).conv
    conv.weight.copy_(conv.weight[:, :, order])
    conv.modulation.weight.copy_(conv.modulation.weight[order])
    conv.modulation.bias.copy_(conv.modulation.bias[order])
