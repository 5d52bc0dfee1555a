"""ONNX Runtime on the CPU. The graph's initializers are handed over at session creation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from anycost.runtime.backends import BINDINGS_NAME, Array, Bind, OnnxBindings
from anycost.runtime.binding import Binding, Dtype

MODEL_NAME = "model.onnx"
_BFLOAT16 = 16  # in ONNX's numbering of types


class OrtEngine:
    def __init__(self, session: ort.InferenceSession, values: list[Any]):
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        # The session may read these in place: they must live as long as it does.
        self._values = values

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        found = self._session.run(self._outputs, dict(inputs))
        return {name: np.asarray(output) for name, output in zip(self._outputs, found, strict=True)}


def settings(threads: int) -> ort.SessionOptions:
    """Those of every session, on any device."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Each session has threads of its own, which else keep a core busy for milliseconds after a run, waiting for the next: of
    # three engines that run in turns, the largest took 9.3 ms instead of 3.2, and alone none is slower without.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    return options


def bindings_of(folder: Path) -> dict[str, Binding]:
    """What an engine's initializers are made of, by name."""
    return OnnxBindings.model_validate_json((folder / BINDINGS_NAME).read_bytes()).initializers


def hand_over(options: ort.SessionOptions, arrays: Mapping[str, Array], bindings: Mapping[str, Binding]) -> list[Any]:
    """Give a session its initializers in place of those that the graph declares as external. -> the values, to be kept as
    long as the session."""
    values = [_value(array, bindings[name].dtype) for name, array in arrays.items()]
    options.add_external_initializers(list(arrays), values)
    return values


def _value(array: Array, dtype: Dtype) -> ort.OrtValue:
    if dtype == "bfloat16":  # NumPy has none: these are its bits.
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def load(folder: Path, bind: Bind, threads: int) -> OrtEngine:
    bindings = bindings_of(folder)
    options = settings(threads)
    values = hand_over(options, {name: bind(binding) for name, binding in bindings.items()}, bindings)
    session = ort.InferenceSession(folder / MODEL_NAME, options, providers=["CPUExecutionProvider"])
    return OrtEngine(session, values)
