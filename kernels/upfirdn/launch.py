"""Launches of upfirdn2d and of the pass that finishes a convolution, for tensors and ``Slot``s alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anycost.kernels.call import Call, Operand, divisible, image_stride, run
from anycost.kernels.operands import ACTIVATIONS, expect
from anycost.kernels.upfirdn.finish_kernel import finish_kernel
from anycost.kernels.upfirdn.upfirdn_kernel import upfirdn2d_kernel

_FLOAT = (torch.float32,)


@dataclass(frozen=True)
class UpfirdnConfig:
    """elements: of the output, a program; as many pixels as fit with up to ``channels`` channels."""

    elements: int = 1024
    channels: int = 64
    warps: int = 4
    stages: int = 2


@dataclass(frozen=True)
class FinishConfig:
    """elements: a program's pixels in a row times its channels, at most ``channels``. rows: that it makes one after another."""

    elements: int = 1024
    channels: int = 64
    rows: int = 4
    warps: int = 4
    stages: int = 2

    @property
    def label(self) -> str:
        return f"{self.elements}x{self.channels}x{self.rows}-{self.warps}w{self.stages}s"


UPFIRDN = UpfirdnConfig()
UPFIRDN_CONFIGS = (UPFIRDN, UpfirdnConfig(elements=512), UpfirdnConfig(elements=2048, warps=8))
FINISH = FinishConfig()
# Few rows fill a device with programs where the image is small, many spare loads where it is large.
FINISH_CONFIGS = (
    FINISH,
    FinishConfig(rows=1),
    FinishConfig(rows=8),
    # Half as much a thread: fewer registers, so more of them at work at once.
    FinishConfig(elements=512, rows=8),
    FinishConfig(elements=512, channels=32, rows=1, warps=2),
)


def out_size(size: int, taps: int, up: int, down: int, before: int, after: int) -> int:
    """Samples along one axis after upfirdn2d; ValueError where the filter does not fit once."""
    whole = size * up + before + after
    if whole < taps:
        raise ValueError(
            f"{size} samples are {whole} after up {up} and padding {before}, {after}: fewer than the {taps} taps; pad more"
        )
    return (whole - taps) // down + 1


