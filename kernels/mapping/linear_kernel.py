"""A layer of the mapping network: pixel norm, matrix product, bias, leaky ReLU, in float32."""

import triton
import triton.language as tl


@triton.jit
def linear_kernel(
    x,  # float32 [N, entering]
    weight,  # float32 [entering, leaving]
    bias,  # float32 [leaving]
    out,  # float32 [N, leaving]
    entering,
    leaving,
    x_stride,
    out_stride,
    NORMALIZE: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """A program makes BLOCK_O outputs of one image. The layer is bound by the weights, which it streams; the norm is a factor of
    the sums, so one pass over x does both."""
    image = tl.program_id(2).to(tl.int64)
    o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    x += image * x_stride
    total = tl.zeros([BLOCK_I, BLOCK_O], tl.float32)
    squares = tl.zeros([BLOCK_I], tl.float32)
    for start in range(0, entering, BLOCK_I):
        i = start + tl.arange(0, BLOCK_I)
        value = tl.load(x + i, mask=i < entering, other=0.0)
        mask = (i < entering)[:, None] & (o < leaving)[None, :]
        total += value[:, None] * tl.load(weight + i[:, None] * leaving + o[None, :], mask=mask, other=0.0)
        if NORMALIZE:
            squares += value * value
    y = tl.sum(total, axis=0)
    if NORMALIZE:
        y *= 1.0 / tl.sqrt(tl.sum(squares, axis=0) / entering + 1e-8)
    y += tl.load(bias + o, mask=o < leaving, other=0.0)
    tl.store(out + image * out_stride + o, tl.maximum(y, 0.2 * y), mask=o < leaving)
