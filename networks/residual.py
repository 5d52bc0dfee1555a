"""Equalized convolutions and residual blocks of StyleGAN2's discriminator, shared by every network that is built of them.

Source: StyleGAN2 (arXiv 1912.04958), figure 7. Names are those of rosinality's and Anycost GAN's checkpoints: a layer is
a sequence of [Blur,] EqualConv2d[, AdaptiveModulate][, FusedLeakyReLU].
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anycost.networks.stylegan2 import fir_kernel


class FirBlur(nn.Module):
    """The 4x4 binomial low-pass at gain 1 on every channel, padded by ``pad`` (before, after)."""

    def __init__(self, pad: tuple[int, int]):
        super().__init__()
        self.register_buffer("kernel", fir_kernel(1.0))
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        x = F.pad(x, [self.pad[0], self.pad[1], self.pad[0], self.pad[1]])
        return F.conv2d(x, self.kernel.expand(channels, 1, 4, 4), groups=channels)


class EqualConv2d(nn.Module):
    """Convolution without bias whose weights are scaled by 1 / sqrt(fan_in) when they are used."""

    def __init__(self, entering: int, leaving: int, kernel: int, stride: int = 1, padding: int = 0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(leaving, entering, kernel, kernel))
        self.scale = 1 / sqrt(entering * kernel**2)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x * self.scale, self.weight, stride=self.stride, padding=self.padding)


class FusedLeakyReLU(nn.Module):
    """+ bias, leaky ReLU 0.2, times sqrt 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias[:, None, None], 0.2) * sqrt(2)


class AdaptiveModulate(nn.Module):
    """x * (1 + A g) + B g: one scale and shift a channel from the architecture vector g of the generator (Anycost GAN, 3.2).

    g_arch: [L] or [1, L] for all images, or [N, L].
    """

    def __init__(self, channels: int, architecture: int):
        super().__init__()
        self.length = architecture
        self.weight_mapping = nn.Linear(architecture, channels)
        self.bias_mapping = nn.Linear(architecture, channels)

    def forward(self, x: Tensor, g_arch: Tensor) -> Tensor:
        g_arch = g_arch.reshape(-1, self.length)
        weight = 1 + self.weight_mapping(g_arch)
        bias = self.bias_mapping(g_arch)
        return x * weight[:, :, None, None] + bias[:, :, None, None]


class ConvLayer(nn.Sequential):
    """[blur and stride 2] convolution [modulation by g_arch] [bias, leaky ReLU].

    g_arch: length of the architecture vector, 0 for a layer that does not look at it.
    """

    def __init__(
        self, entering: int, leaving: int, kernel: int, down: bool = False, activate: bool = True, g_arch: int = 0
    ):
        layers: list[nn.Module] = []
        if down:
            # Two pixels less on both sides together than the filter and the kernel reach.
            pad = 2 + (kernel - 1)
            layers.append(FirBlur(((pad + 1) // 2, pad // 2)))
            layers.append(EqualConv2d(entering, leaving, kernel, stride=2))
        else:
            layers.append(EqualConv2d(entering, leaving, kernel, padding=kernel // 2))
        if g_arch:
            layers.append(AdaptiveModulate(leaving, g_arch))
        if activate:
            layers.append(FusedLeakyReLU(leaving))
        super().__init__(*layers)

    def forward(self, x: Tensor, g_arch: Tensor | None = None) -> Tensor:
        for module in self:
            x = module(x, g_arch) if isinstance(module, AdaptiveModulate) else module(x)
        return x


class ResBlock(nn.Module):
    """Two 3x3 layers, the second halving the picture where ``down``, plus a 1x1 skip, over sqrt 2."""

    def __init__(self, entering: int, leaving: int, down: bool = True, g_arch: int = 0):
        super().__init__()
        self.conv1 = ConvLayer(entering, entering, 3, g_arch=g_arch)
        self.conv2 = ConvLayer(entering, leaving, 3, down=down, g_arch=g_arch)
        self.skip: ConvLayer | None = None
        if down or entering != leaving:
            self.skip = ConvLayer(entering, leaving, 1, down=down, activate=False, g_arch=g_arch)

    def forward(self, x: Tensor, g_arch: Tensor | None = None) -> Tensor:
        y = self.conv2(self.conv1(x, g_arch), g_arch)
        return (y + (x if self.skip is None else self.skip(x, g_arch))) / sqrt(2)
