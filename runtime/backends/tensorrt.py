"""TensorRT on an NVIDIA GPU: a plan holds kernels for one architecture, and runs with the version that built it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from anycost.errors import BackendError
from anycost.runtime.backends import BINDINGS_NAME, Bind, PlanBindings
from anycost.runtime.cuda.devices import devices
from anycost.runtime.cuda.driver import cuda
from anycost.runtime.cuda.tensorrt_engine import Library, TensorRtEngine
from anycost.runtime.cuda.tensorrt_plugins import register
from anycost.runtime.cuda.weights import device_weights

# The first device that CUDA_VISIBLE_DEVICES leaves.
DEVICE = 0


def load(folder: Path, bind: Bind, threads: int) -> TensorRtEngine:
    # The device first: without a driver it has the better message.
    device = cuda(DEVICE)
    trt = import_module("tensorrt")
    library = Library("tensorrt", trt, compiles_here=False)
    bindings = PlanBindings.model_validate_json((folder / BINDINGS_NAME).read_bytes())
    plugins = register(trt, devices()[DEVICE], device) if bindings.plugins == "launched" else None
    if plugins is not None:
        plugins.failure = ""
    try:
        return TensorRtEngine(library, folder, bind, threads, device, device_weights(DEVICE))
    except BackendError:
        # The library says no more than that a plugin could not be made.
        if plugins is not None and plugins.failure:
            raise BackendError(plugins.failure) from None
        raise
