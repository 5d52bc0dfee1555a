"""TensorRT: compiled for the GPU at hand, or for all from Ampere on; with the fused kernels as plugins where asked."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import Any

from anycost.errors import BackendError, BuildError
from anycost.export.compilers import plan
from anycost.export.fused import plugin_nodes, with_plugins
from anycost.export.trace import Traced
from anycost.export.variants import Variant
from anycost.runtime.cuda.devices import devices

# Code of this capability runs on every later one; that of sm_90 and later on its own alone.
_COMMON_TARGET = "sm_80"


def write(traced: Traced, variant: Variant, folder: Path) -> None:
    import tensorrt as trt

    if variant.fused:
        traced = with_registered_plugins(trt, traced, variant.targets)
    plan.write(trt, plan.Library("tensorrt", "refit", aim), traced, variant, folder)


def with_registered_plugins(trt: ModuleType, traced: Traced, targets: tuple[str, ...]) -> Traced:
    """The graph with its fused layers as plugins, which are registered here; one without such layers stays as it is.

    Raises BuildError for a TensorRT without ahead-of-time plugins, BackendError without Triton.
    """
    if traced.functions is None or not plugin_nodes(traced.functions):
        return traced
    try:
        plugin = import_module(f"{trt.__name__}.plugin")
    except ImportError:
        plugin = None
    if not hasattr(plugin, "aot_impl"):
        raise BuildError(
            f"TensorRT {trt.__version__} has no plugins with ahead-of-time kernels: install 10.8 or later, or build without "
            "--fused"
        )
    if util.find_spec("triton") is None:
        raise BackendError("fused kernels are compiled by Triton: pip install 'anycost-runtime[kernels]'")
    from anycost.kernels.plugin.registration import register

    register(trt, plugin, targets[0] if len(targets) == 1 else _COMMON_TARGET)
    return replace(traced, model=with_plugins(traced.functions))


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
