"""Arrays for results, in memory that is used again once nobody holds the last ones.

Memory of a fresh array has to come from the system page by page, and on a virtual machine often from its host: for the 34 MB of
features of a segment that was seen to take longer than computing them.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict

import numpy as np

Array = np.ndarray
_SIZES = 4  # two outputs at two batch sizes; those that were not asked for the longest go
_KEPT = 3  # blocks of a size: one that is written, one that is read, one that waits
_ALIGNMENT = 64  # of a cache line, and of the widest vector registers
# Of a block that only the pool's list and the look at it refer to.
_IDLE = 3


class Buffers:
    """float32 arrays. An array's block is in use as long as any array of it, or view of one, is alive. Not thread-safe."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[int, list[Array]] = OrderedDict()

    def empty(self, shape: tuple[int, ...]) -> Array:
        """An array that nothing else refers to, with any content."""
        size = 4 * math.prod(shape)
        blocks = self._blocks.setdefault(size, [])
        self._blocks.move_to_end(size)
        if len(self._blocks) > _SIZES:
            self._blocks.popitem(last=False)
        for i in range(len(blocks)):
            if sys.getrefcount(blocks[i]) < _IDLE:
                block = blocks[i]
                break
        else:
            block = np.empty(size + _ALIGNMENT, np.uint8)
            blocks.append(block)
            del blocks[:-_KEPT]  # older ones go when their arrays do
        start = -block.ctypes.data % _ALIGNMENT
        return block[start : start + size].view(np.float32).reshape(shape)