def upfirdn2d_call(
    x: Operand,
    taps: Operand,
    out: Operand,
    up: tuple[int, int] = (1, 1),
    down: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    flip: bool = False,
    gain: float = 1.0,
    config: UpfirdnConfig = UPFIRDN,
) -> Call:
    """x [N, H, W, C] -> out [N, H', W', C], as ``reference.upfirdn2d`` says; taps float32 [th, tw].

    up, down: (x, y), at least 1. padding: (x0, x1, y0, y1). flip: correlate, as ``flip_filter``. x and out are float32,
    float16 or bfloat16, not necessarily the same; sums are float32.
    """
    expect("taps", taps, (None, None), _FLOAT)
    _, height, width, channels = x.shape
    taps_y, taps_x = taps.shape
    if min(*up, *down) < 1:
        raise ValueError(f"up {up} and down {down} must be at least 1")
    out_height = out_size(height, taps_y, up[1], down[1], *padding[2:])
    out_width = out_size(width, taps_x, up[0], down[0], *padding[:2])
    images = out.shape[0]
    expect("out", out, (None, out_height, out_width, channels), ACTIVATIONS, images)
    expect("x", x, (None, None, None, None), ACTIVATIONS, images)
    block_p, block_c = _tile(config.elements, config.channels, out_height * out_width, channels)
    sizes = {
        "height": height,
        "width": width,
        "channels": channels,
        "out_height": out_height,
        "out_width": out_width,
        "pad_x": padding[0],
        "pad_y": padding[2],
        "x_stride": image_stride(x),
        "out_stride": image_stride(out),
    }
    return Call(
        kernel=upfirdn2d_kernel,
        arguments={"x": x, "taps": taps, "out": out, **sizes},
        constants={
            "UP_X": up[0],
            "UP_Y": up[1],
            "DOWN_X": down[0],
            "DOWN_Y": down[1],
            "TAPS_X": taps_x,
            "TAPS_Y": taps_y,
            "FLIP": flip,
            "GAIN": float(gain),
            "BLOCK_P": block_p,
            "BLOCK_C": block_c,
        },
        grid=(-(-out_height * out_width // block_p), -(-channels // block_c), images),
        warps=config.warps,
        stages=config.stages,
        aligned=divisible(channels=channels, x_stride=sizes["x_stride"], out_stride=sizes["out_stride"]),
    )


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsample, filter and downsample images; arguments mean what they mean in stylegan3's ``upfirdn2d``.

    x [N, C, H, W]; f [th, tw], or [t] for both axes in turn (two passes), or None for no filter. up, down: a number or (x, y).
    padding: a number, (x, y) or (x0, x1, y0, y1), counted in upsampled pixels; negative crops. -> [N, C, H', W'] of x's type,
    channels-last in memory. gain: on the whole; a separable filter takes its root in each pass.
    """
    f = torch.ones(1, 1) if f is None else f
    if x.dim() != 4 or f.dim() not in (1, 2):
        raise ValueError(
            f"x has shape {list(x.shape)} and f {list(f.shape)}, expected [N, C, H, W] and [t] or [th, tw]"
        )
    up, down = _pair("up", up), _pair("down", down)
    x0, x1, y0, y1 = _sides(padding)
    f = f.to(x.device, torch.float32).contiguous()
    image = x.permute(0, 2, 3, 1).contiguous()
    if f.dim() == 2:
        result = _pass(image, f, up, down, (x0, x1, y0, y1), flip_filter, gain, x.dtype)
    else:
        # What lies between is kept in float32, so that it is rounded once.
        root = math.sqrt(gain)
        across = _pass(image, f[None], (up[0], 1), (down[0], 1), (x0, x1, 0, 0), flip_filter, root, torch.float32)
        result = _pass(across, f[:, None], (1, up[1]), (1, down[1]), (0, 0, y0, y1), flip_filter, root, x.dtype)
    return result.permute(0, 3, 1, 2)


def _pass(
    x: Tensor,
    taps: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    flip: bool,
    gain: float,
    dtype: torch.dtype,
) -> Tensor:
    n, height, width, channels = x.shape
    out_height = out_size(height, taps.shape[0], up[1], down[1], *padding[2:])
    out_width = out_size(width, taps.shape[1], up[0], down[0], *padding[:2])
    out = torch.empty(n, out_height, out_width, channels, dtype=dtype, device=x.device)
    if out.numel():
        run(upfirdn2d_call(x, taps, out, up, down, padding, flip, gain))
    return out


def _pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    x, y = (value, value) if isinstance(value, int) else value
    if x < 1 or y < 1:
        raise ValueError(f"{name} {value} must be at least 1")
    return x, y


def _sides(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """(x0, x1, y0, y1)"""
    given = [padding, padding] if isinstance(padding, int) else list(padding)
    if len(given) == 2:
        given = [given[0], given[0], given[1], given[1]]
    if len(given) != 4:
        raise ValueError(f"padding {padding} is not a number, (x, y) or (x0, x1, y0, y1)")
    x0, x1, y0, y1 = given
    return x0, x1, y0, y1


def finish(
    y: Operand,
    out: Operand,
    *,
    taps: Operand | None = None,
    demodulation: Operand | None = None,
    noise: Operand | None = None,
    strength: Operand | None = None,
    bias: Operand | None = None,
    next_style: Operand | None = None,
    activate: bool = True,
    parts: int = 1,
    config: FinishConfig = FINISH,
) -> Call:
    """next_style * leaky(demodulation * fir(y) + strength * noise + bias), each step where its operand is given.

    y: [N, Hy, Wy, C] of the activations' type, or with parts > 1 float32 [N, parts, Hy, Wy, C], summed in their order.
    taps: float32 [4, 4] with their gain, after a padding of (1, 1), so that Hy = H + 1; without them Hy = H. demodulation,
    next_style: float32 [N, C], rows maybe apart. noise: float32 or the activations' type [N or 1, H, W]. strength: float32 [1].
    bias: float32 [C]. activate: leaky ReLU of slope 0.2. out: [N, H, W, C] of the activations' type.
    """
    expect("out", out, (None, None, None, None), ACTIVATIONS, out.shape[0])
    images, height, width, channels = out.shape
    border = 0 if taps is None else 1
    image = (height + border, width + border, channels)
    if parts == 1:
        expect("y", y, (None, *image), ACTIVATIONS, images)
    else:
        expect("y", y, (None, parts, *image), _FLOAT, images)
    for name, operand, shape, dtypes, batch in (
        ("taps", taps, (4, 4), _FLOAT, None),
        ("demodulation", demodulation, (None, channels), _FLOAT, images),
        ("noise", noise, (None, height, width), ACTIVATIONS, images),
        ("strength", strength, (1,), _FLOAT, None),
        ("bias", bias, (channels,), _FLOAT, None),
        ("next_style", next_style, (None, channels), _FLOAT, images),
    ):
        if operand is not None:
            expect(name, operand, shape, dtypes, batch)
    # Parts are float32, twice the bytes: half the elements fill the same vectors and registers.
    elements = config.elements if parts == 1 else config.elements // 2
    block_x, block_c = _tile(elements, config.channels, width, channels)
    rows = min(config.rows, _power(height))
    strides = {
        "y_stride": image_stride(y),
        "demodulation_stride": 0 if demodulation is None else image_stride(demodulation),
        "noise_stride": 0 if noise is None else image_stride(noise),
        "next_stride": 0 if next_style is None else image_stride(next_style),
        "out_stride": image_stride(out),
    }
    # A pointer that no code reads: any will do in place of what is absent.
    operands = {
        "y": y,
        "taps": out if taps is None else taps,
        "demodulation": out if demodulation is None else demodulation,
        "noise": out if noise is None else noise,
        "strength": out if strength is None else strength,
        "bias": out if bias is None else bias,
        "next_style": out if next_style is None else next_style,
        "out": out,
    }
    return Call(
        kernel=finish_kernel,
        arguments={**operands, "height": height, "width": width, "channels": channels, **strides},
        constants={
            "HAS_TAPS": taps is not None,
            "HAS_DEMODULATION": demodulation is not None,
            "HAS_NOISE": noise is not None,
            "HAS_STRENGTH": strength is not None,
            "HAS_BIAS": bias is not None,
            "HAS_NEXT": next_style is not None,
            "ACTIVATE": activate,
            "PARTS": parts,
            "ROWS": rows,
            "BLOCK_X": block_x,
            "BLOCK_C": block_c,
        },
        grid=(-(-width // block_x) * -(-height // rows), -(-channels // block_c), images),
        warps=config.warps,
        stages=config.stages,
        aligned=divisible(channels=channels, **strides),
    )


def _power(size: int) -> int:
    """The least power of two that is no smaller."""
    return 1 << max(size - 1, 0).bit_length()


def _tile(elements: int, channels: int, pixels: int, all_channels: int) -> tuple[int, int]:
    """Pixels and channels of a block: no wider than what there is, since what lies outside is masked off and wasted."""
    block_c = min(channels, _power(all_channels))
    return min(max(elements // block_c, 1), _power(pixels)), block_c
