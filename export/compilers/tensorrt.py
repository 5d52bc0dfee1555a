"""TensorRT: compiled for the GPU at hand, or for all from Ampere on; with the fused kernels as plugins where asked."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import Any

from anycost.errors import BackendError, BuildError
from anycost.export.compilers import plan
from anycost.export.fused import plugin_nodes, with_plugins
from anycost.export.trace import Traced
from anycost.export.variants import Variant
from anycost.runtime.backends import PluginWay
from anycost.runtime.cuda.devices import CudaDevice, devices
from anycost.runtime.cuda.driver import cuda
from anycost.runtime.cuda.tensorrt_plugins import CLASSES

# Code of this capability runs on every later one; that of sm_90 and later on its own alone.
_COMMON_TARGET = "sm_80"
# The first version whose IPluginV3 classes are used.
_FIRST_LAUNCHED = (10, 3)


@dataclass(frozen=True)
class Features:
    """What a TensorRT offers for plugins. ahead_of_time: that plans keep their kernels; classes: that Python has IPluginV3."""

    version: str
    ahead_of_time: bool
    classes: bool

    @classmethod
    def of(cls, trt: ModuleType) -> Features:
        return cls(
            trt.__version__, hasattr(_plugin_module(trt), "aot_impl"), all(hasattr(trt, name) for name in CLASSES)
        )


def plugin_way(features: Features) -> PluginWay:
    """How fused kernels run: ``compiled`` into the plan where the library can (10.8 or later), else ``launched`` by the runtime.

    Raises BuildError for a library that can do neither.
    """
    if features.ahead_of_time:
        return "compiled"
    version = tuple(int(number) for number in re.findall(r"\d+", features.version)[:2])
    if features.classes and version >= _FIRST_LAUNCHED:
        return "launched"
    raise BuildError(
        f"TensorRT {features.version} has neither plugins with ahead-of-time kernels nor those of 10.3: install 10.8 or later, "
        "or build without --fused"
    )


def write(traced: Traced, variant: Variant, folder: Path) -> None:
    import tensorrt as trt

    way: PluginWay = "none"
    if variant.fused:
        way = way_of(trt, traced)
        traced = with_registered_plugins(trt, traced, variant.targets)
    plan.write(trt, plan.Library("tensorrt", "refit", aim, way), traced, variant, folder)


def way_of(trt: ModuleType, traced: Traced) -> PluginWay:
    """``plugin_way`` of a library, for a graph in the form for the fused kernels; ``none`` where it has none of their layers."""
    if traced.functions is None or not plugin_nodes(traced.functions):
        return "none"
    return plugin_way(Features.of(trt))


def with_registered_plugins(trt: ModuleType, traced: Traced, targets: tuple[str, ...]) -> Traced:
    """The graph with its fused layers as plugins, which are registered here; one without such layers stays as it is.

    Raises BuildError for a TensorRT without such plugins, or where it has to time them and there is no GPU; BackendError without
    Triton.
    """
    way = way_of(trt, traced)
    if way == "none" or traced.functions is None:
        return traced
    if util.find_spec("triton") is None:
        raise BackendError("fused kernels are compiled by Triton: pip install 'anycost-runtime[kernels]'")
    if way == "compiled":
        from anycost.kernels.plugin.registration import register

        register(trt, _plugin_module(trt), targets[0] if len(targets) == 1 else _COMMON_TARGET)
    else:
        from anycost.kernels.plugin import launched

        launched.register(trt, _device(), cuda(_device().ordinal), targets)
    return replace(traced, model=with_plugins(traced.functions))


def _plugin_module(trt: ModuleType) -> Any:
    """``tensorrt.plugin``, None before 10.7."""
    try:
        return import_module(f"{trt.__name__}.plugin")
    except ImportError:
        return None


def _device() -> CudaDevice:
    found = devices()
    if not found:
        raise BuildError(
            "TensorRT builds on a GPU and none was found here: build there, or ahead of time with --backend tensorrt_rtx"
        )
    return found[0]


def aim(trt: ModuleType, config: Any, targets: tuple[str, ...]) -> None:
    """Raises BuildError where there is no GPU, or for targets that this one cannot build for."""
    here = _device().target
    if targets == (here,):
        return
    if any(int(target[3:]) < 80 for target in (*targets, here)):
        raise BuildError(
            f"TensorRT builds for the GPU at hand ({here}) or for those from sm_80 on, not for {', '.join(targets)}"
        )
    config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
