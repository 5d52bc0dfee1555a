"""What is timed: ways to run a sub-network from w+ to the image with stored noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from anycost.benchmarks.gpu.case import Case, Contender
from anycost.benchmarks.gpu.engine_contender import EngineContender
from anycost.benchmarks.gpu.fused_operators import fused_eager
from anycost.benchmarks.gpu.torch_contender import TorchContender


@dataclass(frozen=True)
class Kind:
    """title: for tables. backend: whose engines it runs, empty for PyTorch. place: ``gpu``, ``dry`` or ``both``. triton: whether
    it needs Triton's compiler."""

    title: str
    make: Callable[[Case], Contender]
    backend: str = ""
    place: str = "gpu"
    triton: bool = False


def _engines(title: str, backend: str, place: str = "gpu") -> Kind:
    return Kind(title, lambda case: EngineContender(case, backend), backend, place, triton=backend == "cuda")


# In the order they run: what takes longest to prepare is last.
CONTENDERS: Mapping[str, Kind] = {
    "eager": Kind("eager, paper's form", lambda case: TorchContender(case, static=False, compiled=False), place="both"),
    "static": Kind(
        "eager, static weights", lambda case: TorchContender(case, static=True, compiled=False), place="both"
    ),
    "eager-fused": Kind("eager with fused operators", fused_eager, triton=True),
    "onnxruntime": _engines("ORT CPU", "onnxruntime", "dry"),
    "cuda": _engines("our kernels", "cuda"),
    "tensorrt_rtx": _engines("TensorRT-RTX", "tensorrt_rtx"),
    "tensorrt": _engines("TensorRT", "tensorrt"),
    "onnxruntime_cuda": _engines("ORT CUDA", "onnxruntime_cuda"),
    "onnxruntime_tensorrt": _engines("ORT TensorRT", "onnxruntime_tensorrt"),
    "onnxruntime_tensorrt_rtx": _engines("ORT TensorRT-RTX", "onnxruntime_tensorrt_rtx"),
    "compiled": Kind("torch.compile, static weights", lambda case: TorchContender(case, static=True, compiled=True)),
    "compiled-paper": Kind(
        "torch.compile, paper's form", lambda case: TorchContender(case, static=False, compiled=True)
    ),
}
