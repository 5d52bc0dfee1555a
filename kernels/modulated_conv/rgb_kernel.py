"""The kernel of the to-RGB layers: 1x1 convolution, bias, and the smaller image upsampled by the FIR, in one pass over x."""

import triton
import triton.language as tl


@triton.jit
def rgb(
    x,
    weight,
    bias,
    out,
    style,
    skip,
    taps,
    height,
    width,
    channels,
    x_stride,
    style_stride,
    skip_stride,
    out_stride,
    HAS_STYLE: tl.constexpr,
    HAS_SKIP: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """x [N, height, width, channels]; weight [3, channels], bias [3], style [N, channels], skip [N, 3, height/2, width/2], taps
    [4, 4] and out [N, 3, height, width] float32. A program computes PIXELS pixels of one image, in float32."""
    image = tl.program_id(2).to(tl.int64)
    area = height * width
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < area
    x += image * x_stride
    # Summed over channels once, at the end: the loop only multiplies and adds.
    red = tl.zeros((PIXELS, CHANNELS), tl.float32)
    green = tl.zeros((PIXELS, CHANNELS), tl.float32)
    blue = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for start in range(0, channels, CHANNELS):
        c = start + tl.arange(0, CHANNELS)
        known = c < channels
        scale = tl.load(style + image * style_stride + c, mask=known, other=0.0) if HAS_STYLE else 1.0
        from_x = pixel[:, None] * channels + c[None, :]
        a = tl.load(x + from_x, mask=inside[:, None] & known[None, :], other=0.0).to(tl.float32)
        red += a * (tl.load(weight + c, mask=known, other=0.0) * scale)[None, :]
        green += a * (tl.load(weight + channels + c, mask=known, other=0.0) * scale)[None, :]
        blue += a * (tl.load(weight + 2 * channels + c, mask=known, other=0.0) * scale)[None, :]
    r = tl.sum(red, axis=1) + tl.load(bias)
    g = tl.sum(green, axis=1) + tl.load(bias + 1)
    b = tl.sum(blue, axis=1) + tl.load(bias + 2)
    if HAS_SKIP:
        # With zeros between its pixels, padded by (2, 1) and convolved, row p of the result reads two rows of skip: of the
        # four taps, those that meet no zeros.
        half_height = height // 2
        half_width = width // 2
        quarter = half_height * half_width
        skip += image * skip_stride
        row = pixel // width
        column = pixel % width
        py = row % 2
        px = column % 2
        for ty in tl.static_range(2):
            for tx in tl.static_range(2):
                y = row // 2 - 1 + py + ty
                z = column // 2 - 1 + px + tx
                there = inside & (y >= 0) & (y < half_height) & (z >= 0) & (z < half_width)
                f = tl.load(taps + (3 - py - 2 * ty) * 4 + 3 - px - 2 * tx)
                from_skip = y * half_width + z
                r += f * tl.load(skip + from_skip, mask=there, other=0.0)
                g += f * tl.load(skip + quarter + from_skip, mask=there, other=0.0)
                b += f * tl.load(skip + 2 * quarter + from_skip, mask=there, other=0.0)
    out += image * out_stride
    tl.store(out + pixel, r, mask=inside)
    tl.store(out + area + pixel, g, mask=inside)
    tl.store(out + 2 * area + pixel, b, mask=inside)
