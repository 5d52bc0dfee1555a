"""ONNX Runtime on an NVIDIA GPU, through any of its providers: how a session is made, and that it is what was asked for."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from anycost.errors import BackendError
from anycost.runtime.backends import Array, Bind
from anycost.runtime.backends.onnxruntime import MODEL_NAME, bindings_of, hand_over, settings
from anycost.runtime.binding import Binding
from anycost.runtime.cuda.arrays import as_stream
from anycost.runtime.cuda.driver import cuda
from anycost.runtime.cuda.onnxruntime_engine import OrtGpuEngine
from anycost.runtime.profile import cache_folder

# The first device that CUDA_VISIBLE_DEVICES leaves.
DEVICE = 0

# As onnxruntime_session_options_config_keys.h names it.
_ASSIGNMENT = "session.record_ep_graph_assignment_info"
_SILENT = 4


@dataclass(frozen=True)
class Opening:
    """What a provider's options depend on. precision: fp32, fp16 or bf16. stream: its handle. folder: a cache of this engine
    alone. graphs: whether runs are to be captured as CUDA graphs."""

    precision: str
    stream: int
    folder: Path
    graphs: bool

    @property
    def common(self) -> dict[str, str]:
        """The options that all providers share."""
        return {"has_user_compute_stream": "1", "user_compute_stream": str(self.stream)}


@dataclass(frozen=True)
class Provider:
    """backend: its name in messages. name: ONNX Runtime's. advice: what to do when it cannot be used. providers: with options,
    best first, for a session; ``plug`` adds a plugin to the session's settings instead. prepare: run before the first session.
    graphs: whether CUDA graphs are tried. caches: whether it keeps what it compiles."""

    backend: str
    name: str
    advice: str
    providers: Callable[[Opening], list[tuple[str, dict[str, str]]]] = lambda opening: []
    plug: Callable[[ort.SessionOptions, Opening], None] | None = None
    prepare: Callable[[], None] = lambda: None
    graphs: bool = False
    caches: bool = False


def load(provider: Provider, folder: Path, bind: Bind, threads: int) -> OrtGpuEngine:
    """Open an engine on the first device. Raises BackendError, also where ONNX Runtime would fall back to the CPU."""
    # The device first: without a driver it has the better message.
    device = cuda(DEVICE)
    provider.prepare()
    bindings = bindings_of(folder)
    arrays = {name: bind(binding) for name, binding in bindings.items()}
    cache = _cache(provider, folder, arrays) if provider.caches else Path()

    def opened(graphs: bool) -> OrtGpuEngine:
        stream = device.new_stream()  # One on which a capture failed may be of no use any more.
        opening = Opening(precision_of(bindings), as_stream(stream), cache, graphs)
        options = settings(threads)
        options.add_session_config_entry(_ASSIGNMENT, "1")
        if graphs:
            options.log_severity_level = _SILENT  # It may fail, and that is no error.
        values = hand_over(options, arrays, bindings)
        session = _session(provider, folder / MODEL_NAME, options, opening)
        return OrtGpuEngine(provider.backend, session, values, device, stream, graphs)

    return (provider.graphs and _captured(opened)) or opened(False)


def _captured(opened: Callable[[bool], OrtGpuEngine]) -> OrtGpuEngine | None:
    """An engine that captures its runs, None where the graph cannot be: one with a node on the CPU cannot. It shows when the
    session is made or first runs."""
    try:
        engine = opened(True)
        engine.warm_up()
    except _LeftOutError:
        raise
    except Exception:
        return None
    return engine


class _LeftOutError(BackendError):
    """The session was made without the provider."""


def _session(provider: Provider, path: Path, options: ort.SessionOptions, opening: Opening) -> ort.InferenceSession:
    # Without ``enable_fallback`` a failure is one, instead of a session on the CPU.
    given: dict[str, Any] = {"enable_fallback": 0}
    if provider.plug is not None:
        provider.plug(options, opening)
    else:
        given["providers"] = [*provider.providers(opening), "CPUExecutionProvider"]
    try:
        session = ort.InferenceSession(path, options, **given)
    except Exception as error:
        if "install" not in str(error):
            raise
        # So it is for TensorRT, whose libraries are asked for before there is a session.
        raise _LeftOutError(f"{provider.backend}: {provider.advice}") from error
    # A failure of the ``run`` that may follow, too.
    session.disable_fallback()
    # A provider whose libraries do not load is left out all the same, with a warning in the log.
    names = session.get_providers()
    if names[0] != provider.name:
        raise _LeftOutError(f"{provider.backend}: ONNX Runtime fell back to {names[0]}: {provider.advice}")
    taken = {part.ep_name for part in session.get_provider_graph_assignment_info()}
    if taken and provider.name not in taken:
        raise _LeftOutError(
            f"{provider.backend}: {provider.name} took no part of the graph, which went to {', '.join(sorted(taken))}: "
            f"use another backend, or another version of ONNX Runtime than {ort.__version__}"
        )
    return session


def precision_of(bindings: Mapping[str, Binding]) -> str:
    """fp16 or bf16 where any initializer is, else fp32."""
    types = {binding.dtype for binding in bindings.values()}
    return "fp16" if "float16" in types else "bf16" if "bfloat16" in types else "fp32"


def preload() -> None:
    """Load the CUDA and cuDNN libraries of NVIDIA's Python packages, which the loader does not find by itself."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):  # It prints what it does not find.
        ort.preload_dlls()


def preload_tensorrt() -> None:
    """Load TensorRT's libraries from its Python package, where it is installed."""
    preload()
    with contextlib.suppress(ImportError, OSError):
        import_module("tensorrt_libs")


def _cache(provider: Provider, folder: Path, arrays: Mapping[str, Array]) -> Path:
    """The folder of what a provider compiles for an engine.

    One for each graph with its weights: the provider names its files by the structure of a graph, and would take the compiled
    weights of another network of the same structure.
    """
    found = hashlib.sha256((folder / MODEL_NAME).read_bytes())
    for name, array in arrays.items():
        found.update(name.encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    path: Path = cache_folder() / "ort" / provider.backend / ort.__version__ / found.hexdigest()[:16]
    with contextlib.suppress(OSError):  # Without it, it is compiled each time.
        path.mkdir(parents=True, exist_ok=True)
    return path
