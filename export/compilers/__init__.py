"""Compilers: one file each, ``write(traced, variant, folder)`` puts an engine's files into a folder."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from anycost.export.int8 import fitted
from anycost.export.trace import Traced
from anycost.export.variants import Variant
from anycost.runtime import backends
from anycost.runtime.usable import GRAPH_BACKENDS


def require(variant: Variant) -> None:
    """Raises BackendError when what compiles for a variant is not installed."""
    backends.require(_compiler(variant))


def write(traced: Traced, variant: Variant, folder: Path) -> None:
    """Compile for a variant. Raises BackendError when its compiler is missing, BuildError when it cannot build this."""
    require(variant)
    if variant.precision == "int8":
        traced = fitted(traced, variant.backend)
    import_module(f"anycost.export.compilers.{_compiler(variant)}").write(traced, variant, folder)


def _compiler(variant: Variant) -> str:
    # What is a graph needs its own package only to run.
    return "onnxruntime" if variant.backend in GRAPH_BACKENDS else variant.backend
