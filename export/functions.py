"""The elastic generator as ONNX of high level: one node a layer, of functions of the domain ``anycost`` with standard bodies.

The graph is written, not traced: its arithmetic is that of ``static_synthesis`` and ``half_synthesis``, operation for operation.
Compilers get it with the functions inlined (``inlined``); a reader, and TensorRT with the fused kernels, as it is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

import onnx
import torch
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper
from torch import Tensor

from anycost._version import __version__
from anycost.export.function_bodies import DOMAIN, functions
from anycost.networks.channels import Architecture, Layer, Subnet
from anycost.networks.stylegan2 import fir_kernel
from anycost.runtime.latents import noise_sides

OPSET = 18
BFLOAT16_OPSET = 22  # the first whose convolutions take bfloat16
IR_VERSION = 10
ELEMENTS = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
}
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def constant_name(name: str) -> str:
    """A binding's name as that of an initializer."""
    return f"constants.{name.replace('.', '__')}"


def opset_of(precision: str) -> int:
    return BFLOAT16_OPSET if precision == "bf16" else OPSET


def synthesis_functions(
    arch: Architecture, net: Subnet, constants: Mapping[str, Tensor], stored_noise: bool, precision: str
) -> ModelProto:
    """w_plus [batch, n_style, style_dim] and noise_i [batch, 1, H, H] -> image [batch, 3, R, R], float32.

    constants: what ``synthesis_bindings`` makes for fp32, ``half_bindings`` for fp16 and bf16, with ``noise_bindings`` where the
    noise is stored.
    """
    graph = Writer(opset_of(precision), PRECISIONS[precision])
    for name, tensor in constants.items():
        graph.constant(constant_name(name), tensor)
    graph.input("w_plus", (arch.n_style, arch.style_dim))
    for i, side in enumerate([] if stored_noise else noise_sides(net.resolution)):
        graph.input(f"noise_{i}", (1, side, side))
    write_layers(graph, net.layers(), constant_name("input"), "", stored_noise, precision)
    return graph.model({"image": (3, net.resolution, net.resolution)}, functions(precision, graph.opset))


def write_layers(
    graph: Writer,
    layers: Sequence[Layer],
    x: str,
    image: str,
    stored_noise: bool,
    precision: str,
    channels_last: bool = False,
) -> str:
    """Adds layers that follow on features ``x`` and the image so far ("" where there is none) -> the name of the features after
    them; their image is called ``image``. channels_last: whether x is [N, H, W, C]; then the first layer is one that enlarges."""
    last = layers[-1].name
    for layer in layers:
        style, factor = _style(graph, layer, precision)
        weight, bias = (constant_name(f"{layer.name}.{kind}") for kind in ("weight", "bias"))
        if layer.rgb:
            out = "image" if layer.name == last else layer.name
            below = [image, graph.fir(3, torch.float32)] if image else []
            kind = "ToRGB" if image else "FirstToRGB"
            given = [x, weight, style, *([factor] if factor else []), bias, *below]
            image = graph.node(kind, layer.name, given, [out])[0]
            continue
        given = [x, weight, style, factor, _noise(graph, layer, stored_noise), bias]
        if layer.up:
            fir = graph.fir(layer.leaving, graph.dtype)
            kind = "UpModulatedConvLast" if channels_last and layer is layers[0] else "UpModulatedConv"
            (x,) = graph.node(kind, layer.name, [*given, fir], [layer.name], channels=layer.leaving)
        else:
            (x,) = graph.node("ModulatedConv", layer.name, given, [layer.name])
    return x


