"""ONNX Runtime with its TensorRT provider: what TensorRT does not take is left to CUDA.

TensorRT compiles on the device that runs, when a batch size first comes that lies outside of those before; what it made is kept
in the user's cache. The provider has no option against TF32: a float32 engine may multiply with ten bits on GPUs from Ampere
on, and does not pass its parity bound then. (The environment variable NVIDIA_TF32_OVERRIDE=0, set before the process starts,
forbids it.)
"""

from __future__ import annotations

from pathlib import Path

from anycost.runtime.backends import Bind, onnxruntime_cuda
from anycost.runtime.backends.onnxruntime_gpu import DEVICE, Opening, Provider, preload_tensorrt
from anycost.runtime.backends.onnxruntime_gpu import load as load_with
from anycost.runtime.cuda.onnxruntime_engine import OrtGpuEngine

NAME = "TensorrtExecutionProvider"


def options(opening: Opening) -> dict[str, str]:
    folder = str(opening.folder)
    return opening.common | {
        "device_id": str(DEVICE),
        # They let TensorRT compute in a type that the graph does not name: none but the engine's own.
        "trt_fp16_enable": "1" if opening.precision == "fp16" else "0",
        "trt_bf16_enable": "1" if opening.precision == "bf16" else "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        # Of kernels, whatever the weights: one for all engines. The provider names the file by the GPU.
        "trt_timing_cache_path": str(opening.folder.parent),
    }


PROVIDER = Provider(
    "onnxruntime_tensorrt",
    NAME,
    "the libraries of TensorRT 10, CUDA and cuDNN could not be loaded: pip install 'tensorrt>=10,<11' "
    "'onnxruntime-gpu[cuda,cudnn]'",
    providers=lambda opening: [
        (NAME, options(opening)),
        (onnxruntime_cuda.NAME, onnxruntime_cuda.options(opening)),
    ],
    prepare=preload_tensorrt,
    caches=True,
)


def load(folder: Path, bind: Bind, threads: int) -> OrtGpuEngine:
    return load_with(PROVIDER, folder, bind, threads)
