"""The least that a layer of the mapping network must do."""

from __future__ import annotations

from anycost.kernels.work import Work


def linear_work(images: int, entering: int, leaving: int, *, normalize: bool = False) -> Work:
    """The weights once, whatever the batch; all float32."""
    flops = 2 * entering * leaving + 3 * leaving + (2 * entering if normalize else 0)
    return Work(
        read=4 * (entering * leaving + leaving + images * entering),
        written=4 * images * leaving,
        flops=images * flops,
    )