def mapping_functions(arch: Architecture, constants: Mapping[str, Tensor]) -> ModelProto:
    """z [batch, style_dim] -> w [batch, style_dim], float32. constants: what ``mapping_bindings`` makes."""
    graph = Writer(OPSET, torch.float32)
    for name, tensor in constants.items():
        graph.constant(constant_name(name), tensor)
    graph.input("z", (arch.style_dim,))
    (x,) = graph.node("PixelNorm", "norm", ["z"], ["norm"])
    for i in range(1, arch.n_mlp + 1):
        given = [x, constant_name(f"{i}.weight"), constant_name(f"{i}.bias")]
        (x,) = graph.node("Linear", f"linear{i}", given, ["w" if i == arch.n_mlp else f"linear{i}"])
    return graph.model({"w": (arch.style_dim,)}, functions("fp32", OPSET))


def _style(graph: Writer, layer: Layer, precision: str) -> tuple[str, str]:
    """Names of a layer's style and of what its result is multiplied by: the demodulation, or the gain of a to-RGB layer in half
    precision ("" in float32, where it has none)."""
    name = layer.name
    kinds = ["affine", "affine_bias"] + ([] if layer.rgb else ["energy"]) + ([] if precision == "fp32" else ["peak"])
    given = ["w_plus", *(constant_name(f"{name}.{kind}") for kind in kinds)]
    attributes: dict[str, int | float] = {"row": layer.row}
    outputs = [f"{name}.style", f"{name}.{'gain' if layer.rgb else 'demodulation'}"]
    if precision == "fp32":
        outputs = outputs[:1] if layer.rgb else outputs
    else:
        spread = sqrt(layer.entering * (1 if layer.rgb else 9))
        # The gain sqrt 2 of the activation is folded into the demodulation.
        attributes["spread"] = spread if layer.rgb else sqrt(2) * spread
    graph.node("RGBStyle" if layer.rgb else "Style", f"{name}.style", given, outputs, **attributes)
    return outputs[0], outputs[1] if len(outputs) > 1 else ""


def _noise(graph: Writer, layer: Layer, stored: bool) -> str:
    name = f"noise_{layer.noise}"
    if stored:
        return constant_name(name)
    given = [name, constant_name(f"{layer.name}.strength")]
    return graph.node("Noise", f"{layer.name}.noise", given, [f"{layer.name}.noise"])[0]


class Writer:
    """A graph in the making. dtype: of the activations."""

    def __init__(self, opset: int, dtype: torch.dtype):
        self.opset, self.dtype = opset, dtype
        self._nodes: list[NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[str, TensorProto] = {}

    def input(self, name: str, shape: tuple[int, ...]) -> None:
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]))

    def constant(self, name: str, tensor: Tensor) -> str:
        """An initializer; one that is there already stays."""
        if name not in self._constants:
            made = tensor.detach().contiguous()
            raw = made.view(torch.int16) if made.dtype == torch.bfloat16 else made
            content = raw.numpy().tobytes()
            self._constants[name] = helper.make_tensor(name, ELEMENTS[made.dtype], made.shape, content, raw=True)
        return name

    def fir(self, channels: int, dtype: torch.dtype) -> str:
        """The FIR at gain 4 for so many channels [channels, 1, 4, 4]."""
        name = f"fir.{channels}" if dtype == self.dtype else f"fir.{channels}.float32"
        return self.constant(name, fir_kernel(4.0).to(dtype).expand(channels, 1, 4, 4))

    def node(self, kind: str, name: str, inputs: list[str], outputs: list[str], **attributes: int | float) -> list[str]:
        self._nodes.append(helper.make_node(kind, inputs, outputs, name=name, domain=DOMAIN, **attributes))
        return outputs

    def operator(self, kind: str, source: str, result: str, **attributes: int | list[int]) -> str:
        """A standard operator on one value -> ``result``, what its own is called."""
        self._nodes.append(helper.make_node(kind, [source], [result], name=f"{kind.lower()}.{result}", **attributes))
        return result

    def model(self, outputs: Mapping[str, tuple[int, ...]], known: list[FunctionProto]) -> ModelProto:
        """The model with those of the functions that it uses. Constants that nothing takes are left out."""
        used = {name for node in self._nodes for name in node.input}
        kinds = {node.op_type for node in self._nodes}
        graph = helper.make_graph(
            self._nodes,
            "generator",
            self._inputs,
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
                for name, shape in outputs.items()
            ],
            [constant for name, constant in self._constants.items() if name in used],
        )
        return helper.make_model(
            graph,
            functions=[function for function in known if function.name in kinds],
            opset_imports=[helper.make_opsetid("", self.opset), helper.make_opsetid(DOMAIN, 1)],
            ir_version=IR_VERSION,
            producer_name="anycost",
            producer_version=__version__,
        )


