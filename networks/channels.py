"""Sub-networks of an elastic generator as plain values: channel counts, multiply-adds and parameter counts.

No PyTorch here: export plans with these numbers, tests check them, and the bundle records them.

Source: Anycost GANs for Interactive Image Synthesis and Editing (arXiv 2103.03243), section 3; StyleGAN2 (arXiv 1912.04958).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import log2

BASE_CHANNELS = {4: 4096, 8: 2048, 16: 1024, 32: 512, 64: 256, 128: 128, 256: 64, 512: 32, 1024: 16}
RATIOS = (0.25, 0.5, 0.75, 1.0)


class SubnetError(ValueError):
    """A sub-network that the given generator does not contain."""


@dataclass(frozen=True)
class Architecture:
    """The shape of a full generator.

    resolution: side of the full image in pixels, a power of two from 8 to 1024.
    channel_multiplier: scales ``BASE_CHANNELS``; 2 is StyleGAN2's config-f.
    channel_max: the cap on channels of one layer.
    style_dim: length of z and w. n_mlp: layers of the mapping network.
    """

    resolution: int
    channel_multiplier: float = 2.0
    channel_max: int = 512
    style_dim: int = 512
    n_mlp: int = 8

    def __post_init__(self) -> None:
        if self.resolution not in BASE_CHANNELS or self.resolution < 8:
            raise SubnetError(f"resolution {self.resolution} is not one of 8, 16, ..., 1024")
        if self.channel_multiplier <= 0 or self.channel_max < 1 or self.style_dim < 1 or self.n_mlp < 1:
            raise SubnetError(f"{self}: multiplier, channel_max, style_dim and n_mlp must be positive")

    @property
    def n_style(self) -> int:
        """Rows of w+: 2 log2(R) - 2."""
        return style_rows(self.resolution)

    def width(self, resolution: int, ratio: float = 1.0) -> int:
        """Channels at one resolution; the cap is applied after the ratio, as in the paper's code."""
        return max(1, min(self.channel_max, int(BASE_CHANNELS[resolution] * self.channel_multiplier * ratio)))

    def full(self) -> Subnet:
        """The whole generator as a sub-network of itself."""
        return self.subnet(self.resolution, 1.0)

    def subnet(self, resolution: int, channels: float | list[int] | tuple[int, ...], name: str | None = None) -> Subnet:
        """The sub-network at a resolution with a uniform ratio or a list of channel counts.

        resolution: 8 up to the full one. channels: a ratio in (0, 1], or one count for the constant input and one for
        every 3x3 convolution up to at least ``resolution`` (a longer list, made for a higher resolution, is cut).
        Raises SubnetError, with the numbers, when the generator does not contain it.
        """
        if resolution not in BASE_CHANNELS or not 8 <= resolution <= self.resolution:
            raise SubnetError(f"resolution {resolution} is not one of 8, 16, ..., {self.resolution}")
        full = _uniform(self, resolution, 1.0)
        if isinstance(channels, int | float):
            ratio = float(channels)
            if not 0 < ratio <= 1:
                raise SubnetError(f"channel ratio {ratio:g} is outside (0, 1]")
            return Subnet(name or f"{ratio:g}@{resolution}", resolution, _uniform(self, resolution, ratio), ratio)
        counts = tuple(int(c) for c in channels)
        if len(counts) < len(full):
            raise SubnetError(
                f"{len(counts)} channel counts for resolution {resolution}: {len(full)} are needed, one for the constant "
                "input and one for every 3x3 convolution"
            )
        counts = counts[: len(full)]
        for layer, (count, most) in enumerate(zip(counts, full, strict=True)):
            if not 1 <= count <= most:
                raise SubnetError(f"channel count {count} of layer {layer} is outside 1..{most}")
        return Subnet(name or "-".join(map(str, counts)) + f"@{resolution}", resolution, counts, None)

    def grid(self, resolutions: tuple[int, ...] | None = None, ratios: tuple[float, ...] = RATIOS) -> list[Subnet]:
        """The uniform grid, cheapest first: by default the four highest resolutions from 16 up, times ``RATIOS``."""
        if resolutions is None:
            resolutions = tuple(r for r in BASE_CHANNELS if max(16, self.resolution // 8) <= r <= self.resolution)
        nets = [self.subnet(resolution, ratio) for resolution in resolutions for ratio in ratios]
        return sorted(nets, key=lambda net: macs(net, self.style_dim))


@dataclass(frozen=True)
class Subnet:
    """A resolution and one channel count per layer: the constant input, then every 3x3 convolution in order.

    ratio is the uniform ratio it came from, None for a flexible one. The first ``k`` channels of every weight are used.
    """

    name: str
    resolution: int
    channels: tuple[int, ...]
    ratio: float | None = None

    def layers(self) -> list[Layer]:
        """Its 3x3 convolutions and to-RGBs in the order they run."""
        counts = self.channels
        found = [
            Layer("conv1", 4, counts[0], counts[1], up=False, rgb=False, row=0, noise=0),
            Layer("to_rgb1", 4, counts[1], 3, up=False, rgb=True, row=1, noise=None),
        ]
        for block in range(int(log2(self.resolution)) - 2):
            res = 8 << block
            entering, middle, leaving = counts[1 + 2 * block : 4 + 2 * block]
            row = 1 + 2 * block
            found += [
                Layer(f"convs.{2 * block}", res, entering, middle, up=True, rgb=False, row=row, noise=row),
                Layer(f"convs.{2 * block + 1}", res, middle, leaving, up=False, rgb=False, row=row + 1, noise=row + 1),
                Layer(f"to_rgbs.{block}", res, leaving, 3, up=False, rgb=True, row=row + 2, noise=None),
            ]
        return found


@dataclass(frozen=True)
class Layer:
    """One modulated convolution. resolution: of its output. row: which row of w+ styles it. noise: its noise buffer."""

    name: str
    resolution: int
    entering: int
    leaving: int
    up: bool
    rgb: bool
    row: int
    noise: int | None


def style_rows(resolution: int) -> int:
    """Rows of w+ that a generator of this resolution reads."""
    return 2 * int(log2(resolution)) - 2


def _uniform(arch: Architecture, resolution: int, ratio: float) -> tuple[int, ...]:
    counts = [arch.width(4, ratio)] * 2
    for block in range(int(log2(resolution)) - 2):
        counts += [arch.width(8 << block, ratio)] * 2
    return tuple(counts)


def macs(net: Subnet, style_dim: int = 512) -> int:
    """Multiply-adds for one image from w+: convolutions and style affines, without FIR filters and the mapping network.

    A stride-2 transposed convolution counts its input pixels, so that the figures are comparable with the paper's.
    """
    total = 0
    for layer in net.layers():
        side = layer.resolution // 2 if layer.up else layer.resolution
        kernel = 1 if layer.rgb else 9
        total += layer.entering * layer.leaving * kernel * side * side
        total += layer.entering * style_dim
    return total


def parameters(net: Subnet, style_dim: int = 512) -> int:
    """Parameters of the synthesis network: weights, affines, biases, noise strengths and the constant input."""
    total = net.channels[0] * 16
    for layer in net.layers():
        kernel = 1 if layer.rgb else 9
        total += layer.entering * layer.leaving * kernel + layer.entering * (style_dim + 1) + layer.leaving
        total += 0 if layer.rgb else 1
    return total


def parse_subnets(text: str, arch: Architecture) -> list[Subnet]:
    """``grid``, or a comma-separated list such as ``0.25@128,0.5@512`` (ratio @ resolution), in the order given."""
    if text.strip() == "grid":
        return arch.grid()
    found: dict[str, Subnet] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)@(\d{1,5})", part)
        if not match:
            raise SubnetError(
                f"sub-network {part!r} is not of the form RATIO@RESOLUTION, such as 0.5@{arch.resolution}"
            )
        net = arch.subnet(int(match[2]), float(match[1]))
        found[net.name] = net
    if not found:
        raise SubnetError("no sub-network was named: give grid, or RATIO@RESOLUTION separated by commas")
    return list(found.values())
