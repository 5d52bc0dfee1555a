"""Our own kernels on an NVIDIA GPU, compiled ahead of time and run as one CUDA graph; no PyTorch, no compiler."""

from __future__ import annotations

from pathlib import Path

from anycost.runtime.backends import Bind
from anycost.runtime.cuda.devices import devices
from anycost.runtime.cuda.driver import cuda
from anycost.runtime.cuda.program_engine import ProgramEngine
from anycost.runtime.cuda.weights import device_weights

# The first device that CUDA_VISIBLE_DEVICES leaves.
DEVICE = 0


def load(folder: Path, bind: Bind, threads: int) -> ProgramEngine:
    del threads  # It computes nothing on the CPU.
    # The device first: without a driver it has the better message.
    device = cuda(DEVICE)
    return ProgramEngine(folder, bind, devices()[DEVICE], device, device_weights(DEVICE))
