"""The generator for the fused kernels (``anycost.kernels``): channels-last, with the weights as these take them.

Activations are [N, H, W, C], convolutions' weights [9, in, out], styles and what follows the sums float32. The convolutions,
what follows a transposed one and to-RGB are one node each, which TensorRT takes as plugins (``with_plugins``); their bodies of
standard operators say what they mean, and ONNX Runtime runs them where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import onnx
from onnx import ModelProto, helper
from torch import Tensor, ones

from anycost.export.deploy import synthesis_bindings, with_noise
from anycost.export.function_bodies import DOMAIN, fused_functions
from anycost.export.functions import PRECISIONS, Writer, constant_name, inlined, opset_of
from anycost.export.half import TYPES, half_bindings
from anycost.networks.channels import Architecture, Layer, Subnet
from anycost.networks.stylegan2 import fir_kernel
from anycost.runtime.binding import Binding, Dtype
from anycost.runtime.latents import noise_sides

# The functions that are plugins, and the version under which these are registered.
PLUGINS = frozenset({"ModulatedConv", "ModulatedConvTranspose", "Finish", "FirstToRGB", "ToRGB"})
PLUGIN_VERSION = "1"


def fused_bindings(arch: Architecture, net: Subnet, stored_noise: bool, precision: str) -> dict[str, Binding]:
    """Constants by name, as ``synthesis_bindings`` and ``half_bindings`` call them, in the kernels' layouts."""
    plain = synthesis_bindings(arch, net)
    dtype: Dtype = "float32" if precision == "fp32" else TYPES[precision][1]
    found = dict(plain) if precision == "fp32" else half_bindings(arch, net, dtype)
    layers = {layer.name: layer for layer in net.layers()}
    for name, binding in list(found.items()):
        owner, _, kind = name.rpartition(".")
        layer = layers.get(owner)
        if layer is None:  # the constant input
            found[name] = _changed(binding, (1, 4, 4, binding.shape[1]), order=(0, 2, 3, 1), dtype=dtype)
        elif kind == "weight" and layer.rgb:
            found[name] = _changed(plain[name], (3, layer.entering))
        elif kind == "weight":
            found[name] = _changed(binding, (9, layer.entering, layer.leaving), order=(0, 3, 4, 2, 1), dtype=dtype)
        elif kind in ("bias", "strength"):
            found[name] = _changed(plain[name], (1 if kind == "strength" else layer.leaving,))
        elif kind == "peak" and layer.rgb:
            del found[name]  # Its weights are as they are, in float32.
    return with_noise(found, net, stored_noise, dtype)


def _changed(binding: Binding, shape: tuple[int, ...], **more: object) -> Binding:
    # Validated anew, which model_copy does not do.
    return Binding(**(binding.model_dump() | {"shape": shape} | more))


def fused_synthesis_functions(
    arch: Architecture, net: Subnet, constants: Mapping[str, Tensor], stored_noise: bool, precision: str
) -> ModelProto:
    """As ``functions.synthesis_functions``, from what ``fused_bindings`` makes."""
    graph = Writer(opset_of(precision), PRECISIONS[precision])
    for name, tensor in constants.items():
        graph.constant(constant_name(name), tensor)
    taps = graph.constant("fir", fir_kernel(4.0))
    graph.input("w_plus", (arch.n_style, arch.style_dim))
    for i, side in enumerate([] if stored_noise else noise_sides(net.resolution)):
        graph.input(f"noise_{i}", (1, side, side))
    x, image = constant_name("input"), ""
    last = [layer.name for layer in net.layers()][-1]
    for layer in net.layers():
        style, demodulation = _style(graph, layer, precision)
        weight, bias = (constant_name(f"{layer.name}.{kind}") for kind in ("weight", "bias"))
        if layer.rgb:
            below = [image, taps] if image else []
            out = "image" if layer.name == last else layer.name
            kind = "ToRGB" if image else "FirstToRGB"
            (image,) = graph.node(kind, layer.name, [x, weight, style, bias, *below], [out])
            continue
        noise, strength = f"noise_{layer.noise}", constant_name(f"{layer.name}.strength")
        if stored_noise:  # It has its strength in it.
            noise, strength = constant_name(noise), graph.constant("one", ones(1))
        after = [demodulation, noise, strength, bias]
        if layer.up:
            (y,) = graph.node(
                "ModulatedConvTranspose", f"{layer.name}.sums", [x, weight, style], [f"{layer.name}.sums"]
            )
            (x,) = graph.node("Finish", layer.name, [y, taps, *after], [layer.name])
        else:
            (x,) = graph.node("ModulatedConv", layer.name, [x, weight, style, *after], [layer.name])
    known = fused_functions(precision, graph.opset)
    return graph.model({"image": (3, net.resolution, net.resolution)}, known)


def _style(graph: Writer, layer: Layer, precision: str) -> tuple[str, str]:
    """Names of a layer's style and demodulation (none for to-RGB), float32."""
    kinds = ["affine", "affine_bias"] + ([] if layer.rgb else ["energy"])
    attributes: dict[str, int | float] = {"row": layer.row}
    outputs = [f"{layer.name}.style"] + ([] if layer.rgb else [f"{layer.name}.demodulation"])
    if precision != "fp32" and not layer.rgb:
        kinds.append("peak")
        attributes["spread"] = sqrt(2 * layer.entering * 9)
    given = ["w_plus", *(constant_name(f"{layer.name}.{kind}") for kind in kinds)]
    graph.node("RGBStyle" if layer.rgb else "Style", f"{layer.name}.style", given, outputs, **attributes)
    return outputs[0], outputs[-1]


def with_plugins(model: ModelProto) -> ModelProto:
    """A model of ``fused_synthesis_functions`` as TensorRT's parser takes it: plugins by namespace and version, no functions.

    Parsers up to 10.8 prefer a function to a plugin of the same name, later ones do so unless the node says that it is one.
    """
    found = inlined(model, kept=PLUGINS)
    del found.functions[:]
    for node in found.graph.node:
        if node.domain == DOMAIN:
            node.attribute.append(helper.make_attribute("plugin_namespace", DOMAIN))
            node.attribute.append(helper.make_attribute("plugin_version", PLUGIN_VERSION))
    return found


def plugin_nodes(model: ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.domain == DOMAIN and node.op_type in PLUGINS]
