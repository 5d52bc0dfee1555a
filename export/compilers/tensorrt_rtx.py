"""TensorRT-RTX: one plan for several compute capabilities, built ahead of time on any machine."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from anycost.errors import BuildError
from anycost.export.compilers import plan
from anycost.export.trace import Traced
from anycost.export.variants import Variant


def write(traced: Traced, variant: Variant, folder: Path) -> None:
    import tensorrt_rtx as trt

    plan.write(trt, plan.Library("tensorrt_rtx", "inputs", aim), traced, variant, folder)


def aim(trt: ModuleType, config: Any, targets: tuple[str, ...]) -> None:
    """Raises BuildError for a compute capability that this version does not know."""
    known = {name.replace("SM", "sm_"): value for name, value in trt.ComputeCapability.__members__.items()}
    config.num_compute_capabilities = len(targets)
    for i, target in enumerate(targets):
        if target not in known:
            listed = ", ".join(sorted((name for name in known if name.startswith("sm_")), key=lambda x: int(x[3:])))
            raise BuildError(f"TensorRT-RTX {trt.__version__} does not build for {target}: it builds for {listed}")
        config.set_compute_capability(known[target], i)
