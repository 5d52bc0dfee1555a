"""Networks as checked ONNX models: the generator's are written (functions.py), all others traced with one exporter."""

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
from torch import Tensor, nn

from anycost.errors import BuildError
from anycost.export.deploy import bind, mapping_bindings, synthesis_bindings, with_noise
from anycost.export.functions import (
    OPSET,
    constant_name,
    inlined,
    mapping_functions,
    opset_of,
    synthesis_functions,
)
from anycost.export.fused import fused_bindings, fused_synthesis_functions
from anycost.export.half import TYPES, half_bindings
from anycost.export.half_graph import in_half
from anycost.export.network_form import TracedPart
from anycost.networks.channels import Architecture, Subnet
from anycost.networks.kinds import Part
from anycost.runtime.binding import Binding

# Bytes of constants that come from no weight: FIR kernels, shapes, scalars.
_MOST_LOOSE = 1 << 20


@dataclass(frozen=True)
class MappingSource:
    """The mapping network of a generator."""

    arch: Architecture


@dataclass(frozen=True)
class SynthesisSource:
    """A sub-network of a generator. stored_noise: whether its noise is a constant."""

    arch: Architecture
    net: Subnet
    stored_noise: bool


@dataclass(frozen=True)
class Traced:
    """A checked ONNX model with a dynamic batch, of standard operators. bindings: initializer name -> how the weights file makes
    it. functions: the same with one node a layer, of functions of the domain ``anycost``, where it was written so. source: of
    which part of a generator it is the graph, for what builds engines without one; None for other networks."""

    model: onnx.ModelProto
    bindings: dict[str, Binding]
    functions: onnx.ModelProto | None = None
    source: MappingSource | SynthesisSource | None = None

    @property
    def opset(self) -> int:
        return next(domain.version for domain in self.model.opset_import if domain.domain in ("", "ai.onnx"))

    def values(self) -> dict[str, np.ndarray]:
        """The bound initializers as the tracer computed them."""
        found = {initializer.name: initializer for initializer in self.model.graph.initializer}
        return {name: onnx.numpy_helper.to_array(found[name]) for name in self.bindings}


def trace_mapping(arch: Architecture, state: Mapping[str, Tensor]) -> Traced:
    """``mapping``: input z [batch, style_dim], output w [batch, style_dim]. It is computed in float32 by engines of every
    precision: eight small products, and w decides everything."""
    bindings = mapping_bindings(arch)
    return written(mapping_functions(arch, bind(bindings, state)), bindings, MappingSource(arch))


def trace_synthesis(
    arch: Architecture,
    net: Subnet,
    state: Mapping[str, Tensor],
    stored_noise: bool,
    precision: str = "fp32",
    fused: bool = False,
) -> Traced:
    """A sub-network: inputs w_plus [batch, n_style, style_dim] and noise_i [batch, 1, H, H], output image [batch, 3, R, R],
    float32 in every precision. fused: in the layouts of the fused kernels, whose plugins TensorRT finds in ``functions``."""
    source = SynthesisSource(arch, net, stored_noise)
    if fused:
        bindings = fused_bindings(arch, net, stored_noise, precision)
        constants = bind(bindings, state)
        return written(fused_synthesis_functions(arch, net, constants, stored_noise, precision), bindings, source)
    if precision == "fp32":
        bindings = with_noise(synthesis_bindings(arch, net), net, stored_noise)
    else:
        dtype = TYPES[precision][1]
        bindings = with_noise(half_bindings(arch, net, dtype), net, stored_noise, dtype)
    return written(synthesis_functions(arch, net, bind(bindings, state), stored_noise, precision), bindings, source)


def written(
    model: onnx.ModelProto, bindings: Mapping[str, Binding], source: MappingSource | SynthesisSource | None
) -> Traced:
    """Of a model with function nodes, whose constants are all bound."""
    onnx.checker.check_model(model, full_check=True)
    plain = inlined(model)
    onnx.checker.check_model(plain, full_check=True)
    named = {constant_name(name): binding for name, binding in bindings.items()}
    return Traced(plain, named, functions=model, source=source)


def trace_part(network: nn.Module, part: Part, precision: str = "fp32", batch: int = 2) -> Traced:
    """A part of any other network; its inputs and outputs are float32 in every precision. batch: of the example that is
    traced; any batch can be run."""
    form = TracedPart(network, part).eval()
    inputs = {"inputs": [torch.zeros(batch, *port.shape) for port in part.inputs]}
    names = [port.name for port in part.inputs]
    outputs = [port.name for port in part.outputs]
    traced = _trace(form, inputs, names, outputs, form.bindings, opset_of(precision))
    state = form.state_dict()
    for name, value in traced.values().items():
        if not np.array_equal(value, state[name].numpy()):
            raise BuildError(
                f"the exporter changed the weights {name}: this PyTorch version ({torch.__version__}) is not supported"
            )
    if precision == "fp32":
        return traced
    model, types = in_half(traced.model, precision, set(traced.bindings))
    bindings = {name: binding.model_copy(update={"dtype": types[name]}) for name, binding in traced.bindings.items()}
    return Traced(model, bindings)


def _trace(
    network: nn.Module,
    inputs: Mapping[str, Tensor | list[Tensor]],
    names: list[str],
    outputs: list[str],
    bindings: Mapping[str, Binding],
    opset: int = OPSET,
) -> Traced:
    batch = torch.export.Dim("batch", min=1, max=1024)
    dynamic = {name: [{0: batch} for _ in x] if isinstance(x, list) else {0: batch} for name, x in inputs.items()}
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            network.eval(),
            tuple(inputs.values()),
            input_names=names,
            output_names=outputs,
            dynamic_shapes=dynamic,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = _bare(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    found = {initializer.name: initializer for initializer in model.graph.initializer}
    # A part of a network uses some of its constants only.
    bound = {name: binding for name, binding in bindings.items() if name in found}
    loose = sum(len(initializer.raw_data) for name, initializer in found.items() if name not in bound)
    if not bound or loose > _MOST_LOOSE:
        raise BuildError(
            f"the exporter renamed or folded {loose} bytes of weights: this PyTorch version ({torch.__version__}) is not "
            "supported"
        )
    return Traced(model, bound)


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
