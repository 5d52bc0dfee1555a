"""Compilers: one file each, ``write(traced, variant, folder)`` puts an engine's files into a folder."""

from __future__ import annotations

from importlib import import_module, metadata
from pathlib import Path

from anycost.errors import BackendError
from anycost.export.int8 import fitted
from anycost.export.trace import Traced
from anycost.export.variants import Variant
from anycost.runtime import backends
from anycost.runtime.usable import GRAPH_BACKENDS


def require(variant: Variant) -> None:
    """Raises BackendError when what compiles for a variant is not installed."""
    if variant.backend != "cuda":
        backends.require(_compiler(variant))
    elif compiler_version("cuda")["triton"] == "":
        raise BackendError(
            "backend cuda is compiled by the package triton, which is not installed: pip install 'anycost-runtime[kernels]'"
        )


def compiler_version(backend: str) -> dict[str, str]:
    """The package that compiles for a backend, by name, with its version; empty when it is not installed."""
    if backend != "cuda":
        return {backend: backends.installed(backend) or ""}
    try:
        return {"triton": metadata.version("triton")}
    except metadata.PackageNotFoundError:
        return {"triton": ""}


def write(traced: Traced, variant: Variant, folder: Path) -> None:
    """Compile for a variant. Raises BackendError when its compiler is missing, BuildError when it cannot build this."""
    require(variant)
    if variant.precision == "int8":
        traced = fitted(traced, variant.backend)
    import_module(f"anycost.export.compilers.{_compiler(variant)}").write(traced, variant, folder)


def _compiler(variant: Variant) -> str:
    # What is a graph needs its own package only to run.
    return "onnxruntime" if variant.backend in GRAPH_BACKENDS else variant.backend
