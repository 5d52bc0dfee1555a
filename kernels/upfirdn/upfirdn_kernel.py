"""upfirdn2d for any sampling, padding and filter; channels-last."""

import triton
import triton.language as tl


@triton.jit
def upfirdn2d_kernel(
    x,  # [N, H, W, C]
    taps,  # float32 [TAPS_Y, TAPS_X]
    out,  # [N, out_height, out_width, C]
    height,
    width,
    channels,
    out_height,
    out_width,
    pad_x,  # zeros before the first column; negative crops
    pad_y,
    x_stride,
    out_stride,
    UP_X: tl.constexpr,
    UP_Y: tl.constexpr,
    DOWN_X: tl.constexpr,
    DOWN_Y: tl.constexpr,
    TAPS_X: tl.constexpr,
    TAPS_Y: tl.constexpr,
    FLIP: tl.constexpr,
    GAIN: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A program makes BLOCK_P pixels of BLOCK_C channels. Zeros between samples are never read: of the taps over a pixel, those
    on samples are every UP-th, from a first one that the pixel's phase tells."""
    image = tl.program_id(2).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = pixel < out_height * out_width
    there = channel < channels
    # Where the first tap lies, in the upsampled image without padding.
    first_y = (pixel // out_width) * DOWN_Y - pad_y
    first_x = (pixel % out_width) * DOWN_X - pad_x
    # The first tap on a sample. (The remainder of a negative number is negative here.)
    phase_y = (UP_Y - (first_y % UP_Y + UP_Y) % UP_Y) % UP_Y
    phase_x = (UP_X - (first_x % UP_X + UP_X) % UP_X) % UP_X
    x += image * x_stride
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for i in range((TAPS_Y + UP_Y - 1) // UP_Y):
        tap_y = phase_y + i * UP_Y
        row = (first_y + tap_y) // UP_Y
        row_there = inside & (first_y + tap_y >= 0) & (row < height) & (tap_y < TAPS_Y)
        for j in range((TAPS_X + UP_X - 1) // UP_X):
            tap_x = phase_x + j * UP_X
            column = (first_x + tap_x) // UP_X
            reads = row_there & (first_x + tap_x >= 0) & (column < width) & (tap_x < TAPS_X)
            if FLIP:
                tap = tap_y * TAPS_X + tap_x
            else:
                tap = (TAPS_Y - 1 - tap_y) * TAPS_X + (TAPS_X - 1 - tap_x)
            factor = tl.load(taps + tap, mask=reads, other=0.0)
            at = (row * width + column) * channels
            sample = tl.load(x + at[:, None] + channel[None, :], mask=reads[:, None] & there[None, :], other=0.0)
            total += factor[:, None] * sample.to(tl.float32)
    at = image * out_stride + pixel * channels
    result = (total * GAIN).to(out.dtype.element_ty)
    tl.store(out + at[:, None] + channel[None, :], result, mask=inside[:, None] & there[None, :])
