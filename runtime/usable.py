"""Whether an engine can run on this machine, found before anything is loaded."""

from __future__ import annotations

from anycost.runtime import backends
from anycost.runtime.cuda.devices import CudaDevice, devices
from anycost.runtime.cuda.targets import best_target
from anycost.runtime.manifest import PRECISIONS, EngineRecord

# Backends whose engines are compiled for kinds of GPUs, the last two by one version of a library.
COMPILED_BACKENDS = ("cuda", "tensorrt_rtx", "tensorrt")
# Backends whose engines are graphs: any NVIDIA GPU that the installed package supports, any version.
GRAPH_BACKENDS = ("onnxruntime_tensorrt_rtx", "onnxruntime_cuda", "onnxruntime_tensorrt")
GPU_BACKENDS = COMPILED_BACKENDS + GRAPH_BACKENDS


def unusable(engine: EngineRecord, device: CudaDevice | None = None) -> str:
    """Why an engine cannot run here, with what to do; empty when it can. device: the GPU, the first one by default."""
    version = backends.installed(engine.backend)
    if version is None:
        return backends.missing(engine.backend)
    if engine.backend not in GPU_BACKENDS:
        return ""
    found = device or next(iter(devices()), None)
    if found is None:
        return "it needs an NVIDIA GPU, and no driver or device was found here"
    if engine.backend in GRAPH_BACKENDS:
        return ""
    own = engine.backend == "cuda"
    if not (best_target(engine.targets, found.target) if own else found.target in engine.targets):
        return (
            f"it was built for {', '.join(engine.targets)} and {found.name} is {found.target}: "
            f"build again with --target {found.target}"
        )
    if own:
        return ""  # Machine code depends on no version.
    built = engine.versions.get(engine.backend, "")
    if built != version:
        return f"it was built by {engine.backend} {built} and {version} is installed: build again with --refresh"
    return ""


def preference(engine: EngineRecord) -> tuple[int, int, int]:
    """The order of engines where nothing was measured: GPUs first; then the most exact, and the backends in their order."""
    return (
        engine.backend not in GPU_BACKENDS,
        PRECISIONS.index(engine.precision),
        backends.BACKENDS.index(engine.backend),
    )
