"""ONNX Runtime: the graph itself, its weights declared as external so that the runtime hands them over."""

from __future__ import annotations

from pathlib import Path

import onnx

from anycost.export.trace import Traced
from anycost.runtime.backends import BINDINGS_NAME, OnnxBindings
from anycost.runtime.backends.onnxruntime import MODEL_NAME

# Never opened: the runtime replaces every initializer that names it.
_LOCATION = "given-at-load"


def write(traced: Traced, folder: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(traced.model)
    for initializer in model.graph.initializer:
        if initializer.name in traced.bindings:
            size = len(initializer.raw_data)
            initializer.ClearField("raw_data")
            initializer.ClearField("float_data")
            initializer.data_location = onnx.TensorProto.EXTERNAL
            del initializer.external_data[:]
            for key, value in (("location", _LOCATION), ("offset", "0"), ("length", str(size))):
                initializer.external_data.add(key=key, value=value)
    (folder / MODEL_NAME).write_bytes(model.SerializeToString(deterministic=True))
    bindings = OnnxBindings(initializers=traced.bindings)
    (folder / BINDINGS_NAME).write_text(bindings.model_dump_json(indent=1))
