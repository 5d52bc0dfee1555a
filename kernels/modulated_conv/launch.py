"""Launches of the modulated convolutions, of to-RGB, and of what they need from w+.

A layer is y = leaky(d conv(x s, W) + strength noise + bias) next, with leaky(v) = max(v, 0.2 v): s the style, d the demodulation
and what was taken out of W and s to keep both at 1 at most, next the following layer's style where that layer alone reads y.

All take tensors and Slots; all give the same Call but for ``grid[2]`` whatever the batch. Operands that differ between images may
lie in a larger buffer, image by image (``call.columns``). ValueError: an operand whose shape, type or order does not fit.
"""

from __future__ import annotations

import torch

from anycost.kernels.call import Call, Operand, contiguous, divisible, image_stride
from anycost.kernels.modulated_conv.configs import (
    CONV,
    FUSE,
    RGB,
    BlockConfig,
    ConvConfig,
    RgbConfig,
)
from anycost.kernels.modulated_conv.conv_kernel import convolve, fuse
from anycost.kernels.modulated_conv.rgb_kernel import rgb
from anycost.kernels.modulated_conv.styles_launch import Layers, Place, places_of, styles, units_of
from anycost.kernels.operands import ACTIVATIONS, expect

__all__ = [
    "Layers",
    "Place",
    "conv3x3",
    "conv_transpose3x3",
    "fuse_filter",
    "places_of",
    "styles",
    "to_rgb",
    "units_of",
]
_FLOAT = (torch.float32,)


def conv3x3(
    x: Operand,
    weight: Operand,
    out: Operand,
    *,
    style: Operand | None = None,
    demodulation: Operand | None = None,
    noise: Operand | None = None,
    strength: Operand | None = None,
    bias: Operand | None = None,
    next_style: Operand | None = None,
    activate: bool = True,
    up: bool = False,
    splits: int = 1,
    config: ConvConfig = CONV,
) -> Call:
    """A whole layer with stride 1 and padding 1, or, with ``up``, a whole up-convolution with its FIR.

    x [N, H, W, C], weight [9, C, O] (tap ky * 3 + kx) and out [N, H, W, O] of one type; with ``up`` weight is [4, 9, C, O]
    (``fuse_filter``) and out [N, 2H, 2W, O]. style [N, C], demodulation and next_style [N, O], strength [1], bias [O]: float32.
    noise [N or 1, H', W'] as out, any type of activations. splits > 1: out is float32 [N, splits, H', W', O], the sums over parts
    of taps and channels without noise, bias and what follows, which ``upfirdn.finish(parts=splits)`` adds up in order.
    """
    if splits > 1 and any(given is not None for given in (demodulation, noise, strength, bias, next_style)):
        raise ValueError(f"{splits} splits give sums alone: hand demodulation, noise, bias and next_style to finish")
    _, height, width, channels = x.shape
    outputs = weight.shape[-1]
    scale = 2 if up else 1
    expect("weight", weight, [4, 9, channels, outputs] if up else [9, channels, outputs], [x.dtype])
    return _convolution(
        "fused" if up else "same",
        x,
        weight,
        out,
        (scale * height, scale * width),
        {
            "style": style,
            "demodulation": demodulation,
            "noise": noise,
            "strength": strength,
            "bias": bias,
            "next_style": next_style,
        },
        activate and splits == 1,
        splits,
        config,
    )


def conv_transpose3x3(
    x: Operand,
    weight: Operand,
    out: Operand,
    *,
    style: Operand | None = None,
    demodulation: Operand | None = None,
    splits: int = 1,
    config: ConvConfig = CONV,
) -> Call:
    """The transposed convolution of stride 2 without padding, 9 multiply-adds for each pixel, input and output channel of x.

    x [N, H, W, C], weight [9, C, O], style, demodulation: as for ``conv3x3``. out [N, 2H+1, 2W+1, O] of x's type, the sums times
    demodulation, or with splits > 1 float32 [N, splits, 2H+1, 2W+1, O]; for ``upfirdn.finish(taps=...)``.
    """
    if splits > 1 and demodulation is not None:
        raise ValueError(f"{splits} splits give sums alone: hand demodulation to finish")
    _, height, width, channels = x.shape
    expect("weight", weight, [9, channels, weight.shape[-1]], [x.dtype])
    given = {"style": style, "demodulation": demodulation}
    return _convolution("transposed", x, weight, out, (2 * height + 1, 2 * width + 1), given, False, splits, config)


