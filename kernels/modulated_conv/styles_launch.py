"""The launch of ``styles``: which style, which coefficients each program makes, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from anycost.kernels.call import Call, Operand, contiguous, divisible, image_stride
from anycost.kernels.modulated_conv.configs import STYLES, StylesConfig
from anycost.kernels.modulated_conv.styles_kernel import affine_styles
from anycost.kernels.operands import expect

_FLOAT = (torch.float32,)


@dataclass(frozen=True)
class Place:
    """Where one layer's own begin, in elements. style: in the styles and their biases, and, times the length of w, in the
    affines. demodulation: in the coefficients and peaks; it and energy are None for a to-RGB layer."""

    style: int
    demodulation: int | None
    energy: int | None


Layers = Sequence[tuple[int, int, int | None]]


def places_of(layers: Layers) -> list[Place]:
    """layers: (row of w+, channels, outputs or None for to-RGB) of each -> their places, one after another."""
    found = []
    style = demodulation = energy = 0
    for _, channels, outputs in layers:
        found.append(Place(style, None, None) if outputs is None else Place(style, demodulation, energy))
        style += channels
        demodulation += outputs or 0
        energy += channels * (outputs or 0)
    return found


def units_of(layers: Layers, block: int = STYLES.outputs) -> np.ndarray:
    """The table of ``styles``: int32 [U, 9], a row for every ``block`` outputs of a layer, one for a to-RGB layer.

    Its columns: row of w+; the affine's place in units of the length of w; the style's and the bias' place; channels; the
    energy's place or -1; outputs; the first output of the block; the peak's and the demodulation's place; 1 where the style is
    normalized. That of to-RGB is not: no demodulation makes up for it.
    """
    rows = []
    for (row, channels, outputs), place in zip(layers, places_of(layers), strict=True):
        if outputs is None or place.energy is None or place.demodulation is None:
            rows.append((row, place.style, place.style, channels, -1, 0, 0, 0, 0))
            continue
        for first in range(0, outputs, block):
            rows.append((row, place.style, place.style, channels, place.energy, outputs, first, place.demodulation, 1))
    return np.array(rows, np.int32)


def styles(
    w_plus: Operand,
    affine: Operand,
    affine_bias: Operand,
    energy: Operand,
    peak: Operand,
    units: Operand,
    style: Operand,
    demodulation: Operand,
    *,
    aligned: bool = False,
    config: StylesConfig = STYLES,
) -> Call:
    """The styles and demodulation coefficients of all layers; all operands float32 but ``units``.

    For a layer: s = w_plus[:, row] @ affine + affine_bias; b = max |s| where it is normalized, else 1; style = s / b;
    demodulation = peak * b * rsqrt(s^2 @ energy + 1e-8).

    w_plus [N, rows, D]. Flat, the layers' own one after another: affine, per layer [D, C]; affine_bias; energy, per layer [C, O]:
    the sum over taps of the true, scaled W^2; peak: what was taken out of W times sqrt 2, per output. units int32 [U, 9]
    (``units_of`` with ``config.outputs``); style [N, S], demodulation [N, T]. aligned: all C and O are multiples of 16.
    """
    batch = style.shape[0]
    expect("w_plus", w_plus, [None, None, None], _FLOAT, batch)
    for name, operand in (("affine", affine), ("affine_bias", affine_bias), ("energy", energy), ("peak", peak)):
        expect(name, operand, [None], _FLOAT)
    dim = w_plus.shape[2]
    expect("affine_bias", affine_bias, [style.shape[-1]], _FLOAT)
    expect("affine", affine, [dim * style.shape[-1]], _FLOAT)
    expect("peak", peak, [demodulation.shape[-1]], _FLOAT)
    expect("units", units, [None, 9], [torch.int32])
    expect("style", style, [batch, None], _FLOAT, batch)
    expect("demodulation", demodulation, [batch, None], _FLOAT, batch)
    contiguous(units=units)
    strides = {
        "w_stride": image_stride(w_plus),
        "style_stride": image_stride(style),
        "demodulation_stride": image_stride(demodulation),
    }
    return Call(
        affine_styles,
        {
            "w_plus": w_plus,
            "affine": affine,
            "affine_bias": affine_bias,
            "energy": energy,
            "peak": peak,
            "units": units,
            "style": style,
            "demodulation": demodulation,
            "dim": dim,
            **strides,
        },
        {"ALIGNED": aligned, "OUTPUTS": config.outputs, "CHANNELS": config.channels, "DIM": config.dim},
        (units.shape[0], 1, batch),
        config.warps,
        config.stages,
        divisible(dim=dim, **strides),
    )
