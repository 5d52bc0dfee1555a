"""ONNX Runtime with NVIDIA's plugin for TensorRT-RTX, a package of its own beside any ONNX Runtime."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import onnxruntime as ort

from anycost.errors import BackendError
from anycost.runtime.backends import Bind
from anycost.runtime.backends.onnxruntime_gpu import DEVICE, Opening, Provider
from anycost.runtime.backends.onnxruntime_gpu import load as load_with
from anycost.runtime.cuda.devices import devices
from anycost.runtime.cuda.onnxruntime_engine import OrtGpuEngine

NAME = "NvTensorRTRTXExecutionProvider"


def options(opening: Opening) -> dict[str, str]:
    # The plugin refuses a session for any option that it does not know; the device is none of them.
    return opening.common | {"nv_runtime_cache_path": str(opening.folder)}


@cache
def _register() -> None:
    """Make the plugin known to ONNX Runtime, once in a process."""
    plugin = import_module("onnxruntime_ep_nv_tensorrt_rtx")
    ort.register_execution_provider_library(NAME, plugin.get_library_path())


def plug(settings: ort.SessionOptions, opening: Opening) -> None:
    """Add the plugin's device to a session's settings. Raises BackendError where it takes none of this machine's."""
    _register()
    found: list[Any] = [device for device in ort.get_ep_devices() if device.ep_name == NAME]
    if not found:
        gpu = devices()[DEVICE]
        raise BackendError(
            f"onnxruntime_tensorrt_rtx: TensorRT-RTX does not take {gpu.name} ({gpu.target}): use onnxruntime_cuda"
        )
    # It takes one device, and counts from the first that CUDA shows.
    settings.add_provider_for_devices(found[DEVICE : DEVICE + 1], options(opening))


PROVIDER = Provider(
    "onnxruntime_tensorrt_rtx",
    NAME,
    "its plugin was left out: pip install --force-reinstall onnxruntime-ep-nv-tensorrt-rtx-cu13",
    plug=plug,
    caches=True,
)


def load(folder: Path, bind: Bind, threads: int) -> OrtGpuEngine:
    return load_with(PROVIDER, folder, bind, threads)
