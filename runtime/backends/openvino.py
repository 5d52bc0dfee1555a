"""OpenVINO on the CPU. Its weights blob is put together in memory from the bundle's weights.

The graph has a dynamic batch, but OpenVINO's CPU plugin is twice as fast with a fixed one (it fuses more and lays its
buffers out once), so a model is compiled for each batch size that is asked for; the last two are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino as ov

from anycost.runtime.backends import BINDINGS_NAME, Array, Bind, BlobBindings
from anycost.runtime.buffers import Buffers

MODEL_NAME = "model.xml"
CONSTANTS_NAME = "constants.bin"
KEPT_BATCH_SIZES = 2


class OpenVinoEngine:
    def __init__(self, core: ov.Core, model: ov.Model, blob: Array, threads: int):
        self._core = core
        self._model = model
        self._outputs = [port.any_name for port in model.outputs]
        # The model's constants lie in it.
        self._blob = blob
        self._requests: OrderedDict[int, ov.InferRequest] = OrderedDict()
        self._buffers = Buffers()
        # Of the outputs, by batch size: the library takes long to tell.
        self._shapes: dict[int, list[tuple[int, ...]]] = {}
        self._settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            # Left to itself the plugin computes in bfloat16 wherever the processor has it. Where the processor has not, both
            # mean float32.
            "INFERENCE_PRECISION_HINT": "bf16" if _in_bfloat16(model) else "f32",
        }

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        batch = len(next(iter(inputs.values())))
        request = self._request(batch)
        found = {}
        for i, (name, shape) in enumerate(zip(self._outputs, self._shapes[batch], strict=True)):
            # Written into by the last layer itself: a copy of its own would cost up to a fifth of a run.
            found[name] = self._buffers.empty(shape)
            request.set_output_tensor(i, ov.Tensor(found[name], shared_memory=True))
        request.infer(dict(inputs), share_inputs=True, share_outputs=True)
        return found

    def _request(self, batch: int) -> ov.InferRequest:
        if batch in self._requests:
            self._requests.move_to_end(batch)
            return self._requests[batch]
        while len(self._requests) >= KEPT_BATCH_SIZES:
            self._requests.popitem(last=False)
        shapes = {}
        for port in self._model.inputs:
            shape = port.partial_shape
            shape[0] = batch
            shapes[port.any_name] = shape
        self._model.reshape(shapes)
        request = self._core.compile_model(self._model, "CPU", self._settings).create_infer_request()
        self._requests[batch] = request
        self._shapes[batch] = [tuple(port.shape) for port in request.model_outputs]
        return request


def _in_bfloat16(model: ov.Model) -> bool:
    """Whether the engine was built in bf16: then its layers' weights are. (A mapping has none, and w is computed in float32.)"""
    constants = (op for op in model.get_ops() if op.get_type_name() == "Constant")
    return any(op.get_element_type() == ov.Type.bf16 for op in constants)


def load(folder: Path, bind: Bind, threads: int) -> OpenVinoEngine:
    bindings = BlobBindings.model_validate_json((folder / BINDINGS_NAME).read_bytes())
    constants = (folder / CONSTANTS_NAME).read_bytes()
    blob = np.zeros(bindings.size, np.uint8)
    for weight in bindings.weights:
        data = bind(weight.binding).reshape(-1).view(np.uint8)
        blob[weight.offset : weight.offset + len(data)] = data
    for constant in bindings.constants:
        piece = constants[constant.start : constant.start + constant.size]
        blob[constant.offset : constant.offset + constant.size] = np.frombuffer(piece, np.uint8)
    core = ov.Core()
    model = core.read_model((folder / MODEL_NAME).read_bytes(), ov.Tensor(blob, blob.shape, ov.Type.u8))
    return OpenVinoEngine(core, model, blob, threads)
