"""Running a traced graph as it is: the check of engines that this machine cannot run."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import onnx
import onnxruntime as ort

from anycost.export.trace import Traced
from anycost.runtime.backends import Array, Bind


class GraphEngine:
    """ONNX Runtime on the CPU, with the weights file's weights inside, as the engine gets them. It has no bfloat16 convolutions:
    such graphs are run by OpenVINO."""

    def __init__(self, traced: Traced, bind: Bind, threads: int):
        model = _filled(traced, bind).SerializeToString()
        if any(binding.dtype == "bfloat16" for binding in traced.bindings.values()):
            self._run = _openvino(model, threads)
            return
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        self._run = lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self._run(dict(inputs))


def _filled(traced: Traced, bind: Bind) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(traced.model)
    for initializer in model.graph.initializer:
        binding = traced.bindings.get(initializer.name)
        if binding is not None:
            value = bind(binding)
            typed = value.view(ml_dtypes.bfloat16) if binding.dtype == "bfloat16" else value
            initializer.CopyFrom(onnx.numpy_helper.from_array(typed, initializer.name))
    return model


def _openvino(model: bytes, threads: int):  # type: ignore[no-untyped-def]
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(core.read_model(model, b""), "CPU", {"INFERENCE_NUM_THREADS": threads})
    names = [port.any_name for port in compiled.outputs]

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        found = compiled(inputs)
        return {name: found[i] for i, name in enumerate(names)}

    return run
