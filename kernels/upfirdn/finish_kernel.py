"""What follows the products of a convolution, in one pass over memory: FIR, demodulation, noise, bias, leaky ReLU, next style."""

import triton
import triton.language as tl


@triton.jit
def _tap_row(taps, row):
    """Four taps of a row of the flipped filter: as a convolution takes them, from the left."""
    at = taps + (3 - row) * 4
    return tl.load(at + 3), tl.load(at + 2), tl.load(at + 1), tl.load(at)


@triton.jit
def _pixels(y, at, reads, channel, there, part, PARTS: tl.constexpr):
    """float32 [X, C] at offsets at [X]: the sum of the parts, in order; 0 where it does not read."""
    pointers = y + at[:, None] + channel[None, :]
    mask = reads[:, None] & there[None, :]
    total = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    for i in range(1, PARTS):
        total += tl.load(pointers + part * i, mask=mask, other=0.0).to(tl.float32)
    return total


@triton.jit
def _store(
    x,
    out,
    row,
    column,
    channel,
    there,
    noise,
    factor,
    scale,
    shift,
    next_scale,
    height,
    width,
    channels,
    HAS_DEMODULATION: tl.constexpr,
    HAS_NOISE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_NEXT: tl.constexpr,
    ACTIVATE: tl.constexpr,
):
    """Finishes and stores x, float32 [X, C]: pixels of one row."""
    inside = column < tl.where(row < height, width, 0)
    if HAS_DEMODULATION:
        x *= scale[None, :]
    if HAS_NOISE:
        grain = tl.load(noise + row * width + column, mask=inside, other=0.0).to(tl.float32)
        x += (grain * factor)[:, None]
    if HAS_BIAS:
        x += shift[None, :]
    if ACTIVATE:
        x = tl.maximum(x, 0.2 * x)
    if HAS_NEXT:
        x *= next_scale[None, :]
    at = (row * width + column) * channels
    tl.store(out + at[:, None] + channel[None, :], x.to(out.dtype.element_ty), mask=inside[:, None] & there[None, :])


@triton.jit
def finish_kernel(
    y,  # [N, Hy, Wy, C], or float32 [N, PARTS, Hy, Wy, C]; Hy = height + 1 with taps
    taps,  # float32 [4, 4]
    demodulation,  # float32 [N, C]
    noise,  # [N or 1, height, width]
    strength,  # float32 [1]
    bias,  # float32 [C]
    next_style,  # float32 [N, C]
    out,  # [N, height, width, C]
    height,
    width,
    channels,
    y_stride,
    demodulation_stride,
    noise_stride,
    next_stride,
    out_stride,
    HAS_TAPS: tl.constexpr,
    HAS_DEMODULATION: tl.constexpr,
    HAS_NOISE: tl.constexpr,
    HAS_STRENGTH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_NEXT: tl.constexpr,
    ACTIVATE: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A program makes ROWS rows of BLOCK_X pixels of BLOCK_C channels, from the top.

    With taps it reads every input row once, four times shifted by a pixel (once from memory, else from L1), and adds it to the
    three output rows in progress and the one that it completes: 4 (ROWS + 3) / ROWS loads a pixel in place of 16.
    """
    image = tl.program_id(2).to(tl.int64)
    across = tl.cdiv(width, BLOCK_X)
    top = (tl.program_id(0) // across) * ROWS
    column = (tl.program_id(0) % across) * BLOCK_X + tl.arange(0, BLOCK_X)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = channel < channels
    y += image * y_stride
    out += image * out_stride
    noise += image * noise_stride
    scale = 1.0
    shift = 0.0
    next_scale = 1.0
    factor = 1.0
    if HAS_DEMODULATION:
        scale = tl.load(demodulation + image * demodulation_stride + channel, mask=there, other=0.0)
    if HAS_BIAS:
        shift = tl.load(bias + channel, mask=there, other=0.0)
    if HAS_NEXT:
        next_scale = tl.load(next_style + image * next_stride + channel, mask=there, other=0.0)
    if HAS_STRENGTH:
        factor = tl.load(strength)

    if HAS_TAPS:
        wide = width + 1
        part = (height + 1) * wide * channels
        a0, a1, a2, a3 = _tap_row(taps, 0)
        b0, b1, b2, b3 = _tap_row(taps, 1)
        c0, c1, c2, c3 = _tap_row(taps, 2)
        d0, d1, d2, d3 = _tap_row(taps, 3)
        # Output rows in progress: they miss one, two and three rows of taps.
        misses_1 = tl.zeros([BLOCK_X, BLOCK_C], tl.float32)
        misses_2 = misses_1
        misses_3 = misses_1
        for i in tl.static_range(ROWS + 3):
            row = top + i - 1  # of y; the padding is row -1
            end = tl.where((row >= 0) & (row <= height), wide, 0)  # of what can be read
            at = (row * wide + column - 1) * channels
            x0 = _pixels(y, at, (column > 0) & (column <= end), channel, there, part, PARTS)
            x1 = _pixels(y, at + channels, column < end, channel, there, part, PARTS)
            x2 = _pixels(y, at + 2 * channels, column < end - 1, channel, there, part, PARTS)
            x3 = _pixels(y, at + 3 * channels, column < end - 2, channel, there, part, PARTS)
            if i >= 3:
                whole = misses_1 + (x0 * d0 + x1 * d1 + x2 * d2 + x3 * d3)
                _store(
                    whole, out, top + i - 3, column, channel, there, noise, factor, scale, shift, next_scale,
                    height, width, channels, HAS_DEMODULATION, HAS_NOISE, HAS_BIAS, HAS_NEXT, ACTIVATE,
                )  # fmt: skip
            misses_1 = misses_2 + (x0 * c0 + x1 * c1 + x2 * c2 + x3 * c3)
            misses_2 = misses_3 + (x0 * b0 + x1 * b1 + x2 * b2 + x3 * b3)
            misses_3 = x0 * a0 + x1 * a1 + x2 * a2 + x3 * a3
    else:
        part = height * width * channels
        for i in tl.static_range(ROWS):
            row = top + i
            at = (row * width + column) * channels
            x = _pixels(y, at, column < tl.where(row < height, width, 0), channel, there, part, PARTS)
            _store(
                x, out, row, column, channel, there, noise, factor, scale, shift, next_scale,
                height, width, channels, HAS_DEMODULATION, HAS_NOISE, HAS_BIAS, HAS_NEXT, ACTIVATE,
            )  # fmt: skip
