"""StyleGAN: a mapping network and a progressive synthesis network with adaptive instance normalisation.

Source: Karras et al., arXiv 1812.04948. Parameter names are those of rosinality's style-based-gan-pytorch, equalized weights
being called ``weight_orig``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anycost.networks.stylegan2 import rsqrt_plus

# Output channels of the blocks from 4 to 1024 px.
WIDTHS = (512, 512, 512, 512, 256, 128, 64, 32, 16)
_FUSED_FROM = 128  # px: from here on upsampling and convolution are one transposed convolution


class _Equal(nn.Module):
    """weight_orig times sqrt(2 / fan_in), and a bias."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight_orig = nn.Parameter(torch.randn(*shape))
        self.bias = nn.Parameter(torch.zeros(shape[0]))
        self.scale = sqrt(2 / self.weight_orig[0].numel())


class EqualLinear(nn.Module):
    def __init__(self, entering: int, leaving: int):
        super().__init__()
        self.linear = _Equal(leaving, entering)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x * self.linear.scale, self.linear.weight_orig, self.linear.bias)


class EqualConv2d(nn.Module):
    def __init__(self, entering: int, leaving: int, kernel: int):
        super().__init__()
        self.conv = _Equal(leaving, entering, kernel, kernel)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        return F.conv2d(x * conv.scale, conv.weight_orig, conv.bias, padding=conv.weight_orig.shape[-1] // 2)


class FusedUpsample(nn.Module):
    """Stride-2 transposed convolution by the average of four shifted copies of a 3x3 kernel, and a bias.

    Averaging shifted kernels is averaging shifted pictures, so the 3x3 convolution comes first and a 2x2 mean follows.
    """

    def __init__(self, entering: int, leaving: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(entering, leaving, 3, 3))
        self.bias = nn.Parameter(torch.zeros(leaving))
        self.scale = sqrt(2 / (entering * 9))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv_transpose2d(x * self.scale, self.weight, stride=2)
        return F.avg_pool2d(y, 2, stride=1) + self.bias[:, None, None]


class Blur(nn.Module):
    """[1, 2, 1] x [1, 2, 1] over 16 on every channel. ``weight_flip`` served the original's gradient; it is only kept."""

    def __init__(self, channels: int):
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0])
        kernel = (torch.outer(taps, taps) / 16).expand(channels, 1, 3, 3).clone()
        self.register_buffer("weight", kernel)
        self.register_buffer("weight_flip", kernel.flip(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, padding=1, groups=x.shape[1])


class AdaptiveInstanceNorm(nn.Module):
    """gamma(w) * (x - mean) / deviation + beta(w), mean and deviation over each channel of each image."""

    def __init__(self, channels: int, style_dim: int):
        super().__init__()
        self.style = EqualLinear(style_dim, 2 * channels)
        with torch.no_grad():
            self.style.linear.bias[:channels] = 1

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        gamma, beta = self.style(w)[:, :, None, None].chunk(2, 1)
        return gamma * F.instance_norm(x) + beta


class NoiseInjection(nn.Module):
    """x + weight * noise, one weight a channel, equalized by sqrt(2 / channels)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight_orig = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scale = sqrt(2 / channels)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + self.weight_orig * self.scale * noise


class _Constant(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class StyledBlock(nn.Module):
    """Twice: (constant, upsampling or) convolution, noise, leaky ReLU 0.2, adaptive instance norm."""

    def __init__(self, entering: int, leaving: int, side: int, style_dim: int):
        super().__init__()
        if side == 4:
            self.conv1: nn.Module = _Constant(leaving)
        elif side < _FUSED_FROM:
            self.conv1 = nn.Sequential(nn.Upsample(scale_factor=2), EqualConv2d(entering, leaving, 3), Blur(leaving))
        else:
            self.conv1 = nn.Sequential(FusedUpsample(entering, leaving), Blur(leaving))
        self.noise1 = NoiseInjection(leaving)
        self.adain1 = AdaptiveInstanceNorm(leaving, style_dim)
        self.conv2 = EqualConv2d(leaving, leaving, 3)
        self.noise2 = NoiseInjection(leaving)
        self.adain2 = AdaptiveInstanceNorm(leaving, style_dim)

    def forward(self, x: Tensor | None, w: Tensor, noise: Tensor) -> Tensor:
        if x is None:
            assert isinstance(self.conv1, _Constant)
            y = self.conv1.input.expand(w.shape[0], -1, -1, -1)
        else:
            y = self.conv1(x)
        y = self.adain1(F.leaky_relu(self.noise1(y, noise), 0.2), w)
        return self.adain2(F.leaky_relu(self.noise2(self.conv2(y), noise), 0.2), w)


class _Synthesis(nn.Module):
    def __init__(self, style_dim: int, blocks: int):
        super().__init__()
        entering = (WIDTHS[0], *WIDTHS)
        self.progression = nn.ModuleList(StyledBlock(entering[i], WIDTHS[i], 4 << i, style_dim) for i in range(blocks))
        self.to_rgb = nn.ModuleList(EqualConv2d(WIDTHS[i], 3, 1) for i in range(blocks))


def without_untrained(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the last blocks that training never reached: those files hold nine blocks whatever the resolution they were
    trained to, and one that was never used still has zeros for its noise weights and its biases."""
    found = dict(tensors)
    for block in range(len(WIDTHS) - 1, 0, -1):
        inside = f"generator.progression.{block}."
        fresh = [
            tensor
            for name, tensor in found.items()
            if name.startswith((f"{inside}noise", f"generator.to_rgb.{block}.conv.bias", f"{inside}conv2.conv.bias"))
        ]
        if not fresh:
            continue
        if any(bool(tensor.any()) for tensor in fresh):
            break
        unused = (inside, f"generator.to_rgb.{block}.")
        found = {name: tensor for name, tensor in found.items() if not name.startswith(unused)}
    return found


class StyleGan1(nn.Module):
    """z [N, code_dim] -> image [N, 3, 4 * 2^step, ...], nominally in [-1, 1]; step 8 is 1024 px.

    blocks: of the checkpoint, 9 when it goes up to 1024 px.
    """

    def __init__(self, code_dim: int = 512, n_mlp: int = 8, blocks: int = 9):
        super().__init__()
        self.code_dim, self.blocks = code_dim, blocks
        self.generator = _Synthesis(code_dim, blocks)
        layers: list[nn.Module] = [nn.Identity()]
        for _ in range(n_mlp):
            layers += [EqualLinear(code_dim, code_dim), nn.LeakyReLU(0.2)]
        self.style = nn.Sequential(*layers)

    def mapping(self, z: Tensor) -> Tensor:
        """z [N, code_dim] -> w [N, code_dim]."""
        return self.style(z * rsqrt_plus(z.square().mean(dim=1, keepdim=True)))

    def synthesis(self, w: Tensor, noise: Sequence[Tensor], step: int, alpha: float = -1) -> Tensor:
        """w and one noise [N, 1, 4 * 2^i, ...] a block up to ``step`` -> image.

        alpha: in [0, 1) the weight of this step's image against the enlarged one of the step below (progressive growing).
        """
        x: Tensor | None = None
        below: Tensor | None = None
        for i in range(step + 1):
            below, x = x, self.generator.progression[i](x, w, noise[i])
        assert x is not None
        image = self.generator.to_rgb[step](x)
        if below is not None and 0 <= alpha < 1:
            small = F.interpolate(self.generator.to_rgb[step - 1](below), scale_factor=2, mode="nearest")
            image = (1 - alpha) * small + alpha * image
        return image

    def forward(self, z: Tensor, noise: Sequence[Tensor], step: int | None = None, alpha: float = -1) -> Tensor:
        return self.synthesis(self.mapping(z), noise, self.blocks - 1 if step is None else step, alpha)
