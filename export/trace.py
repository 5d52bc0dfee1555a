"""Tracing a deployed network to ONNX, with one exporter for every network."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor

from anycost.errors import BuildError
from anycost.export.deploy import Deployed, StaticMapping, StaticSynthesis
from anycost.networks.channels import Architecture, Subnet
from anycost.runtime.binding import Binding
from anycost.runtime.latents import noise_sides

OPSET = 18


@dataclass(frozen=True)
class Traced:
    """A checked ONNX model with a dynamic batch. bindings: initializer name -> how the weights file makes it."""

    model: onnx.ModelProto
    bindings: dict[str, Binding]

    def values(self) -> dict[str, np.ndarray]:
        """The bound initializers as the tracer computed them."""
        found = {initializer.name: initializer for initializer in self.model.graph.initializer}
        return {name: onnx.numpy_helper.to_array(found[name]) for name in self.bindings}


def trace_mapping(arch: Architecture, state: Mapping[str, Tensor]) -> Traced:
    """``mapping``: input z [batch, style_dim], output w [batch, style_dim]."""
    example = torch.zeros(2, arch.style_dim)
    return _trace(StaticMapping(arch, state), {"z": example}, ["z"], "w")


def trace_synthesis(arch: Architecture, net: Subnet, state: Mapping[str, Tensor], stored_noise: bool) -> Traced:
    """A sub-network: inputs w_plus [batch, n_style, style_dim] and noise_i [batch, 1, H, H], output image [batch, 3, R, R]."""
    inputs: dict[str, Tensor | list[Tensor]] = {"w_plus": torch.zeros(2, arch.n_style, arch.style_dim)}
    names = ["w_plus"]
    if not stored_noise:
        inputs["noise"] = [torch.zeros(2, 1, side, side) for side in noise_sides(net.resolution)]
        names += [f"noise_{i}" for i in range(len(inputs["noise"]))]
    return _trace(StaticSynthesis(arch, net, state, stored_noise), inputs, names, "image")


def _trace(network: Deployed, inputs: Mapping[str, Tensor | list[Tensor]], names: list[str], output: str) -> Traced:
    batch = torch.export.Dim("batch", min=1, max=1024)
    dynamic = {name: [{0: batch} for _ in x] if isinstance(x, list) else {0: batch} for name, x in inputs.items()}
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            network.eval(),
            tuple(inputs.values()),
            input_names=names,
            output_names=[output],
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = _bare(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    found = {initializer.name for initializer in model.graph.initializer}
    bindings = {f"constants.{name.replace('.', '__')}": binding for name, binding in network.bindings.items()}
    missing = sorted(set(bindings) - found)
    if missing:
        raise BuildError(
            f"the exporter dropped or renamed {missing[0]}: this PyTorch version ({torch.__version__}) is not supported"
        )
    return Traced(model, bindings)


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the tracer's notes (file names, stack traces): they differ between machines and tell a reader nothing."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
        part.doc_string = ""
    model.doc_string = ""
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter prints its steps and warns about packages that are not needed here."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
