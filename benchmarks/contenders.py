"""What is timed: ways to run one sub-network from w+ to the image at batch 1 with stored noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anycost.export.trace import quiet
from anycost.networks.channels import Subnet
from anycost.networks.stylegan2 import Generator
from anycost.runtime.runtime import Runtime

Call = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Case:
    """One sub-network of a generator and of a bundle built from it. w_plus: float32 [1, n_style, style_dim]."""

    generator: Generator
    net: Subnet
    runtime: Runtime
    w_plus: np.ndarray
    threads: int


class _Paper(torch.nn.Module):
    """The paper's formulation of one sub-network as a module of its own."""

    def __init__(self, generator: Generator, net: Subnet):
        super().__init__()
        self.generator = generator
        self.net = net

    def forward(self, w_plus: torch.Tensor) -> torch.Tensor:
        return self.generator.synthesis(w_plus, "stored", self.net)


def eager(case: Case) -> Call:
    return _by_torch(_Paper(case.generator, case.net), case)


def compiled(case: Case) -> Call:
    torch._dynamo.reset()
    return _by_torch(torch.compile(_Paper(case.generator, case.net)), case)


def _by_torch(network: Callable[..., torch.Tensor], case: Case) -> Call:
    w_plus = torch.from_numpy(case.w_plus)

    def call() -> np.ndarray:
        with torch.inference_mode():
            return network(w_plus).numpy()

    return call


def paper_onnxruntime(case: Case) -> Call:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = case.threads
    options.log_severity_level = 3
    session = ort.InferenceSession(_paper_onnx(case), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"w_plus": case.w_plus})[0]


def paper_openvino(case: Case) -> Call:
    return _paper_openvino(case, "f32")


def paper_openvino_bf16(case: Case) -> Call:
    return _paper_openvino(case, "bf16")


def _paper_openvino(case: Case, precision: str) -> Call:
    import openvino as ov

    core = ov.Core()
    # The same settings as ours, and a fixed batch as ours has when it runs.
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": case.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    request = core.compile_model(core.read_model(_paper_onnx(case)), "CPU", settings).create_infer_request()

    def call() -> np.ndarray:
        # As ours does: the image is written into the array that is returned.
        image = np.empty(tuple(request.model_outputs[0].shape), np.float32)
        request.set_output_tensor(0, ov.Tensor(image, shared_memory=True))
        request.infer({"w_plus": case.w_plus}, share_inputs=True, share_outputs=True)
        return image

    return call


# The last export: a sub-network's contenders run one after the other.
_exported: dict[str, bytes] = {}


def _paper_onnx(case: Case) -> bytes:
    """The paper's formulation by the dynamo exporter; batch 1 is fixed, which only helps it."""
    if case.net.name not in _exported:
        _exported.clear()
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                _Paper(case.generator, case.net).eval(),
                (torch.from_numpy(case.w_plus),),
                input_names=["w_plus"],
                opset_version=18,
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        _exported[case.net.name] = program.model_proto.SerializeToString()
    return _exported[case.net.name]


def ours_onnxruntime(case: Case) -> Call:
    return _ours(case, "onnxruntime")


def ours_openvino(case: Case) -> Call:
    return _ours(case, "openvino")


def ours_openvino_bf16(case: Case) -> Call:
    return _ours(case, "openvino-bf16")


def _ours(case: Case, variant: str) -> Call:
    session = case.runtime.session(case.net.name, variant)
    return lambda: session.synthesize(case.w_plus, None)


CONTENDERS: Mapping[str, Callable[[Case], Call]] = {
    "eager": eager,
    "torch.compile": compiled,
    "paper -> onnxruntime": paper_onnxruntime,
    "paper -> openvino": paper_openvino,
    "ours -> onnxruntime": ours_onnxruntime,
    "ours -> openvino": ours_openvino,
    "paper -> openvino bf16": paper_openvino_bf16,
    "ours -> openvino bf16": ours_openvino_bf16,
}
