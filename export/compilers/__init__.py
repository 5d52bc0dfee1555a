"""Compilers: one file each, ``write(traced, constants, folder)`` puts an engine's files into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import numpy as np

from anycost.export.trace import Traced
from anycost.runtime import backends


def write(backend: str, traced: Traced, constants: Mapping[str, np.ndarray], folder: Path) -> None:
    """Compile for a backend. constants: the bound initializers by name, float32. Raises BackendError when it is missing."""
    backends.require(backend)
    import_module(f"anycost.export.compilers.{backend}").write(traced, constants, folder)