def _convolution(
    form: str,
    x: Operand,
    weight: Operand,
    out: Operand,
    size: tuple[int, int],
    given: dict[str, Operand | None],
    activate: bool,
    splits: int,
    config: ConvConfig,
) -> Call:
    """size: height and width of the result. given: the operands that may be absent."""
    batch = out.shape[0]
    _, height, width, channels = x.shape
    outputs = weight.shape[-1]
    expect("x", x, [None, None, None, None], ACTIVATIONS, batch)
    if splits > 1:
        expect("out", out, [batch, splits, *size, outputs], _FLOAT, batch)
    else:
        expect("out", out, [batch, *size, outputs], [x.dtype], batch)
    contiguous(weight=weight)
    optional = ("style", "demodulation", "noise", "strength", "bias", "next_style")
    # An absent operand is never read; something has to stand in its place.
    found = {name: given.get(name) for name in optional}
    for name, length in (("style", channels), ("demodulation", outputs), ("next_style", outputs)):
        operand = found[name]
        if operand is not None:
            expect(name, operand, [None, length], _FLOAT, batch)
    noise, strength, bias = found["noise"], found["strength"], found["bias"]
    if noise is not None:
        expect("noise", noise, [None, *size], ACTIVATIONS, batch)
    if strength is not None:
        expect("strength", strength, [1], _FLOAT)
    if bias is not None:
        expect("bias", bias, [outputs], _FLOAT)
    strides = {
        "x_stride": image_stride(x),
        "out_stride": image_stride(out),
        "style_stride": _stride(found["style"]),
        "demodulation_stride": _stride(found["demodulation"]),
        "noise_stride": _stride(noise),
        "next_stride": _stride(found["next_style"]),
    }
    phases = 1 if form == "same" else 4
    # Of the transposed form's phases the first is the largest.
    pixels = (height + 1) * (width + 1) if form == "transposed" else height * width
    arguments: dict[str, Operand | int] = {"x": x, "weight": weight, "out": out}
    arguments |= {name: x if operand is None else operand for name, operand in found.items()}
    arguments |= {"height": height, "width": width, "channels": channels, "outputs": outputs, "splits": splits}
    return Call(
        convolve,
        arguments | strides,
        {
            "FORM": form,
            "SPLIT": splits > 1,
            "HAS_STYLE": found["style"] is not None,
            "HAS_DEMODULATION": found["demodulation"] is not None,
            "HAS_NOISE": noise is not None,
            "HAS_STRENGTH": strength is not None,
            "HAS_BIAS": bias is not None,
            "HAS_NEXT": found["next_style"] is not None,
            "ACTIVATE": activate,
            "PIXELS": config.pixels,
            "OUTPUTS": config.outputs,
            "CHANNELS": config.channels,
        },
        (phases * _blocks(pixels, config.pixels), _blocks(outputs, config.outputs) * splits, batch),
        config.warps,
        config.stages,
        divisible(channels=channels, outputs=outputs, **strides),
    )


def fuse_filter(weight: Operand, taps: Operand, out: Operand, config: BlockConfig = FUSE) -> Call:
    """The filter of the transposed convolution and the FIR together, as the four 3x3 filters that ``conv3x3(up=True)`` takes.

    weight [9, C, O]; taps float32 [4, 4], which hold the gain, applied flipped, as in a true convolution; out [4, 9, C, O] of
    weight's type: summed in float32, rounded once. One launch when an engine is loaded.
    """
    channels, outputs = weight.shape[-2:]
    expect("weight", weight, [9, channels, outputs], ACTIVATIONS)
    expect("taps", taps, [4, 4], _FLOAT)
    expect("out", out, [4, 9, channels, outputs], [weight.dtype])
    contiguous(weight=weight, taps=taps, out=out)
    return Call(
        fuse,
        {"weight": weight, "taps": taps, "out": out, "channels": channels, "outputs": outputs},
        {"BLOCK": config.block},
        (_blocks(channels * outputs, config.block), 36, 1),
        config.warps,
        aligned=divisible(channels=channels, outputs=outputs),
    )


def to_rgb(
    x: Operand,
    weight: Operand,
    bias: Operand,
    out: Operand,
    *,
    style: Operand | None = None,
    skip: Operand | None = None,
    taps: Operand | None = None,
    config: RgbConfig = RGB,
) -> Call:
    """out float32 [N, 3, H, W] = 1x1 convolution of x * style, plus bias, plus ``skip`` upsampled.

    x [N, H, W, C]; weight [3, C], bias [3], style [N, C] float32. skip: the image below, float32 [N, 3, H/2, W/2]: zeros between
    its pixels, padding (2, 1), taps float32 [4, 4] (which hold the gain, 4 in StyleGAN2) applied flipped.
    """
    batch = out.shape[0]
    _, height, width, channels = x.shape
    expect("x", x, [None, None, None, None], ACTIVATIONS, batch)
    expect("weight", weight, [3, channels], _FLOAT)
    expect("bias", bias, [3], _FLOAT)
    expect("out", out, [batch, 3, height, width], _FLOAT, batch)
    contiguous(weight=weight)
    if (skip is None) != (taps is None):
        raise ValueError("skip is upsampled by taps: give both or neither")
    if style is not None:
        expect("style", style, [None, channels], _FLOAT, batch)
    if skip is not None and taps is not None:
        if height % 2 or width % 2:
            raise ValueError(f"an image of {height} x {width} is not twice another one: give no skip")
        expect("skip", skip, [None, 3, height // 2, width // 2], _FLOAT, batch)
        expect("taps", taps, [4, 4], _FLOAT)
        contiguous(taps=taps)
    strides = {
        "x_stride": image_stride(x),
        "style_stride": _stride(style),
        "skip_stride": _stride(skip),
        "out_stride": image_stride(out),
    }
    return Call(
        rgb,
        {
            "x": x,
            "weight": weight,
            "bias": bias,
            "out": out,
            "style": weight if style is None else style,
            "skip": weight if skip is None else skip,
            "taps": weight if taps is None else taps,
            "height": height,
            "width": width,
            "channels": channels,
            **strides,
        },
        {
            "HAS_STYLE": style is not None,
            "HAS_SKIP": skip is not None,
            "PIXELS": config.pixels,
            "CHANNELS": config.channels,
        },
        (_blocks(height * width, config.pixels), 1, batch),
        config.warps,
        config.stages,
        divisible(channels=channels, **strides),
    )


def _stride(operand: Operand | None) -> int:
    return 0 if operand is None else image_stride(operand)


def _blocks(size: int, block: int) -> int:
    return -(-size // block)
