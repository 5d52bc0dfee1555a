"""Plans of TensorRT and TensorRT-RTX, whose Python interfaces are one but for what ``Library`` says.

No plan holds weights. TensorRT-RTX builds ahead of time without a GPU, but not what can be refitted ("CHECK(status ==
CUDA_SUCCESS)" where it asks for a device), so its weights are inputs of the network: the runtime uploads each once and all
engines share it. TensorRT, which needs a GPU to build anyway, strips its plans (STRIP_PLAN, REFIT) and is refitted when loaded.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import onnx

from anycost.errors import BuildError
from anycost.export.trace import Traced
from anycost.export.variants import Variant
from anycost.runtime.backends import BINDINGS_NAME, PlanBindings, PluginWay
from anycost.runtime.cuda.tensorrt_engine import PLAN_NAME
from anycost.runtime.files import write_whole
from anycost.runtime.profile import cache_folder

REPORT_NAME = "report.json"
_LOG_LINES = 200
Target = Callable[[ModuleType, Any, tuple[str, ...]], None]


@dataclass(frozen=True)
class Library:
    """What differs. aim(trt, config, targets): sets what the plan is compiled for. plugins: how those in the graph run."""

    name: str
    delivery: Literal["inputs", "refit"]
    aim: Target
    plugins: PluginWay = "none"


def write(trt: ModuleType, library: Library, traced: Traced, variant: Variant, folder: Path) -> None:
    """engine.plan.xz, bindings.json and report.json. Raises BuildError with the library's own words."""
    log = _Log(trt)
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    model = _weights_as_inputs(traced) if library.delivery == "inputs" else traced.model
    if not parser.parse(model.SerializeToString()):
        errors = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise BuildError(f"{library.name} does not take the graph: {' '.join(errors.split())[:300]}")
    config = builder.create_builder_config()
    library.aim(trt, config, variant.targets)
    if library.delivery == "refit":
        config.set_flag(trt.BuilderFlag.REFIT)
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
    # Float32 means float32: TF32 products have ten bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(
            trt.BuilderFlag.REQUIRE_USER_ALLOCATION
        )  # Without it a run may not be captured in a CUDA graph.
    if variant.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, variant.workspace_mb << 20)
    config.add_optimization_profile(_profile(builder, network, traced, variant))
    cache = _TimingCache(trt, config, library.name, variant.targets)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(
            f"{library.name} {trt.__version__} could not build for {', '.join(variant.targets)}: {log.last}"
        )
    cache.keep()
    (folder / PLAN_NAME).write_bytes(lzma.compress(bytes(plan), preset=1))
    bindings = PlanBindings(delivery=library.delivery, plugins=library.plugins, weights=traced.bindings)
    (folder / BINDINGS_NAME).write_text(bindings.model_dump_json(indent=1))
    report = {
        "builder": f"{library.name} {trt.__version__}",
        "targets": list(variant.targets),
        "precision": variant.precision,
        "fused": variant.fused,
        "batch": variant.batch,
        "workspace_mb": variant.workspace_mb,
        "weights": library.delivery,
        "plan_bytes": plan.nbytes,
        "inputs": [_port(network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [_port(network.get_output(i)) for i in range(network.num_outputs)],
        "layers": [_layer(network.get_layer(i)) for i in range(network.num_layers)],
        "tactics": _tactics(trt, log.logger, plan) if library.delivery == "refit" else None,
        "log": log.lines[:_LOG_LINES],
    }
    (folder / REPORT_NAME).write_text(json.dumps(report, indent=1))


def _weights_as_inputs(traced: Traced) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(traced.model)
    kept = []
    for initializer in model.graph.initializer:
        if initializer.name in traced.bindings:
            value = onnx.helper.make_tensor_value_info(initializer.name, initializer.data_type, list(initializer.dims))
            model.graph.input.append(value)
        else:
            kept.append(onnx.TensorProto.FromString(initializer.SerializeToString()))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def _profile(builder: Any, network: Any, traced: Traced, variant: Variant) -> Any:
    least, usual, largest = variant.batch or (1, 1, 1)
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        port = network.get_input(i)
        if port.name not in traced.bindings:
            rest = tuple(port.shape)[1:]
            profile.set_shape(port.name, (least, *rest), (usual, *rest), (largest, *rest))
    return profile


def _port(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.shape), "type": _word(tensor.dtype)}


def _layer(layer: Any) -> dict[str, str]:
    first = layer.get_output(0)
    return {
        "name": layer.name,
        "operation": _word(layer.type),
        "type": _word(first.dtype) if first else "",
        "shape": "x".join(map(str, first.shape)) if first else "",
    }


def _word(value: Any) -> str:
    """``DataType.HALF`` -> ``half``."""
    return str(value).rsplit(".", 1)[-1].lower()


def _tactics(trt: ModuleType, logger: Any, plan: Any) -> Any:
    """What the builder chose for each layer; only a machine that can load the plan can say."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        return None
    inspector = engine.create_engine_inspector()
    return json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


class _TimingCache:
    """Measured tactics of earlier builds, in the user's cache; a damaged one counts as none."""

    def __init__(self, trt: ModuleType, config: Any, library: str, targets: tuple[str, ...]):
        self._config = config
        name = f"{library}-{trt.__version__}-{'-'.join(targets)}.cache"
        self.path = cache_folder() / "timing" / name
        try:
            before = self.path.read_bytes()
        except OSError:
            before = b""
        cache = config.create_timing_cache(before) or config.create_timing_cache(b"")
        if cache is not None:
            config.set_timing_cache(cache, ignore_mismatch=False)

    def keep(self) -> None:
        cache = self._config.get_timing_cache()
        if cache is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, bytes(cache.serialize()))
        except OSError:
            pass  # It only costs the next build its time.


class _Log:
    """The library's messages from INFO on, without its time stamps."""

    def __init__(self, trt: ModuleType):
        lines: list[str] = []
        self.lines = lines

        class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity != trt.ILogger.VERBOSE:
                    lines.append(f"{_word(severity)}: {' '.join(message.split())}")

        self.logger = Logger()

    @property
    def last(self) -> str:
        """The last error."""
        errors = [line for line in self.lines if line.startswith(("error", "internal"))]
        return (errors or self.lines or ["it gave no reason"])[-1][:300]
