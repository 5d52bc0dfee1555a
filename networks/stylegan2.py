"""The elastic StyleGAN2 generator in the paper's own formulation: the reference that every engine is compared with.

Sources: StyleGAN2 (Karras et al., arXiv 1912.04958) and Anycost GAN (Lin et al., arXiv 2103.03243).
Parameter names are those of the published Anycost checkpoints, so that these load unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anycost.networks.channels import Architecture, Layer, Subnet, SubnetError

Noise = str | Sequence[Tensor]


def rsqrt_plus(x: Tensor) -> Tensor:
    """1 / sqrt(x + 1e-8), in a form that the exporter keeps: its optimizer takes numbers up to 1e-8 for 0, and without this
    one a zero latent or a dead channel would be divided by zero."""
    return torch.rsqrt(x * 1e8 + 1) * 1e4


class PixelNorm(nn.Module):
    """x * rsqrt(mean(x^2) + 1e-8) over the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        return x * rsqrt_plus(x.square().mean(dim=-1, keepdim=True))


class EqualLinear(nn.Module):
    """Linear layer with equalized learning rate: weight * lr_mul / sqrt(fan_in), bias * lr_mul, optional leaky ReLU."""

    def __init__(self, fan_in: int, fan_out: int, bias: float = 0.0, lr_mul: float = 1.0, activate: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in) / lr_mul)
        self.bias = nn.Parameter(torch.full((fan_out,), float(bias)))
        self.scale = lr_mul / sqrt(fan_in)
        self.lr_mul = lr_mul
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)
        return F.leaky_relu(x, 0.2) * sqrt(2) if self.activate else x


