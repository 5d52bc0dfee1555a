"""ONNX Runtime with its CUDA provider: cuDNN's convolutions, one kernel for each node."""

from __future__ import annotations

from pathlib import Path

from anycost.runtime.backends import Bind
from anycost.runtime.backends.onnxruntime_gpu import DEVICE, Opening, Provider, preload
from anycost.runtime.backends.onnxruntime_gpu import load as load_with
from anycost.runtime.cuda.onnxruntime_engine import OrtGpuEngine

NAME = "CUDAExecutionProvider"


def options(opening: Opening) -> dict[str, str]:
    return opening.common | {
        "device_id": str(DEVICE),
        # Float32 means float32: TF32 products have ten bits. What half-precision engines keep in float32 has bits to spare.
        "use_tf32": "0" if opening.precision == "fp32" else "1",
        # By cuDNN's own ranking: a search would time every algorithm of every convolution anew for each batch size, and its
        # choice, with it the last bits of a picture, would change from one process to the next.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Otherwise each block taken is twice as large as the last, where several sub-networks may be loaded.
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "1" if opening.graphs else "0",
    }


PROVIDER = Provider(
    "onnxruntime_cuda",
    NAME,
    "its CUDA and cuDNN libraries could not be loaded: pip install 'onnxruntime-gpu[cuda,cudnn]'",
    providers=lambda opening: [(NAME, options(opening))],
    prepare=preload,
    graphs=True,
)


def load(folder: Path, bind: Bind, threads: int) -> OrtGpuEngine:
    return load_with(PROVIDER, folder, bind, threads)
