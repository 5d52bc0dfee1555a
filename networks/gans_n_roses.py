"""GANs N' Roses: one content in many styles, in both directions.

Source: Chong and Forsyth, arXiv 2106.06561. Parameter names are those of the published checkpoint (``G_A2B_ema``,
``G_B2A_ema``): the encoder is a StyleGAN2 discriminator's trunk with a content and a style head, the decoder a StyleGAN2
synthesis network that starts from the content, without noise and with one style for all layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log2, sqrt

from torch import Tensor, nn
from torch.nn import functional as F

from anycost.networks.channels import BASE_CHANNELS
from anycost.networks.residual import ConvLayer, ResBlock
from anycost.networks.stylegan2 import Activation, EqualLinear, ModulatedConv2d, ToRGB

# What the published model has: the base channels, at most 512.
CHANNELS = {side: min(512, width) for side, width in BASE_CHANNELS.items()}


class Encoder(nn.Module):
    """Image [N, 3, R, R] -> content [N, C, R / 2^num_down, R / 2^num_down] and style [N, latent_dim]."""

    def __init__(self, size: int, latent_dim: int, num_down: int, n_res: int, channels: Mapping[int, int]):
        super().__init__()
        side, width = size, channels[size]
        stem: list[nn.Module] = [ConvLayer(3, width, 1)]
        for _ in range(num_down):
            side //= 2
            stem.append(ResBlock(width, channels[side]))
            width = channels[side]
        stem += [ResBlock(width, width, down=False) for _ in range(n_res)]
        self.stem = nn.Sequential(*stem)
        self.content = nn.Sequential(ConvLayer(width, width, 1), ConvLayer(width, width, 1))
        style: list[nn.Module] = []
        while side > 4:
            side //= 2
            style.append(ConvLayer(width, channels[side], 3, down=True))
            width = channels[side]
        style += [
            nn.Flatten(),
            EqualLinear(channels[4] * 16, channels[4], activate=True),
            EqualLinear(channels[4], latent_dim),
        ]
        self.style = nn.Sequential(*style)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.stem(image)
        return self.content(features), self.style(features)


class StyledLayer(nn.Module):
    """StyleGAN2's modulated convolution, bias and leaky ReLU, without noise."""

    def __init__(self, entering: int, leaving: int, style_dim: int, up: bool = False):
        super().__init__()
        self.conv = ModulatedConv2d(entering, leaving, 3, style_dim, up=up)
        self.activate = Activation(leaving)
        self.leaving = leaving

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.conv(x, w, self.leaving)
        return F.leaky_relu(x + self.activate.bias[:, None, None], 0.2) * sqrt(2)


class StyledResBlock(nn.Module):
    def __init__(self, width: int, style_dim: int):
        super().__init__()
        self.conv1 = StyledLayer(width, width, style_dim)
        self.conv2 = StyledLayer(width, width, style_dim)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return (x + self.conv2(self.conv1(x, w), w)) / sqrt(2)


class GansNRoses(nn.Module):
    """One direction. size: pixels, 256 in the published model. channels: width by resolution. style_dim: width of the mapping.

    ``encode`` once, then ``decode`` its content with as many styles as wanted.
    """

    def __init__(
        self,
        size: int = 256,
        num_down: int = 4,
        latent_dim: int = 8,
        n_mlp: int = 5,
        n_res: int = 1,
        channels: Mapping[int, int] = CHANNELS,
        style_dim: int = 512,
    ):
        super().__init__()
        self.size, self.num_down, self.latent_dim, self.n_mlp, self.n_res = size, num_down, latent_dim, n_mlp, n_res
        self.channels, self.style_dim = dict(channels), style_dim
        entering = [latent_dim] + [style_dim] * (n_mlp - 1)
        self.mapping = nn.Sequential(*[EqualLinear(dim, style_dim, lr_mul=0.01, activate=True) for dim in entering])
        self.encoder = Encoder(size, latent_dim, num_down, n_res, channels)
        side = size >> num_down
        width = channels[side]
        self.adain_bottleneck = nn.ModuleList(StyledResBlock(width, style_dim) for _ in range(n_res))
        self.conv1 = StyledLayer(width, width, style_dim)
        self.to_rgb1 = ToRGB(width, style_dim, up=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for _ in range(int(log2(size)) - int(log2(side))):
            side *= 2
            self.convs.append(StyledLayer(width, channels[side], style_dim, up=True))
            self.convs.append(StyledLayer(channels[side], channels[side], style_dim))
            self.to_rgbs.append(ToRGB(channels[side], style_dim))
            width = channels[side]

    @property
    def content_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a content code."""
        side = self.size >> self.num_down
        return self.channels[side], side, side

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image [N, 3, size, size] in [-1, 1] -> content [N, C, h, w] and style [N, latent_dim]."""
        return self.encoder(image)

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        """content [N, C, h, w] and style [N, latent_dim] -> image [N, 3, size, size], nominally in [-1, 1]."""
        w = self.mapping(style)
        x = content
        for block in self.adain_bottleneck:
            x = block(x, w)
        x = self.conv1(x, w)
        image = self.to_rgb1(x, w, None)
        for i, to_rgb in enumerate(self.to_rgbs):
            x = self.convs[2 * i + 1](self.convs[2 * i](x, w), w)
            image = to_rgb(x, w, image)
        return image

    def forward(self, image: Tensor, style: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Image in the other domain with ``style``, or with its own style; its content; its own style."""
        content, own = self.encode(image)
        return self.decode(content, own if style is None else style), content, own
