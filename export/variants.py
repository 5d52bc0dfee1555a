"""What engines are built as: a backend, a precision, and for GPUs the targets and the batch sizes."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass

from anycost.errors import BuildError
from anycost.runtime.manifest import PRECISIONS, Precision
from anycost.runtime.usable import COMPILED_BACKENDS, GPU_BACKENDS

# Compute capabilities whose engines TensorRT-RTX builds ahead of time, newest last.
DEFAULT_TARGETS = ("sm_86", "sm_89", "sm_120")
# Those of our own kernels, which are compiled for an architecture each.
DEFAULT_CUDA_TARGETS = ("sm_86", "sm_89", "sm_90", "sm_120")
_FIRST_BFLOAT16 = 80
# The target of engines that are graphs, for whatever NVIDIA GPU runs them.
ANY_GPU = "cuda"
_ONLY_ON = {"bf16": ("openvino", *GPU_BACKENDS), "int8": ("onnxruntime", "openvino", "tensorrt")}
LARGEST_BATCH = 256
CALIBRATION_SAMPLES = 16  # From 4 to 64 the PSNR changes by less than 1 dB.


@dataclass(frozen=True)
class Variant:
    """targets: ``cpu-x86_64``, ``sm_XY``, or ``cuda`` for an engine that is a graph. batch: least, usual and largest, for what is
    compiled for a GPU. workspace_mb: the most that a kernel may use beside its inputs and outputs, None for the builder's own
    limit. calibration: samples that int8 activations are scaled by, None for other precisions. fused: whether a generator's
    layers are the fused kernels, as plugins of TensorRT."""

    backend: str
    precision: Precision = "fp32"
    targets: tuple[str, ...] = (f"cpu-{platform.machine().lower()}",)
    batch: tuple[int, int, int] | None = None
    workspace_mb: int | None = None
    calibration: int | None = None
    fused: bool = False

    @property
    def name(self) -> str:
        """What the runtime calls it: ``EngineRecord.variant``."""
        return "-".join([self.backend, *([] if self.precision == "fp32" else [self.precision]), *self._suffix])

    @property
    def form(self) -> str:
        """The precision, and whether it is fused: ``fp16-fused``."""
        return "-".join([self.precision, *self._suffix])

    @property
    def _suffix(self) -> list[str]:
        return ["fused"] if self.fused else []


def variants(
    backends: list[str] | None,
    precisions: list[str],
    targets: list[str],
    batch: str = "1:1:8",
    workspace_mb: int | None = None,
    calibration: int | None = None,
    fused: bool = False,
) -> list[Variant]:
    """The variants that options ask for, CPUs first.

    backends: None for those of the targets. targets: ``cpu`` and ``sm_XY``; empty for what the backends run on. batch
    (LEAST:USUAL:LARGEST), workspace_mb: for what is compiled for a GPU; an engine that is a graph takes any. calibration: for
    int8. fused: with the backend tensorrt alone. Raises BuildError for what does not exist or does not go together.
    """
    cpus, gpus = [t for t in targets if t == "cpu"], [t for t in targets if t != "cpu"]
    for target in gpus:
        if not re.fullmatch(r"sm_\d{2,3}", target):
            raise BuildError(f"target {target!r} is not cpu or a compute capability such as sm_89")
    chosen = [found for wanted in precisions for found in PRECISIONS if found == wanted]
    if len(chosen) != len(precisions):
        wrong = next(precision for precision in precisions if precision not in PRECISIONS)
        raise BuildError(f"precision {wrong!r} is not one of {', '.join(PRECISIONS)}")
    if calibration is not None and (calibration < 1 or "int8" not in precisions):
        raise BuildError(f"calibration {calibration} is for --precision int8, and at least 1")
    if fused and backends != ["tensorrt"]:
        given = "none is given" if backends is None else f"{', '.join(backends)} cannot take them"
        raise BuildError(f"fused kernels are plugins of TensorRT, and {given}: add --backend tensorrt alone")
    if fused and "int8" in precisions:
        raise BuildError("fused kernels compute in fp32, fp16 or bf16: leave int8 out of --precision")
    implied = backends is None
    if backends is None:
        backends = ["onnxruntime", "openvino"] if cpus or not gpus else []
        backends += ["tensorrt_rtx"] if gpus else []
    if gpus and not any(backend in GPU_BACKENDS for backend in backends):
        raise BuildError(f"targets {', '.join(gpus)} need a backend for GPUs: add tensorrt_rtx to --backend")
    if cpus and not gpus and all(backend in GPU_BACKENDS for backend in backends):
        raise BuildError("target cpu needs a backend for CPUs: add onnxruntime or openvino to --backend")
    if workspace_mb is not None and workspace_mb < 1:
        raise BuildError(f"workspace {workspace_mb} MB is not a positive number")
    found = []
    for backend in backends:
        for precision in chosen:
            samples = (calibration or CALIBRATION_SAMPLES) if precision == "int8" else None
            if backend not in _ONLY_ON.get(precision, (backend,)):
                if implied and (len(precisions) > 1 or set(backends) & set(_ONLY_ON[precision])):
                    continue  # Another backend of these targets may have it.
                known = ", ".join(_ONLY_ON[precision])
                raise BuildError(f"precision {precision} is not built for {backend}: it is for {known}")
            if backend == "cuda":
                aims = tuple(gpus or DEFAULT_CUDA_TARGETS)
                old = [target for target in aims if int(target[3:]) < _FIRST_BFLOAT16]
                if old and precision == "bf16":
                    raise BuildError(f"bf16 kernels need sm_80 or newer: leave {', '.join(old)} out of --target")
                # They take any batch up to the largest, and need no workspace.
                _, usual, largest = batch_profile(batch)
                found.append(Variant(backend, precision, aims, (1, usual, largest)))
            elif backend in COMPILED_BACKENDS:
                aims = tuple(gpus or DEFAULT_TARGETS)
                found.append(Variant(backend, precision, aims, batch_profile(batch), workspace_mb, samples, fused))
            elif backend in GPU_BACKENDS:
                found.append(Variant(backend, precision, (ANY_GPU,), calibration=samples))
            else:
                found.append(Variant(backend, precision, calibration=samples))
    for wanted in chosen:
        if all(variant.precision != wanted for variant in found):
            raise BuildError(f"precision {wanted} is for {', '.join(_ONLY_ON[wanted])}: add one to --backend")
    return found


def batch_profile(text: str) -> tuple[int, int, int]:
    """``LEAST:USUAL:LARGEST``, as trtexec's shapes; one number stands for all three. Raises BuildError."""
    parts = text.split(":")
    values = [int(part) for part in parts if part.isascii() and part.isdigit()]
    if len(values) != len(parts) or len(values) not in (1, 3):
        raise BuildError(f"batch {text!r} is not LEAST:USUAL:LARGEST, such as 1:1:8")
    least, usual, largest = values * 3 if len(values) == 1 else values
    if not 1 <= least <= usual <= largest <= LARGEST_BATCH:
        raise BuildError(f"batch {text!r} does not rise within 1..{LARGEST_BATCH}")
    return least, usual, largest
