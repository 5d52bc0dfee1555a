"""TensorRT: compiled for the GPU at hand, or for all from Ampere on."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from anycost.errors import BuildError
from anycost.export.compilers import plan
from anycost.export.trace import Traced
from anycost.export.variants import Variant
from anycost.runtime.cuda.devices import devices


def write(traced: Traced, variant: Variant, folder: Path) -> None:
    import tensorrt as trt

    plan.write(trt, plan.Library("tensorrt", "refit", aim), traced, variant, folder)


def aim(trt: ModuleType, config: Any, targets: tuple[str, ...]) -> None:
    """Raises BuildError where there is no GPU, or for targets that this one cannot build for."""
    found = devices()
    if not found:
        raise BuildError(
            "TensorRT builds on a GPU and none was found here: build there, or ahead of time with --backend tensorrt_rtx"
        )
    if targets == (found[0].target,):
        return
    if any(int(target[3:]) < 80 for target in (*targets, found[0].target)):
        raise BuildError(
            f"TensorRT builds for the GPU at hand ({found[0].target}) or for those from sm_80 on, not for {', '.join(targets)}"
        )
    config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
