"""ONNX Runtime on any device: the graph itself, its weights declared as external so that the runtime hands them over."""

from __future__ import annotations

from pathlib import Path

import onnx

from anycost.export.compilers import bfloat16
from anycost.export.trace import Traced
from anycost.export.variants import Variant
from anycost.export.winograd import winograd
from anycost.runtime.backends import BINDINGS_NAME, OnnxBindings
from anycost.runtime.backends.onnxruntime import MODEL_NAME

# Never opened: the runtime replaces every initializer that names it.
_LOCATION = "given-at-load"


def write(traced: Traced, variant: Variant, folder: Path) -> None:
    model = onnx.ModelProto()
    # Libraries for GPUs choose such an algorithm themselves.
    model.CopyFrom(winograd(traced.model) if variant.backend == "onnxruntime" else traced.model)
    if variant.precision == "bf16":
        kept = bfloat16.CUDA if variant.backend == "onnxruntime_cuda" else bfloat16.TENSORRT
        model = bfloat16.for_onnxruntime(model, kept)
    for initializer in model.graph.initializer:
        if initializer.name in traced.bindings:
            size = traced.bindings[initializer.name].bytes
            initializer.ClearField("raw_data")
            initializer.ClearField("float_data")
            initializer.ClearField("int32_data")
            initializer.data_location = onnx.TensorProto.EXTERNAL
            del initializer.external_data[:]
            for key, value in (("location", _LOCATION), ("offset", "0"), ("length", str(size))):
                initializer.external_data.add(key=key, value=value)
    (folder / MODEL_NAME).write_bytes(model.SerializeToString(deterministic=True))
    bindings = OnnxBindings(initializers=traced.bindings)
    (folder / BINDINGS_NAME).write_text(bindings.model_dump_json(indent=1))
