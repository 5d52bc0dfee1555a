"""Backends: one file each, one small protocol. ``load`` opens an engine's folder, ``Engine.run`` runs it.

A backend's package is imported when its first engine is loaded, never before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from anycost.errors import BackendError
from anycost.runtime.binding import Binding, Count

Array = np.ndarray
Bind = Callable[[Binding], Array]

BINDINGS_NAME = "bindings.json"

# Name -> (module to import, distribution, extra that brings it). In order of preference where nothing was measured.
_BACKENDS = {
    "onnxruntime": ("onnxruntime", "onnxruntime", ""),
    "openvino": ("openvino", "openvino", "openvino"),
}
BACKENDS = tuple(_BACKENDS)


class Engine(Protocol):
    """A loaded engine. Not thread-safe: use one for each thread."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """inputs: float32 arrays by name, one batch size in all -> the outputs by name, float32, contiguous."""
        ...


class OnnxBindings(BaseModel):
    """bindings.json of an ONNX engine: initializer name -> how it is made."""

    model_config = ConfigDict(extra="forbid")

    initializers: dict[str, Binding]


class BlobBinding(BaseModel):
    """One constant of an OpenVINO IR: the byte offset in its weights blob, and how it is made."""

    model_config = ConfigDict(extra="forbid")

    offset: int
    binding: Binding


class BlobConstant(BaseModel):
    """One constant that comes from no weight: its bytes lie at ``start`` of constants.bin."""

    model_config = ConfigDict(extra="forbid")

    offset: int
    start: int
    size: Count


class BlobBindings(BaseModel):
    """bindings.json of an OpenVINO engine: how the weights blob of ``size`` bytes is put together."""

    model_config = ConfigDict(extra="forbid")

    size: Count
    weights: tuple[BlobBinding, ...]
    constants: tuple[BlobConstant, ...]


def installed(backend: str) -> str | None:
    """The version of a backend's package, None when it is not installed. Imports nothing."""
    try:
        return metadata.version(_BACKENDS[backend][1])
    except (KeyError, metadata.PackageNotFoundError):
        return None


def require(backend: str) -> None:
    """Raises BackendError, with what to install, for an unknown or missing backend."""
    if backend not in _BACKENDS:
        raise BackendError(f"backend {backend!r} is unknown: this version has {', '.join(BACKENDS)}")
    if installed(backend) is None:
        module, package, extra = _BACKENDS[backend]
        what = f"'anycost-runtime[{extra}]'" if extra else package
        raise BackendError(f"backend {backend} needs the package {module}, which is not installed: pip install {what}")


def load(backend: str, folder: Path, bind: Bind, threads: int) -> Engine:
    """Open an engine. bind: makes a constant from a binding (``Weights.bind``). threads: CPU threads it may use.

    Raises BackendError when the package is missing or refuses the engine.
    """
    require(backend)
    try:
        module = import_module(f"anycost.runtime.backends.{backend}")
        engine: Engine = module.load(folder, bind, threads)
    except BackendError:
        raise
    except ImportError as error:
        raise BackendError(
            f"backend {backend} is installed and cannot be imported: {error}; install it again"
        ) from None
    except Exception as error:
        # Compilers raise their own types, some of them bare RuntimeErrors; a user needs one line.
        first = " ".join(str(error).split())[:300]
        raise BackendError(
            f"{backend} could not load {folder}: {first}; rebuild the bundle for this version"
        ) from error
    return engine
