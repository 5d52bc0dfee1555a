"""Deployment runtime for elastic GANs.

    import anycost
    runtime = anycost.open("bundle/")
    images = runtime.generate(seeds=[1, 2], budget=anycost.Budget(latency_ms=40))   # uint8 [N, H, W, 3]

Names are imported when they are first used, so that ``import anycost`` costs nothing and never needs PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from anycost._version import __version__

if TYPE_CHECKING:
    from anycost.errors import AnycostError
    from anycost.runtime.budget import Budget
    from anycost.runtime.runtime import Runtime, open

_HOME = {
    "open": "anycost.runtime.runtime",
    "Runtime": "anycost.runtime.runtime",
    "Budget": "anycost.runtime.budget",
    "AnycostError": "anycost.errors",
}

__all__ = ["AnycostError", "Budget", "Runtime", "__version__", "open"]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'anycost' has no attribute {name!r}")
