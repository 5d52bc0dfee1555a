"""Which of a network's engines Triton can run, on what, and whose graph each of them takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anycost.export.triton_configs import Place
from anycost.runtime.manifest import PRECISIONS, EngineRecord, Precision

# Engines that are a graph of ONNX Runtime, which Triton runs as it is.
GRAPHS = ("onnxruntime", "onnxruntime_cuda", "onnxruntime_tensorrt", "onnxruntime_tensorrt_rtx")
# Engines that TensorRT stands behind: in Triton its plan, or ONNX Runtime's provider.
_TENSORRT = ("onnxruntime_tensorrt", "onnxruntime_tensorrt_rtx", "tensorrt", "tensorrt_rtx")
_ORDER = ("tensorrt", "onnxruntime_cuda", "onnxruntime")
# Triton's configuration has a word for one precision of the provider beside fp32 that needs no calibration.
_ACCELERATED = ("fp32", "fp16")


@dataclass(frozen=True)
class TritonVariant:
    """One way to run a network. engine: that it stands for. source: whose graph is taken. label: for the model's name."""

    engine: EngineRecord
    source: EngineRecord
    label: str
    place: Place


def triton_variants(engines: Sequence[EngineRecord], plans: bool) -> list[TritonVariant]:
    """One for each precision of TensorRT, CUDA and the CPU, GPUs and the most exact first. engines: of one network. plans:
    whether TensorRT can build here."""
    graphs: dict[str, EngineRecord] = {}
    for engine in engines:
        if engine.backend in GRAPHS:
            graphs.setdefault(engine.precision, engine)
    found: dict[tuple[str, Precision], TritonVariant] = {}
    for engine in engines:
        made = None if engine.fused else _variant(engine, graphs, plans)
        if made is None:
            continue
        key = ("tensorrt" if engine.backend in _TENSORRT else engine.backend), made.source.precision
        if key not in found or (made.place.plan and not found[key].place.plan):
            found[key] = made
    order = sorted(found, key=lambda key: (_ORDER.index(key[0]), PRECISIONS.index(key[1])))
    return [found[key] for key in order]


def _variant(engine: EngineRecord, graphs: dict[str, EngineRecord], plans: bool) -> TritonVariant | None:
    if engine.backend in _TENSORRT:
        source = engine if engine.backend in GRAPHS else graphs.get(engine.precision)
        if plans and engine.backend == "tensorrt" and source is not None:
            return TritonVariant(engine, source, _label("tensorrt", source), Place("gpu", plan=True))
        if source is None or source.precision not in _ACCELERATED:
            source = graphs.get("fp32")  # right, if slower
        if source is None:
            return None
        place = Place("gpu", accelerator="tensorrt", half=source.precision == "fp16")
        return TritonVariant(engine, source, _label("tensorrt", source), place)
    if engine.backend not in GRAPHS:
        return None
    place = Place("gpu" if engine.backend == "onnxruntime_cuda" else "cpu")
    return TritonVariant(engine, engine, _label(engine.backend, engine), place)


def _label(kind: str, source: EngineRecord) -> str:
    return kind if source.precision == "fp32" else f"{kind}-{source.precision}"
