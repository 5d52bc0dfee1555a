"""Backends: one file each, one small protocol. ``load`` opens an engine's folder, ``Engine.run`` runs it.

A backend's package is imported when its first engine is loaded, never before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from anycost.errors import BackendError
from anycost.runtime.binding import Binding, Count

Array = np.ndarray
Bind = Callable[[Binding], Array]

BINDINGS_NAME = "bindings.json"
PluginWay = Literal["none", "compiled", "launched"]

# Name -> (distribution, extra that brings it). In order of preference where nothing was measured.
_BACKENDS = {
    "onnxruntime": ("onnxruntime", ""),
    "openvino": ("openvino", "openvino"),
    "cuda": ("cuda-core", "gpu"),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt-rtx"),
    "tensorrt": ("tensorrt", "tensorrt"),
    "onnxruntime_tensorrt_rtx": ("onnxruntime-ep-nv-tensorrt-rtx-cu13", "onnxruntime-tensorrt-rtx"),
    "onnxruntime_cuda": ("onnxruntime-gpu", "onnxruntime-gpu"),
    # Last: what it compiles when it first runs takes minutes.
    "onnxruntime_tensorrt": ("onnxruntime-gpu", "onnxruntime-gpu"),
}
BACKENDS = tuple(_BACKENDS)

# Both distributions are the module ``onnxruntime``, and the second runs on the CPU as well.
_ORT, _ORT_GPU = "onnxruntime", "onnxruntime-gpu"
# The first whose Python interface binds memory of a plugin's device.
_LEAST_ORT_FOR_PLUGINS = (1, 26)


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


class PlanBindings(BaseModel):
    """bindings.json of a TensorRT or TensorRT-RTX engine, whose plan holds no weights.

    delivery: ``inputs``: the weights are inputs of the network, by these names; ``refit``: the plan is stripped and takes
    them by these names before it first runs. plugins: ``compiled``: their kernels are the plan's own; ``launched``: the runtime
    launches them (``cuda.tensorrt_plugins``), and has to tell the library of them before it reads the plan.
    """

    model_config = ConfigDict(extra="forbid")

    delivery: Literal["inputs", "refit"]
    plugins: PluginWay = "none"
    weights: dict[str, Binding]


@cache
def installed(backend: str) -> str | None:
    """The version of a backend's package, None when it is not installed or cannot be used. Imports nothing; looked up once,
    since every image asks for every engine."""
    if backend not in _BACKENDS or _hindrance(backend):
        return None
    package = _BACKENDS[backend][0]
    return _version(package) or (_version(_ORT_GPU) if package == _ORT else None)


def missing(backend: str) -> str:
    """Why a backend's package cannot be used, and how to install it."""
    package, extra = _BACKENDS[backend]
    what = f"'anycost-runtime[{extra}]'" if extra else package
    hindrance = _hindrance(backend)
    if hindrance:
        return f"backend {backend} {hindrance}"
    return f"backend {backend} needs the package {package}, which is not installed: pip install {what}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _hindrance(backend: str) -> str:
    """What keeps an installed package from being used, with what to do; empty when nothing does."""
    package = _BACKENDS[backend][0]
    if package == _ORT_GPU and _version(_ORT_GPU) and _ort_in_place() == _ORT:
        return (
            f"needs the package {_ORT_GPU}, and the files of {_ORT}, which have the same names, lie over its own: "
            f"pip install --force-reinstall --no-deps {_ORT_GPU}"
        )
    if backend == "onnxruntime_tensorrt_rtx" and _version(package):
        found = installed(_ORT)
        least = ".".join(map(str, _LEAST_ORT_FOR_PLUGINS))
        if found is None or tuple(int(n) for n in re.findall(r"\d+", found)[:2]) < _LEAST_ORT_FOR_PLUGINS:
            return f"needs {_ORT} {least} or newer, and {found or 'none'} is installed: pip install -U {_ORT}"
    return ""


def _ort_in_place() -> str | None:
    """The distribution whose files the module ``onnxruntime`` consists of: where both are installed, the later one. None
    where that cannot be said."""
    try:
        spec = util.find_spec(_ORT)
        folders = (spec and spec.submodule_search_locations) or []
        text = (Path(folders[0]) / "capi" / "build_and_package_info.py").read_text()
    except (ImportError, ValueError, IndexError, OSError):
        return None
    found = re.search(r"^package_name = '([\w-]+)'", text, re.MULTILINE)
    return found and found[1]


def require(backend: str) -> None:
    """Raises BackendError, with what to install, for an unknown or missing backend."""
    if backend not in _BACKENDS:
        raise BackendError(f"backend {backend!r} is unknown: this version has {', '.join(BACKENDS)}")
    if installed(backend) is None:
        raise BackendError(missing(backend))


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
