"""ONNX Runtime on the CPU. The graph's initializers are handed over at session creation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from anycost.runtime.backends import BINDINGS_NAME, Array, Bind, OnnxBindings

MODEL_NAME = "model.onnx"


class OrtEngine:
    def __init__(self, session: ort.InferenceSession, values: list[ort.OrtValue]):
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        # The session may read these in place: they must live as long as it does.
        self._values = values

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        found = self._session.run(self._outputs, dict(inputs))
        return {name: np.asarray(output) for name, output in zip(self._outputs, found, strict=True)}


def load(folder: Path, bind: Bind, threads: int) -> OrtEngine:
    bindings = OnnxBindings.model_validate_json((folder / BINDINGS_NAME).read_bytes()).initializers
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    values = [ort.OrtValue.ortvalue_from_numpy(bind(binding)) for binding in bindings.values()]
    options.add_external_initializers(list(bindings), values)
    session = ort.InferenceSession(folder / MODEL_NAME, options, providers=["CPUExecutionProvider"])
    return OrtEngine(session, values)
