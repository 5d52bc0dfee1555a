"""How an engine's constants are made from the one weights file: take, reduce, swap, scale, reshape.

An engine keeps its graph and a list of bindings, not its weights. The same ``apply`` serves NumPy arrays at load time and
PyTorch tensors when the engine is traced or the network is trained in its static-weight form.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]


class Binding(BaseModel):
    """One float32 constant, made from tensor ``source`` in these steps:

    1. keep the first ``take[i]`` entries of axis i; 2. with ``square_sum``, replace the last two axes by the sum of
    squares over them; 3. with ``swap``, exchange those two axes; 4. multiply by ``scale``, and by the one value of tensor
    ``times`` where it is given; 5. reshape to ``shape``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    take: tuple[Count, ...]
    shape: tuple[Count, ...]
    scale: float = 1.0
    square_sum: bool = False
    swap: tuple[int, int] | None = None
    times: str | None = None

    def apply(self, tensor: Any, times: Any = None) -> Any:
        """tensor, times: the float32 sources (NumPy or PyTorch) -> the constant, of ``shape``, in the same library."""
        x = tensor[tuple(slice(0, n) for n in self.take)]
        if self.square_sum:
            x = (x * x).sum(axis=(-2, -1))
        if self.swap is not None:
            x = x.swapaxes(*self.swap)
        if self.scale != 1.0:
            x = x * self.scale
        if times is not None:
            x = x * times.reshape(())
        return x.reshape(self.shape)
