"""Block sizes of the kernels here: the default of each, and those that autotuning on a device tries.

What they need of a device's shared memory is tested by compiling them (``tests/kernels``), and ``fits`` says where they may run.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from anycost.runtime.cuda.targets import shared_limit


@dataclass(frozen=True)
class ConvConfig:
    """Of ``convolve``: a program's pixels, outputs, and channels of a tap at a time, each a power of two from 16."""

    pixels: int
    outputs: int
    channels: int
    warps: int
    stages: int

    @property
    def label(self) -> str:
        return f"{self.pixels}x{self.outputs}x{self.channels}-{self.warps}w{self.stages}s"


@dataclass(frozen=True)
class BlockConfig:
    """Of ``fuse``: weights of one tap a program."""

    block: int
    warps: int


@dataclass(frozen=True)
class RgbConfig:
    """Of ``rgb``: a program's pixels, and channels at a time."""

    pixels: int
    channels: int
    warps: int
    stages: int

    @property
    def label(self) -> str:
        return f"{self.pixels}x{self.channels}-{self.warps}w{self.stages}s"


@dataclass(frozen=True)
class StylesConfig:
    """Of ``affine_styles``: a program's outputs (the ``block`` of the table that it is given), and channels and entries of w at a
    time."""

    outputs: int
    channels: int
    dim: int
    warps: int
    stages: int

    @property
    def label(self) -> str:
        return f"{self.outputs}x{self.channels}x{self.dim}-{self.warps}w{self.stages}s"


# The largest first. Few registers are left with 128 x 128 sums, so 8 warps share them.
CONV_CONFIGS = (
    ConvConfig(128, 128, 64, 8, 3),
    ConvConfig(128, 128, 32, 8, 4),
    ConvConfig(128, 64, 64, 4, 3),
    ConvConfig(256, 32, 32, 8, 3),
    ConvConfig(64, 64, 64, 4, 3),
    ConvConfig(128, 32, 32, 4, 4),
    ConvConfig(64, 32, 64, 4, 4),
    ConvConfig(32, 64, 64, 4, 4),
    ConvConfig(128, 16, 16, 4, 4),
    ConvConfig(16, 64, 64, 4, 4),
)
CONV = ConvConfig(64, 64, 32, 4, 3)
FUSE = BlockConfig(1024, 4)
RGB_CONFIGS = (RgbConfig(64, 32, 4, 2), RgbConfig(128, 32, 4, 2), RgbConfig(32, 64, 4, 2))
RGB = RGB_CONFIGS[0]
# One block for all, so that one table of units serves them.
STYLES_CONFIGS = (StylesConfig(64, 64, 64, 8, 2), StylesConfig(64, 128, 64, 8, 2), StylesConfig(64, 32, 128, 8, 2))
STYLES = STYLES_CONFIGS[0]


def fits(shared: int, sm: int) -> bool:
    """Whether a program with so many bytes of shared memory (``metadata.shared`` of the compiled kernel) runs on a device of
    compute capability ``sm`` (86 for 8.6)."""
    return shared <= shared_limit(f"sm_{sm}")


def conv_configs(pixels: int, channels: int, outputs: int, most: int = 4) -> tuple[ConvConfig, ...]:
    """Of ``CONV_CONFIGS`` up to ``most`` that pad a layer least, the largest first: none that needs twice the multiply-adds
    of the best. Of those that pad alike, the ones that read less for each product are kept.

    pixels: of one image, and of one phase where there are phases.
    """

    def padded(config: ConvConfig) -> float:
        """How many times the multiply-adds of the layer."""
        sizes = ((pixels, config.pixels), (outputs, config.outputs), (channels, config.channels))
        return prod(ceil(size / block) * block / size for size, block in sizes)

    def order(config: ConvConfig) -> tuple[float, float]:
        return round(padded(config), 2), 1 / config.pixels + 1 / config.outputs

    least = min(map(padded, CONV_CONFIGS))
    kept = sorted(CONV_CONFIGS, key=order)[:most]
    return tuple(config for config in CONV_CONFIGS if config in kept and padded(config) < 2 * least)


def conv_splits(tiles: int, channels: int, config: ConvConfig, processors: int = 132) -> int:
    """Parts of the sum over taps and channels that give every processor a program: a power of two, 1 where tiles suffice.

    tiles: programs of one image without splitting. A part keeps at least 8 steps, since it is written and read again in float32.
    """
    steps = 9 * ceil(channels / config.channels)
    splits = 1
    while tiles * splits * 2 <= processors and steps >= 16 * splits:
        splits *= 2
    return splits
