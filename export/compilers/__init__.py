"""Compilers: one file each, ``write(traced, folder)`` puts an engine's files into a folder."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from anycost.export.trace import Traced
from anycost.runtime import backends


def write(backend: str, traced: Traced, folder: Path) -> None:
    """Compile for a backend. Raises BackendError when it is missing."""
    backends.require(backend)
    import_module(f"anycost.export.compilers.{backend}").write(traced, folder)
