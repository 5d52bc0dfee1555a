"""What launch functions ask of the operands that they are given."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from anycost.kernels.call import Operand

ACTIVATIONS = (torch.float32, torch.float16, torch.bfloat16)
_LARGEST = 2**31 - 1  # Kernels count the elements of one image in int32.


def expect(
    name: str, operand: Operand, shape: Sequence[int | None], dtypes: Sequence[torch.dtype], batch: int | None = None
) -> None:
    """Raises ValueError for an operand that a kernel would read wrongly.

    shape: None stands for any size. batch: images of the launch; the first axis is then that many, or 1 for one that all share,
    and images may lie apart (``image_stride``).
    """
    given = tuple(operand.shape)
    fits = len(given) == len(shape) and all(want in (None, size) for size, want in zip(given, shape, strict=True))
    if not fits or (batch is not None and given[0] not in (1, batch)):
        wanted = ["any" if size is None else size for size in shape]
        if batch is not None:
            wanted[0] = "1" if batch == 1 else f"1 or {batch}"
        raise ValueError(f"{name} has shape {list(given)}, expected [{', '.join(map(str, wanted))}]")
    if operand.dtype not in dtypes:
        known = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(f"{name} is {str(operand.dtype).removeprefix('torch.')}, expected {known}: convert it first")
    if isinstance(operand, torch.Tensor) and not (operand if batch is None else operand[:1]).is_contiguous():
        raise ValueError(f"the elements of {name} {list(given)} are not in order: call .contiguous() first")
    image = math.prod(given[1:]) if batch is not None else math.prod(given)
    if image > _LARGEST:
        raise ValueError(f"{name} {list(given)} has {image} elements an image, more than {_LARGEST}: use a smaller one")
