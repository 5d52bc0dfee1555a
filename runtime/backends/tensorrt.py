"""TensorRT on an NVIDIA GPU: a plan holds kernels for one architecture, and runs with the version that built it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from anycost.runtime.backends import Bind
from anycost.runtime.cuda.driver import cuda
from anycost.runtime.cuda.tensorrt_engine import Library, TensorRtEngine
from anycost.runtime.cuda.weights import device_weights

# The first device that CUDA_VISIBLE_DEVICES leaves.
DEVICE = 0


def load(folder: Path, bind: Bind, threads: int) -> TensorRtEngine:
    # The device first: without a driver it has the better message.
    device = cuda(DEVICE)
    library = Library("tensorrt", import_module("tensorrt"), compiles_here=False)
    return TensorRtEngine(library, folder, bind, threads, device, device_weights(DEVICE))
