"""The kernel of all 3x3 convolutions: an implicit matrix product, pixels by outputs, the style before it and the epilogue after.

Three forms: ``same``, stride 1 with padding 1; ``fused``, the up-convolution with its FIR as four 3x3 convolutions, one for
each phase of the doubled grid; ``transposed``, the stride-2 transposed convolution, whose four phases have 4, 2, 2 and 1 taps.
"""

import triton
import triton.language as tl


@triton.jit
def convolve(
    x,
    weight,
    out,
    style,
    demodulation,
    noise,
    strength,
    bias,
    next_style,
    height,
    width,
    channels,
    outputs,
    splits,
    x_stride,
    out_stride,
    style_stride,
    demodulation_stride,
    noise_stride,
    next_stride,
    FORM: tl.constexpr,
    SPLIT: tl.constexpr,
    HAS_STYLE: tl.constexpr,
    HAS_DEMODULATION: tl.constexpr,
    HAS_NOISE: tl.constexpr,
    HAS_STRENGTH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_NEXT: tl.constexpr,
    ACTIVATE: tl.constexpr,
    PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """x [N, height, width, channels]; weight [taps, channels, outputs] of x's type, ``fused``: four of them; out [N, H', W',
    outputs]; H', W' = height, width; ``fused``: doubled; ``transposed``: doubled plus 1. SPLIT: out is float32 [N, splits, H',
    W', outputs], sums over parts of taps and channels. NAME_stride: elements from one image to the next.

    A program computes PIXELS x OUTPUTS results of one phase, one part and one image, CHANNELS of a tap at a time. The phases
    of one place are neighbours in axis 0, since they read the same pixels; axis 1 is slowest, so all places share a slice of
    the weights before the next slice is read.
    """
    image = tl.program_id(2).to(tl.int64)
    part = tl.program_id(1) % splits
    o = tl.program_id(1) // splits * OUTPUTS + tl.arange(0, OUTPUTS)

    # The grid of pixels that this phase covers, and its taps.
    if FORM == "same":
        tile = tl.program_id(0)
        py = 0
        px = 0
        rows = height
        columns = width
        taps_x = 3
        taps = 9
    elif FORM == "fused":
        tile = tl.program_id(0) // 4
        py = tl.program_id(0) % 4 // 2
        px = tl.program_id(0) % 2
        rows = height
        columns = width
        taps_x = 3
        taps = 9
        weight += (py * 2 + px) * 9 * channels * outputs
    else:
        tile = tl.program_id(0) // 4
        py = tl.program_id(0) % 4 // 2
        px = tl.program_id(0) % 2
        rows = height + 1 - py
        columns = width + 1 - px
        taps_x = 2 - px
        taps = (2 - py) * taps_x

    pixel = tile * PIXELS + tl.arange(0, PIXELS)
    row = pixel // columns
    column = pixel % columns
    inside = pixel < rows * columns
    x += image * x_stride
    style += image * style_stride

    # All channels of one tap, then the next tap: one flat loop, so that loads are pipelined across taps too.
    chunks = tl.cdiv(channels, CHANNELS)
    steps = taps * chunks
    first = steps * part // splits
    last = steps * (part + 1) // splits
    sums = tl.zeros((PIXELS, OUTPUTS), tl.float32)
    for step in range(first, last):
        tap = step // chunks
        c = step % chunks * CHANNELS + tl.arange(0, CHANNELS)
        ty = tap // taps_x
        tx = tap % taps_x
        if FORM == "transposed":
            # Output row 2i + ky takes row i of x times row ky of the filter: ky = 0 and 2 meet even rows, 1 odd ones.
            y = row - ty
            z = column - tx
            place = (py + 2 * ty) * 3 + px + 2 * tx
        else:
            y = row + ty - 1
            z = column + tx - 1
            place = tap
        there = inside & (y >= 0) & (y < height) & (z >= 0) & (z < width)
        from_x = (y * width + z)[:, None] * channels + c[None, :]
        a = tl.load(x + from_x, mask=there[:, None] & (c < channels)[None, :], other=0.0)
        from_weight = (place * channels + c)[:, None] * outputs + o[None, :]
        b = tl.load(weight + from_weight, mask=(c < channels)[:, None] & (o < outputs)[None, :], other=0.0)
        if HAS_STYLE:
            s = tl.load(style + c, mask=c < channels, other=0.0)
            a = (a.to(tl.float32) * s[None, :]).to(weight.dtype.element_ty)
        sums = tl.dot(a, b, sums, input_precision="ieee")

    known = o < outputs
    if FORM == "same":
        at = pixel
        area = height * width
    elif FORM == "fused":
        at = (2 * row + py) * (2 * width) + 2 * column + px
        area = 4 * height * width
    else:
        at = (2 * row + py) * (2 * width + 1) + 2 * column + px
        area = (2 * height + 1) * (2 * width + 1)
    if HAS_DEMODULATION:
        d = tl.load(demodulation + image * demodulation_stride + o, mask=known, other=0.0)
        sums = sums * d[None, :]
    if HAS_NOISE:
        grain = tl.load(noise + image * noise_stride + at, mask=inside, other=0.0).to(tl.float32)
        if HAS_STRENGTH:
            grain = grain * tl.load(strength)
        sums = sums + grain[:, None]
    if HAS_BIAS:
        sums = sums + tl.load(bias + o, mask=known, other=0.0)[None, :]
    if ACTIVATE:
        sums = tl.where(sums >= 0, sums, 0.2 * sums)
    if HAS_NEXT:
        n = tl.load(next_style + image * next_stride + o, mask=known, other=0.0)
        sums = sums * n[None, :]
    out += image * out_stride
    if SPLIT:
        out += part * area * outputs
    to = at[:, None] * outputs + o[None, :]
    tl.store(out + to, sums.to(out.dtype.element_ty), mask=inside[:, None] & known[None, :])


@triton.jit
def fuse(weight, taps, out, channels, outputs, BLOCK: tl.constexpr):
    """weight [9, channels, outputs], taps float32 [4, 4] -> out [4, 9, channels, outputs], summed in float32.

    The filter of both together is the full convolution g = weight * taps, 6 x 6, applied to x with zeros between its pixels:
    y[p] = sum_i g[p + 2 - 2i] x[i]. For p = 2q + py and i = q + t - 1 that is g[py + 4 - 2t]: tap t of phase py.
    """
    phase = tl.program_id(1) // 9
    tap = tl.program_id(1) % 9
    gy = phase // 2 + 4 - 2 * (tap // 3)
    gx = phase % 2 + 4 - 2 * (tap % 3)
    size = channels * outputs
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for ky in tl.static_range(3):
        for kx in tl.static_range(3):
            fy = gy - ky
            fx = gx - kx
            meet = (fy >= 0) & (fy < 4) & (fx >= 0) & (fx < 4)
            f = tl.load(taps + fy * 4 + fx, mask=meet, other=0.0)
            total += f * tl.load(weight + (ky * 3 + kx) * size + at, mask=at < size, other=0.0).to(tl.float32)
    tl.store(out + tl.program_id(1) * size + at, total.to(out.dtype.element_ty), mask=at < size)
