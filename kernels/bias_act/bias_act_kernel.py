"""Bias, activation, gain and clamp, element by element."""

import triton
import triton.language as tl


@triton.jit
def bias_act_kernel(
    x,  # [N, C, inner] in one run of memory, as out
    bias,  # [C]
    out,
    elements,  # of an image: C * inner
    channels,
    inner,  # elements from one channel to the next
    x_stride,
    out_stride,
    HAS_BIAS: tl.constexpr,
    ACT: tl.constexpr,
    ALPHA: tl.constexpr,
    GAIN: tl.constexpr,
    CLAMP: tl.constexpr,  # below 0 for none
    SELU_ALPHA: tl.constexpr,
    SELU_SCALE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(2).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < elements
    v = tl.load(x + image * x_stride + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        v += tl.load(bias + (at // inner) % channels, mask=inside, other=0.0).to(tl.float32)
    # Exponentials are taken of numbers up to 0, so none overflows.
    below = tl.exp(-tl.abs(v))
    if ACT == "relu":
        v = tl.maximum(v, 0.0)
    elif ACT == "lrelu":
        v = tl.where(v >= 0, v, v * ALPHA)
    elif ACT == "tanh":
        square = below * below
        size = (1.0 - square) / (1.0 + square)
        v = tl.where(v >= 0, size, -size)
    elif ACT == "sigmoid":
        v = tl.where(v >= 0, 1.0, below) / (1.0 + below)
    elif ACT == "elu":
        v = tl.where(v >= 0, v, below - 1.0)
    elif ACT == "selu":
        v = SELU_SCALE * tl.where(v >= 0, v, SELU_ALPHA * (below - 1.0))
    elif ACT == "softplus":
        v = tl.maximum(v, 0.0) + tl.log(1.0 + below)
    elif ACT == "swish":
        v = v * tl.where(v >= 0, 1.0, below) / (1.0 + below)
    v *= GAIN
    if CLAMP >= 0:
        v = tl.minimum(tl.maximum(v, -CLAMP), CLAMP)
    tl.store(out + image * out_stride + at, v.to(out.dtype.element_ty), mask=inside)