def inlined(model: ModelProto, kept: frozenset[str] = frozenset()) -> ModelProto:
    """Standard operators alone, but for the functions named in ``kept``.

    Values are called by their node's name and theirs in the function's body (``conv1.scaled``), and the numbers in bodies become
    initializers that all layers share.
    """
    bodies = {function.name: function for function in model.functions if function.name not in kept}
    found = ModelProto()
    found.CopyFrom(model)
    del found.graph.node[:], found.functions[:]
    shared: dict[bytes, str] = {}
    for node in model.graph.node:
        if node.domain != DOMAIN or node.op_type not in bodies:
            found.graph.node.append(node)
            continue
        names = dict(zip(bodies[node.op_type].input, node.input, strict=True))
        names |= dict(zip(bodies[node.op_type].output, node.output, strict=True))
        attributes = {attribute.name: attribute for attribute in node.attribute}
        for inner in bodies[node.op_type].node:
            copy = _with_attributes(inner, attributes)
            if copy.op_type == "Constant":
                names[copy.output[0]] = _shared(found.graph, shared, helper.get_node_attr_value(copy, "value"))
                continue
            copy.name = f"{node.name}.{inner.output[0]}"
            copy.input[:] = [names[name] if name else "" for name in inner.input]
            copy.output[:] = [names.setdefault(name, f"{node.name}.{name}") for name in inner.output]
            found.graph.node.append(copy)
    found.functions.extend(function for function in model.functions if function.name in kept)
    if not found.functions:
        del found.opset_import[:]
        found.opset_import.extend(domain for domain in model.opset_import if domain.domain != DOMAIN)
    return found


def _with_attributes(inner: NodeProto, given: Mapping[str, onnx.AttributeProto]) -> NodeProto:
    """A copy of a body's node whose references to the function's attributes are replaced; of a Constant, with its tensor."""
    copy = NodeProto()
    copy.CopyFrom(inner)
    del copy.attribute[:]
    for attribute in inner.attribute:
        made = onnx.AttributeProto()
        made.CopyFrom(given[attribute.ref_attr_name] if attribute.ref_attr_name else attribute)
        made.name = attribute.name
        copy.attribute.append(made)
    if copy.op_type == "Constant" and copy.attribute[0].name != "value":
        (made,) = copy.attribute
        value = helper.get_attribute_value(made)
        element = TensorProto.FLOAT if made.name.startswith("value_float") else TensorProto.INT64
        shape = [len(value)] if isinstance(value, list) else []
        tensor = helper.make_tensor("", element, shape, value if isinstance(value, list) else [value])
        del copy.attribute[:]
        copy.attribute.append(helper.make_attribute("value", tensor))
    return copy


def _shared(graph: onnx.GraphProto, shared: dict[bytes, str], tensor: TensorProto) -> str:
    array = onnx.numpy_helper.to_array(tensor)
    key = f"{array.dtype} {array.shape} ".encode() + array.tobytes()
    if key not in shared:
        text = "_".join(str(value) for value in array.reshape(-1))
        kind = "number" if array.dtype.kind == "f" else "index" if array.ndim == 0 else "axes"
        shared[key] = f"{kind}.{text}"
        graph.initializer.append(onnx.numpy_helper.from_array(array, shared[key]))
    return shared[key]
