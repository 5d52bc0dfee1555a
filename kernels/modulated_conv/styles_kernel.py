"""The kernel of the styles and demodulation coefficients of all layers, which need nothing but w+: one launch an image."""

import triton
import triton.language as tl


@triton.jit
def affine_styles(
    w_plus,
    affine,
    affine_bias,
    energy,
    peak,
    units,
    style,
    demodulation,
    dim,
    w_stride,
    style_stride,
    demodulation_stride,
    ALIGNED: tl.constexpr,
    OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    DIM: tl.constexpr,
):
    """All float32 but units, int32 [U, 9] (``units_of``). w_plus [N, rows, dim]; affine, affine_bias, energy, peak: the layers'
    own, one after another; style [N, S]; demodulation [N, T]. ALIGNED: every layer's counts are multiples of 16.

    A program makes the style of one layer, CHANNELS at a time, and the coefficients of OUTPUTS of its outputs. Blocks of one
    layer make the same style again, which costs less than a second launch; the first of them writes it.
    """
    unit = units + tl.program_id(0) * 9
    image = tl.program_id(2).to(tl.int64)
    row = tl.load(unit)
    affine_at = tl.load(unit + 1) * dim
    style_at = tl.load(unit + 2)
    channels = tl.load(unit + 3)
    energy_at = tl.load(unit + 4)
    outputs = tl.load(unit + 5)
    first = tl.load(unit + 6)
    peak_at = tl.load(unit + 7)
    normalize = tl.load(unit + 8)
    if ALIGNED:
        # What is loaded from memory tells the compiler nothing of itself, and it would load single values.
        affine_at = tl.multiple_of(affine_at, 16)
        style_at = tl.multiple_of(style_at, 16)
        channels = tl.multiple_of(channels, 16)
        energy_at = tl.multiple_of(energy_at, 16)
        outputs = tl.multiple_of(outputs, 16)
        first = tl.multiple_of(first, 16)
        peak_at = tl.multiple_of(peak_at, 16)
    w_plus += image * w_stride + row * dim
    style += image * style_stride + style_at
    # To-RGB layers have no outputs here; blocks after the first write no style.
    written = tl.where(first == 0, channels, 0)
    o = first + tl.arange(0, OUTPUTS)
    known_o = o < outputs
    total = tl.zeros((OUTPUTS,), tl.float32)
    largest = tl.zeros((CHANNELS,), tl.float32)
    for start in range(0, channels, CHANNELS):
        c = start + tl.arange(0, CHANNELS)
        known = c < channels
        s = tl.load(affine_bias + style_at + c, mask=known, other=0.0)
        for begin in range(0, dim, DIM):
            i = begin + tl.arange(0, DIM)
            w = tl.load(w_plus + i, mask=i < dim, other=0.0)
            a = tl.load(
                affine + affine_at + i[:, None] * channels + c[None, :],
                mask=(i < dim)[:, None] & known[None, :],
                other=0.0,
            )
            s += tl.sum(w[:, None] * a, axis=0)
        largest = tl.maximum(largest, tl.abs(s))
        tl.store(style + c, s, mask=c < written)
        e = tl.load(
            energy + energy_at + c[:, None] * outputs + o[None, :], mask=known[:, None] & known_o[None, :], other=0.0
        )
        total += tl.sum((s * s)[:, None] * e, axis=0)
    # A style of zeros stays one.
    scale = tl.where(normalize != 0, tl.maximum(tl.max(largest, axis=0), 1e-8), 1.0)
    p = tl.load(peak + peak_at + o, mask=known_o, other=0.0)
    demodulation += image * demodulation_stride + peak_at
    tl.store(demodulation + o, p * scale * tl.rsqrt(total + 1e-8), mask=known_o)
    # The threads that read a style here need not be those that wrote it above.
    tl.debug_barrier()
    if normalize != 0:
        for start in range(0, written, CHANNELS):
            c = start + tl.arange(0, CHANNELS)
            s = tl.load(style + c, mask=c < written, other=0.0)
            tl.store(style + c, s / scale, mask=c < written)
