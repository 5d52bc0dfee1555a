"""How an engine's constants are made from the one weights file: take, normalize, reduce, order, scale, reshape, round.

An engine keeps its graph and a list of bindings, not its weights. The same ``apply`` serves NumPy arrays at load time and
PyTorch tensors when the engine is traced or the network is trained in its static-weight form.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]


Dtype = Literal["float32", "float16", "bfloat16"]


class Binding(BaseModel):
    """One constant, made in float32 from tensor ``source`` in these steps:

    1. keep the first ``take[i]`` entries of axis i; 2. with ``normalize``, divide each entry of the second axis (the output
    channels of [1, out, in, k, k]) by its largest absolute value, or with ``peak`` take just those values; 3. with
    ``square_sum``, replace the last two axes by the sum of squares over them; 4. with ``order``, permute the axes: axis i becomes
    what axis ``order[i]`` was; 5. multiply by ``scale``, and by the one value of tensor ``times`` where it is given; 6. reshape
    to ``shape``; 7. round to ``dtype``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    take: tuple[Count, ...]
    shape: tuple[Count, ...]
    scale: float = 1.0
    square_sum: bool = False
    order: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    times: str | None = None
    normalize: bool = False
    peak: bool = False
    dtype: Dtype = "float32"

    @model_validator(mode="after")
    def _order_is_a_permutation(self) -> Binding:
        axes = len(self.take) - 2 * self.square_sum
        if self.order is not None and sorted(self.order) != list(range(axes)):
            raise ValueError(f"order {self.order} is no permutation of {axes} axes")
        return self

    def apply(self, tensor: Any, times: Any = None) -> Any:
        """tensor, times: the float32 sources (NumPy or PyTorch) -> the constant before it is rounded, float32 of ``shape``, in
        the same library."""
        x = tensor[tuple(slice(0, n) for n in self.take)]
        if self.normalize or self.peak:
            # Under the root of the demodulation stands 1e-8: weights below this are as good as none.
            largest = abs(x).reshape(x.shape[0], x.shape[1], -1)
            largest = (largest.max(-1) if hasattr(largest, "astype") else largest.amax(-1)).clip(1e-8)
            x = largest if self.peak else x / largest.reshape(*largest.shape, *[1] * (len(self.take) - 2))
        if self.square_sum:
            x = (x * x).sum(axis=(-2, -1))
        if self.order is not None:
            x = x.transpose(self.order) if hasattr(x, "astype") else x.permute(self.order)
        if self.scale != 1.0:
            x = x * self.scale
        if times is not None:
            x = x * times.reshape(())
        return x.reshape(self.shape)

    @property
    def bytes(self) -> int:
        return (4 if self.dtype == "float32" else 2) * math.prod(self.shape)
