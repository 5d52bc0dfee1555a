"""What the device and the software on it are."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import asdict
from importlib import metadata
from typing import Any

import torch

from anycost._version import __version__
from anycost.benchmarks.gpu.job import Emit, Job
from anycost.benchmarks.gpu.machine import open_machine, rates
from anycost.runtime.cuda.devices import devices
from anycost.runtime.profile import device_name

# Distributions whose versions a time depends on; onnxruntime and onnxruntime-gpu are one module from two of them.
PACKAGES = (
    "torch",
    "triton",
    "tensorrt_rtx",
    "tensorrt",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "cuda-core",
    "cuda-bindings",
    "onnx",
    "numpy",
)
_ASKED = ("driver_version", "power.limit", "clocks.max.sm", "clocks.max.memory")


def software() -> dict[str, str | None]:
    """Versions by name, None for what is not installed. Imports nothing."""
    found: dict[str, str | None] = {"python": platform.python_version(), "anycost-runtime": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def describe(dry: bool) -> dict[str, Any]:
    """The device. driver_runs: the newest CUDA version of the installed driver. asked: what nvidia-smi says."""
    found = devices()
    if dry or not found:
        return {"name": "dry run", "capability": None, "target": "", "memory_bytes": 0, "processor": device_name()}
    gpu = found[0]
    return {
        "name": gpu.name,
        "capability": list(gpu.capability),
        "target": gpu.target,
        "memory_bytes": gpu.memory_bytes,
        "driver_runs": "CUDA {}.{}".format(*gpu.driver),
        "devices": len(found),
        "processor": device_name(),
        **_asked(),
    }


def _asked() -> dict[str, str]:
    """Driver, power limit and largest clocks of the first GPU, empty where nvidia-smi is not there or does not answer."""
    if not shutil.which("nvidia-smi"):
        return {}
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(_ASKED, values, strict=True)) if len(values) == len(_ASKED) else {}


def plain(name: str) -> str:
    """A device's name as a part of a file's: ``NVIDIA H200`` -> ``nvidia-h200``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "device"


def measure_device(job: Job, emit: Emit) -> None:
    """What only a process that uses the device can say: PyTorch's libraries, and the rates. Raises BackendError."""
    machine = open_machine(job.dry)
    torch.set_num_threads(job.threads)
    libraries: dict[str, Any] = {"cuda of torch": torch.version.cuda, "cudnn": None}
    if machine.device == "cuda":
        libraries["cudnn"] = torch.backends.cudnn.version()
        capability = torch.cuda.get_device_properties(0)
        libraries["multiprocessors"] = capability.multi_processor_count
    emit("device", libraries=libraries, rates=asdict(rates(machine)))
