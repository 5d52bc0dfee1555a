"""Three small kernels and an engine made of them: y = (x @ w + b) * 2 per image, in two ways."""

import numpy as np
import torch
import triton
import triton.language as tl

from anycost.kernels.call import Call, Slot, image_stride
from anycost.kernels.lower import Draft, Step, pack
from anycost.runtime.binding import Binding
from anycost.runtime.cuda.program import Part

ENTERING, LEAVING = 20, 10


@triton.jit
def product(x, w, out, stride, leaving, entering, C: tl.constexpr, B: tl.constexpr):  # noqa: N803
    """out [leaving] = x [entering] @ w [entering, leaving], one image a program."""
    image = tl.program_id(2).to(tl.int64)
    k, n = tl.arange(0, C), tl.program_id(0) * B + tl.arange(0, B)
    row = tl.load(x + image * stride + k, mask=k < entering, other=0.0).to(tl.float32)
    inside = (k < entering)[:, None] & (n < leaving)[None, :]
    weights = tl.load(w + k[:, None] * leaving + n[None, :], mask=inside, other=0.0).to(tl.float32)
    found = tl.sum(row[:, None] * weights, axis=0)
    tl.store(out + image * leaving + n, found.to(out.dtype.element_ty), mask=n < leaving)


@triton.jit
def finish(x, bias, factor, out, stride, n, B: tl.constexpr):  # noqa: N803
    """out [n] = (x + bias) * factor, one image a program."""
    image = tl.program_id(2).to(tl.int64)
    i = tl.arange(0, B)
    value = tl.load(x + image * stride + i, mask=i < n, other=0.0).to(tl.float32)
    value += tl.load(bias + i, mask=i < n, other=0.0)
    tl.store(out + image * n + i, value * tl.load(factor), mask=i < n)


@triton.jit
def twice(x, out, n, B: tl.constexpr):  # noqa: N803
    i = tl.program_id(0) * B + tl.arange(0, B)
    value = tl.load(x + i, mask=i < n, other=0.0).to(tl.float32)
    tl.store(out + i, (2 * value).to(out.dtype.element_ty), mask=i < n)


def product_call(x, w, out, block=16):
    entering, leaving = w.shape
    arguments = {"x": x, "w": w, "out": out, "stride": image_stride(x), "leaving": leaving, "entering": entering}
    return Call(product, arguments, {"C": 32, "B": block}, (-(-leaving // block), 1, 1))


def finish_call(x, bias, factor, out):
    arguments = {"x": x, "bias": bias, "factor": factor, "out": out, "stride": image_stride(x), "n": bias.shape[0]}
    return Call(finish, arguments, {"B": 16}, (1, 1, 1))


def twice_call(x, out):
    n = int(np.prod(x.shape))
    return Call(twice, {"x": x, "out": out, "n": n}, {"B": 64}, (-(-n // 64), 1, 1))


def binding(name, shape, dtype="float32"):
    return Binding(source=name, take=shape, shape=shape, dtype=dtype)


def draft(dtype="float32", **changes):
    """Weights [18, 10] are padded with zeros to [20, 10]; their doubles are prepared."""
    kind = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[dtype]
    parts = pack(
        [
            Part(binding=binding("b", (LEAVING,)), shape=(LEAVING,)),
            Part(binding=binding("c", (LEAVING,)), shape=(LEAVING,)),
        ]
    )
    x, y = Slot("x", (1, ENTERING), torch.float32), Slot("y", (1, LEAVING), torch.float32)
    w, doubled = Slot("w", (ENTERING, LEAVING), kind, shared=True), Slot("w2", (ENTERING, LEAVING), kind, shared=True)
    h, wide = Slot("h", (1, LEAVING), kind), Slot("wide", (1, LEAVING), torch.float32)
    bias = Slot("bias", (LEAVING,), torch.float32, shared=True, base="small", offset=parts[1].offset)
    one, two = (Slot(name, (1,), torch.float32, shared=True) for name in ("one", "two"))
    products = [
        ("one", [product_call(x, w, h, 16)]),
        (
            "wide",
            [
                product_call(x, w, wide, 16),
                finish_call(wide, Slot("zeros", (LEAVING,), torch.float32, shared=True), one, h),
            ],
        ),
    ]
    if dtype != "float32":
        products.pop()
    fields = {
        "precision": {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[dtype],
        "inputs": [x],
        "outputs": [y],
        "weights": {"w": [Part(binding=binding("w", (18, LEAVING), dtype), shape=(ENTERING, LEAVING))], "small": parts},
        "tables": {
            "one": np.ones(1, np.float32),
            "two": np.full(1, 2, np.float32),
            "zeros": np.zeros(LEAVING, np.float32),
        },
        "prepare": [Step("double", [("", [twice_call(w, doubled)])])],
        "steps": [
            Step("product", products),
            Step("again", [("", [product_call(x, doubled, Slot("g", (1, LEAVING), torch.float32))])]),
            Step("finish", [("", [finish_call(h, bias, two, y)])]),
        ],
    }
    return Draft(**(fields | changes))


RANDOM = np.random.default_rng(3)
SHAPES = {"w": (18, LEAVING), "b": (LEAVING,), "c": (LEAVING,)}
WEIGHTS = {name: RANDOM.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def bind(binding):
    from anycost.runtime.bundle import as_bfloat16

    array = WEIGHTS[binding.source]
    return as_bfloat16(array) if binding.dtype == "bfloat16" else array.astype(binding.dtype)


def expected(x):
    return (x[:, :18] @ WEIGHTS["w"] + WEIGHTS["c"]) * 2