def fir_kernel(gain: float) -> Tensor:
    """The 4x4 binomial low-pass [1,3,3,1] x [1,3,3,1], normalised to the given gain."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps)
    return kernel / kernel.sum() * gain


def fir(x: Tensor, kernel: Tensor, up: int, pad: tuple[int, int]) -> Tensor:
    """Insert up-1 zeros after every sample, pad both axes by (before, after), convolve each channel with the kernel."""
    n, c, h, w = x.shape
    x = x.reshape(n * c, 1, h, 1, w, 1)
    x = F.pad(x, [0, up - 1, 0, 0, 0, up - 1]).reshape(n * c, 1, h * up, w * up)
    x = F.pad(x, [pad[0], pad[1], pad[0], pad[1]])
    x = F.conv2d(x, kernel.flip(0, 1)[None, None])
    return x.reshape(n, c, x.shape[2], x.shape[3])


class Blur(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", fir_kernel(4.0))


class ModulatedConv2d(nn.Module):
    """Convolution whose weights are scaled by a style, per image, and normalised (StyleGAN2, equations 1 and 3).

    Uses the first ``x.shape[1]`` input and ``leaving`` output channels. The equalizing scale is the full layer's.
    """

    def __init__(
        self, entering: int, leaving: int, kernel: int, style_dim: int, up: bool = False, demodulate: bool = True
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, leaving, entering, kernel, kernel))
        self.modulation = EqualLinear(style_dim, entering, bias=1.0)
        self.scale = 1 / sqrt(entering * kernel**2)
        self.demodulate = demodulate
        if up:
            self.blur = Blur()

    def forward(self, x: Tensor, w: Tensor, leaving: int) -> Tensor:
        n, entering, height, width = x.shape
        style = self.modulation(w)[:, None, :entering, None, None]
        weight = self.scale * self.weight[:, :leaving, :entering] * style
        if self.demodulate:
            weight = weight * torch.rsqrt(weight.square().sum([2, 3, 4], keepdim=True) + 1e-8)
        kernel = weight.shape[-1]
        x = x.reshape(1, n * entering, height, width)
        if not hasattr(self, "blur"):
            x = F.conv2d(x, weight.reshape(n * leaving, entering, kernel, kernel), padding=kernel // 2, groups=n)
            return x.reshape(n, leaving, height, width)
        weight = weight.transpose(1, 2).reshape(n * entering, leaving, kernel, kernel)
        x = F.conv_transpose2d(x, weight, stride=2, groups=n)
        return fir(x.reshape(n, leaving, *x.shape[2:]), self.blur.kernel, up=1, pad=(1, 1))


class NoiseInjection(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class Activation(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))


class StyledConv(nn.Module):
    """Modulated convolution, + noise_weight * noise, + bias, leaky ReLU 0.2, times sqrt 2."""

    def __init__(self, entering: int, leaving: int, style_dim: int, up: bool = False):
        super().__init__()
        self.conv = ModulatedConv2d(entering, leaving, 3, style_dim, up=up)
        self.noise = NoiseInjection()
        self.activate = Activation(leaving)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor, leaving: int) -> Tensor:
        x = self.conv(x, w, leaving) + self.noise.weight * noise
        return F.leaky_relu(x + self.activate.bias[:leaving, None, None], 0.2) * sqrt(2)


class ToRGB(nn.Module):
    """1x1 modulated convolution to an image, without demodulation, added to the upsampled image below it."""

    def __init__(self, entering: int, style_dim: int, up: bool = True):
        super().__init__()
        self.conv = ModulatedConv2d(entering, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        if up:
            self.upsample = Blur()

    def forward(self, x: Tensor, w: Tensor, below: Tensor | None) -> Tensor:
        image = self.conv(x, w, 3) + self.bias
        return image if below is None else image + fir(below, self.upsample.kernel, up=2, pad=(2, 1))


class ConstantInput(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class Generator(nn.Module):
    """Elastic generator. Arguments as in ``Architecture``; images are float [N, 3, R, R], nominally in [-1, 1].

    The whole way is ``mix(truncate(mapping(z)))`` then ``synthesis``; ``forward`` does it in one call.
    """

    def __init__(
        self,
        resolution: int,
        channel_multiplier: float = 2,
        channel_max: int = 512,
        style_dim: int = 512,
        n_mlp: int = 8,
    ):
        super().__init__()
        self.arch = Architecture(resolution, channel_multiplier, channel_max, style_dim, n_mlp)
        mlp = [EqualLinear(style_dim, style_dim, lr_mul=0.01, activate=True) for _ in range(n_mlp)]
        self.style = nn.Sequential(PixelNorm(), *mlp)
        width = self.arch.width
        self.input = ConstantInput(width(4))
        self.conv1 = StyledConv(width(4), width(4), style_dim)
        self.to_rgb1 = ToRGB(width(4), style_dim, up=False)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for res in (8 << i for i in range(int(log2(resolution)) - 2)):
            self.convs.append(StyledConv(width(res // 2), width(res), style_dim, up=True))
            self.convs.append(StyledConv(width(res), width(res), style_dim))
            self.to_rgbs.append(ToRGB(width(res), style_dim))
        self.noises = nn.Module()
        for layer in self.arch.full().layers():
            if layer.noise is not None:
                self.noises.register_buffer(
                    f"noise_{layer.noise}", torch.randn(1, 1, layer.resolution, layer.resolution)
                )

    def subnet(self, resolution: int, channels: float | Sequence[int], name: str | None = None) -> Subnet:
        """The sub-network at a resolution with a uniform ratio or per-layer channel counts (``Architecture.subnet``)."""
        return self.arch.subnet(resolution, channels if isinstance(channels, int | float) else tuple(channels), name)

    def mapping(self, z: Tensor) -> Tensor:
        """z [..., style_dim], standard normal -> w [..., style_dim]."""
        return self.style(z)

    @torch.no_grad()
    def mean_style(self, samples: int = 10_000, seed: int = 0) -> Tensor:
        """Mean of w over random z: [1, style_dim], the point that truncation pulls to."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(samples, self.arch.style_dim, generator=generator)
        return self.mapping(z).double().mean(0, keepdim=True).float()

    def noise(self, kind: Noise, net: Subnet, batch: int, generator: torch.Generator | None = None) -> list[Tensor]:
        """One [1 or batch, 1, H, H] tensor a layer: ``"stored"`` buffers, ``"random"``, ``"none"`` (zeros), or as given."""
        sides = [layer.resolution for layer in net.layers() if layer.noise is not None]
        stored = [self.noises.get_buffer(f"noise_{i}") for i in range(len(sides))]
        if kind == "stored":
            return stored
        if kind == "random":
            device = stored[0].device
            return [torch.randn(batch, 1, side, side, generator=generator, device=device) for side in sides]
        if kind == "none":
            return [torch.zeros_like(buffer) for buffer in stored]
        if isinstance(kind, str):
            raise ValueError(f"noise {kind!r} is not one of stored, random, none or a list of tensors")
        given = list(kind)
        if len(given) < len(sides):
            raise ValueError(f"{len(given)} noise tensors for {len(sides)} layers")
        return given[: len(sides)]

    def synthesis(
        self, w_plus: Tensor, noise: Noise = "stored", net: Subnet | None = None, all_images: bool = False
    ) -> Any:
        """w+ [N, n_style, style_dim] -> image [N, 3, R, R] of a sub-network (the full network by default).

        all_images: return the list of images of every resolution from 4 up instead.
        """
        net = net or self.arch.full()
        noises = self.noise(noise, net, w_plus.shape[0])
        x = self.input.input[:, : net.channels[0]].expand(w_plus.shape[0], -1, -1, -1)
        images: list[Tensor] = []
        for layer in net.layers():
            w = w_plus[:, layer.row]
            if layer.rgb:
                images.append(self._module(layer)(x, w, images[-1] if images else None))
            elif layer.noise is not None:
                x = self._module(layer)(x, w, noises[layer.noise], layer.leaving)
        return images if all_images else images[-1]

    def _module(self, layer: Layer) -> nn.Module:
        return self.get_submodule(layer.name)

    def forward(
        self,
        styles: Tensor,
        *,
        input_is_style: bool = False,
        truncation: float = 1.0,
        truncation_style: Tensor | None = None,
        inject_index: int | None = None,
        noise: Noise = "stored",
        net: Subnet | None = None,
    ) -> Tensor:
        """Image [N, 3, R, R] from z or w of shape [N, style_dim] or [N, K, style_dim], K = 1, 2 (mixing) or n_style.

        truncation: psi, w = (1 - psi) * truncation_style + psi * w; truncation_style defaults to ``mean_style()``.
        inject_index: with K = 2, rows below it take the first style and the others the second.
        """
        if styles.dim() == 2:
            styles = styles[:, None]
        w = styles if input_is_style else self.mapping(styles)
        if truncation != 1:
            mean = self.mean_style() if truncation_style is None else truncation_style
            w = truncate(w, mean, truncation)
        return self.synthesis(mix(w, self.arch.n_style, inject_index), noise, net)


def truncate(w: Tensor, mean: Tensor, psi: float) -> Tensor:
    """(1 - psi) * mean + psi * w (StyleGAN, arXiv 1812.04948, appendix B). mean broadcasts over w's leading axes."""
    return (1 - psi) * mean.reshape(-1) + psi * w


def mix(w: Tensor, n_style: int, inject_index: int | None = None) -> Tensor:
    """w [N, K, style_dim] -> w+ [N, n_style, style_dim]: K = 1 repeats, K = 2 crosses over at inject_index, K = n_style
    passes. Raises SubnetError for any other K and for an inject_index outside 0..n_style."""
    rows = w.shape[1]
    if rows == n_style:
        return w
    if rows == 1:
        return w.expand(-1, n_style, -1)
    if rows == 2:
        at = n_style // 2 if inject_index is None else inject_index
        if not 0 <= at <= n_style:
            raise SubnetError(f"inject_index {at} is outside 0..{n_style}")
        return torch.cat([w[:, :1].expand(-1, at, -1), w[:, 1:].expand(-1, n_style - at, -1)], dim=1)
    raise SubnetError(f"{rows} style rows: give 1, 2 (mixing) or {n_style}")
