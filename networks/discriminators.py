"""The discriminators of the elastic generator: StyleGAN2's, and the multi-resolution one that looks at the architecture.

Sources: StyleGAN2 (arXiv 1912.04958), figure 7; Anycost GAN (arXiv 2103.03243), sections 3.1 and 3.2. Parameter names are
Anycost GAN's.
"""

from __future__ import annotations

from math import log2

import torch
from torch import Tensor, nn

from anycost.networks.channels import Architecture, Subnet
from anycost.networks.residual import ConvLayer, ResBlock
from anycost.networks.stylegan2 import EqualLinear

GROUP = 4


def minibatch_deviation(x: Tensor, group: int = GROUP) -> Tensor:
    """x [N, C, H, W] -> [N, C + 1, H, W]: the mean standard deviation within groups of ``group`` images as a channel.

    A batch smaller than ``group`` is one group. Image i is in the group of the images i + k N / group. Raises ValueError
    for a batch that is no multiple of its group.
    """
    n, c, h, w = x.shape
    group = min(n, group)
    if n % group:
        raise ValueError(f"a batch of {n} images cannot be cut into groups of {group}")
    # sqrt(variance + 1e-8), see ``rsqrt_plus`` for the form.
    variance = x.reshape(group, n // group, c, h, w).var(0, unbiased=False)
    deviation = ((variance * 1e8 + 1).sqrt() * 1e-4).mean([1, 2, 3])
    return torch.cat([x, deviation.repeat(group)[:, None, None, None].expand(n, 1, h, w)], 1)


class _Head(nn.Module):
    """What both discriminators end with: from features [N, C, 4, 4] to logits [N, 1]."""

    def __init__(self, width: int):
        super().__init__()
        self.final_conv = ConvLayer(width + 1, width, 3)
        self.final_linear = nn.Sequential(
            EqualLinear(width * 16, width, activate=True),
            EqualLinear(width, 1),
        )

    def logits(self, x: Tensor) -> Tensor:
        return self.final_linear(self.final_conv(minibatch_deviation(x)).flatten(1))


class Discriminator(_Head):
    """StyleGAN2's residual discriminator. Image [N, 3, R, R] in [-1, 1] -> logit [N, 1], higher is more real."""

    def __init__(self, resolution: int, channel_multiplier: float = 2, channel_max: int = 512):
        width = Architecture(resolution, channel_multiplier, channel_max).width
        super().__init__(width(4))
        layers: list[nn.Module] = [ConvLayer(3, width(resolution), 1)]
        for i in range(int(log2(resolution)), 2, -1):
            layers.append(ResBlock(width(2**i), width(2 ** (i - 1))))
        self.convs = nn.Sequential(*layers)
        self.resolution = resolution

    def forward(self, image: Tensor) -> Tensor:
        return self.logits(self.convs(image))


class MultiResolutionDiscriminator(_Head):
    """One input layer for each of the ``n_res`` highest resolutions, and with ``modulate`` the last two residual blocks
    scaled and shifted by linear maps of the generator's architecture vector.

    Image [N, 3, R', R'] of any of these resolutions, g_arch [4 (2 log2 R - 2)], for all images or [N, ...] -> logit [N, 1].
    """

    def __init__(
        self,
        resolution: int,
        channel_multiplier: float = 2,
        channel_max: int = 512,
        n_res: int = 1,
        modulate: bool = False,
    ):
        width = Architecture(resolution, channel_multiplier, channel_max).width
        super().__init__(width(4))
        log_res = int(log2(resolution))
        self.resolutions = tuple(resolution >> i for i in range(n_res))
        self.convs = nn.ModuleList(ConvLayer(3, width(side), 1) for side in self.resolutions)
        self.blocks = nn.ModuleList()
        self.g_arch_length = 4 * (2 * log_res - 2) if modulate else 0
        for i in range(log_res, 2, -1):
            self.blocks.append(
                ResBlock(width(2**i), width(2 ** (i - 1)), g_arch=self.g_arch_length if i <= 4 else 0),
            )

    def forward(self, image: Tensor, g_arch: Tensor | None = None) -> Tensor:
        side = image.shape[-1]
        if side not in self.resolutions:
            raise ValueError(f"images of {side} px: this discriminator takes {', '.join(map(str, self.resolutions))}")
        first = self.resolutions.index(side)
        x = self.convs[first](image)
        for block in list(self.blocks)[first:]:
            x = block(x, g_arch)
        return self.logits(x)


def architecture_vector(arch: Architecture, net: Subnet) -> Tensor:
    """g_arch of a sub-network: for every 3x3 convolution and the constant input of the full generator a one-hot vector
    over the channel ratios 1/4, 1/2, 3/4, 1 (Anycost GAN, section 3.2), concatenated: [4 (2 log2 R - 2)].

    A uniform ratio is that of all layers, whatever the resolution, as in training; of a flexible list those above its
    resolution count as full.
    """
    full = arch.full().channels
    ratios = torch.full((len(full),), net.ratio or 1.0)
    if net.ratio is None:
        counts = torch.tensor(net.channels, dtype=torch.float32)
        ratios[: len(counts)] = counts / torch.tensor(full[: len(counts)], dtype=torch.float32)
    nearest = (ratios[:, None] - torch.tensor([0.25, 0.5, 0.75, 1.0])).abs().argmin(1)
    return torch.nn.functional.one_hot(nearest, 4).float().flatten()
