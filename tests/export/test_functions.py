"""The generator written as ONNX functions: what they compute, how they read, and their form for the fused kernels."""

from collections import Counter

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
import pytest
import torch
from deterministic import fill, golden_input

from anycost.errors import BuildError
from anycost.export.deploy import StaticMapping, StaticSynthesis
from anycost.export.function_bodies import DOMAIN
from anycost.export.functions import inlined
from anycost.export.fused import PLUGINS, plugin_nodes, with_plugins
from anycost.export.trace import trace_mapping, trace_synthesis
from anycost.export.variants import Variant, variants
from anycost.networks.stylegan2 import Generator
from anycost.runtime.manifest import EngineRecord

FLEXIBLE = [128, 96, 64, 128, 32, 64, 96, 128, 32, 16]
SHAPES = [(64, 1.0), (32, 0.5), (8, 0.25), (64, FLEXIBLE)]
# Of the largest value, from the static form in float64. Float32: rounding; PyTorch's own float32 is 1.3e-6 away. Float16: eleven
# bits, over nine layers.
BOUND = {"fp32": 2e-6, "fp16": 3e-3}


@pytest.fixture(scope="module")
def golden():
    network = Generator(64, 0.25, 128).eval().requires_grad_(False)
    fill(network)
    return network


def given(generator, net, stored):
    w_plus = golden_input("anycost64", "w_plus", (2, 10, 512))
    noise = generator.noise("stored" if stored else "random", net, 2)
    inputs = {"w_plus": w_plus.numpy()}
    inputs |= {} if stored else {f"noise_{i}": layer.numpy() for i, layer in enumerate(noise)}
    return w_plus, noise, inputs


def run(model, inputs):
    return ort.InferenceSession(model.SerializeToString()).run(None, inputs)[0]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_static_form(golden, shape, stored, precision, fused):
    net = golden.subnet(*shape)
    state = golden.state_dict()
    w_plus, noise, inputs = given(golden, net, stored)
    static = StaticSynthesis(golden.arch, net, state, stored).double()
    expected = static(w_plus.double(), None if stored else [layer.double() for layer in noise]).numpy()
    traced = trace_synthesis(golden.arch, net, state, stored, precision, fused)
    found = run(traced.model, inputs)
    assert np.abs(found - expected).max() <= BOUND[precision] * np.abs(expected).max()
    # The functions are what is inlined.
    assert np.abs(run(traced.functions, inputs) - found).max() <= BOUND[precision] * np.abs(expected).max()


def test_the_mapping_too(golden):
    z = golden_input("anycost64", "z", (2, 1, 512))[:, 0]
    expected = StaticMapping(golden.arch, golden.state_dict())(z).numpy()
    traced = trace_mapping(golden.arch, golden.state_dict())
    for model in (traced.model, traced.functions):
        assert np.abs(run(model, {"z": z.numpy()}) - expected).max() <= 2e-6 * np.abs(expected).max()
    assert Counter(node.op_type for node in traced.functions.graph.node) == {"PixelNorm": 1, "Linear": 8}


def test_one_node_a_layer(golden):
    net = golden.subnet(64, 0.5)
    traced = trace_synthesis(golden.arch, net, golden.state_dict(), False)
    nodes = traced.functions.graph.node
    counted = Counter(node.op_type for node in nodes)
    # Five resolutions: a convolution, then two more for each doubling, of which one enlarges; a to-RGB layer each.
    assert counted == {
        "ModulatedConv": 5,
        "UpModulatedConv": 4,
        "FirstToRGB": 1,
        "ToRGB": 4,
        "Style": 9,
        "RGBStyle": 5,
        "Noise": 9,
    }
    assert {node.domain for node in nodes} == {DOMAIN}
    assert {layer.name for layer in net.layers()} <= {node.name for node in nodes}
    assert {function.name for function in traced.functions.functions} == set(counted)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("fused", [False, True])
def test_both_models_are_valid_and_bound(golden, precision, fused):
    net = golden.subnet(16, 0.5)
    traced = trace_synthesis(golden.arch, net, golden.state_dict(), True, precision, fused)
    for model in (traced.functions, traced.model):
        onnx.checker.check_model(model, full_check=True)
    graph = traced.model.graph
    assert [domain.domain for domain in traced.model.opset_import] == [""] and not traced.model.functions
    names = [node.name for node in graph.node]
    assert all(names) and len(set(names)) == len(names)
    constants = {constant.name: constant for constant in graph.initializer}
    assert set(traced.bindings) == {name for name in constants if name.startswith("constants.")}
    for name, binding in traced.bindings.items():
        assert tuple(constants[name].dims) == binding.shape
        assert len(constants[name].raw_data) == binding.bytes
    # Numbers are shared by all layers, and so are the FIRs.
    contents = [
        (x.data_type, tuple(x.dims), x.raw_data) for name, x in constants.items() if name not in traced.bindings
    ]
    assert len(set(contents)) == len(contents)
    used = {name for node in graph.node for name in node.input}
    assert set(constants) <= used


def test_our_inlining_is_onnxs(golden):
    net = golden.subnet(32, 0.5)
    traced = trace_synthesis(golden.arch, net, golden.state_dict(), True)
    theirs = onnx.inliner.inline_local_functions(traced.functions)
    operators = Counter(node.op_type for node in theirs.graph.node if node.op_type != "Constant")
    assert operators == Counter(node.op_type for node in traced.model.graph.node)
    _, _, inputs = given(golden, net, True)
    assert np.array_equal(run(theirs, inputs), run(traced.model, inputs))
    assert "conv1.scaled" in {name for node in traced.model.graph.node for name in node.output}


def test_writing_takes_no_tracer(golden, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr(torch.onnx, "export", refuse)
    trace_synthesis(golden.arch, golden.subnet(8, 0.25), golden.state_dict(), True)


def test_tensorrt_gets_plugins_and_standard_operators(golden):
    net = golden.subnet(32, 0.5)
    traced = trace_synthesis(golden.arch, net, golden.state_dict(), False, "fp16", fused=True)
    model = with_plugins(traced.functions)
    assert not model.functions
    found = Counter(node.op_type for node in plugin_nodes(model))
    assert found == {"ModulatedConv": 4, "ModulatedConvTranspose": 3, "Finish": 3, "FirstToRGB": 1, "ToRGB": 3}
    for node in model.graph.node:
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type in PLUGINS:
            assert attributes == {"plugin_namespace": b"anycost", "plugin_version": b"1"}
        else:
            assert node.domain == ""
    # Styles stay standard operators: a few small products.
    assert {"Gemm", "MatMul"} <= {node.op_type for node in model.graph.node}
    weights = {name: binding.shape for name, binding in traced.bindings.items() if name.endswith("convs__0__weight")}
    assert weights == {"constants.convs__0__weight": (9, 128, 128)}
    # Half of them inlined are as good: what has bodies and is not kept disappears.
    assert not {node.op_type for node in inlined(traced.functions).graph.node} & PLUGINS


def test_fused_variants_have_names_of_their_own():
    (plain,) = variants(["tensorrt"], ["fp16"], ["sm_89"])
    (fused,) = variants(["tensorrt"], ["fp16"], ["sm_89"], fused=True)
    assert (plain.name, fused.name, fused.form) == ("tensorrt-fp16", "tensorrt-fp16-fused", "fp16-fused")
    assert variants(["tensorrt"], ["fp32"], ["sm_89"], fused=True)[0].name == "tensorrt-fused"
    fields = {"network": "1@32", "backend": "tensorrt", "targets": ("sm_89",), "inputs": {}, "outputs": {}}
    fields |= {"folder": "x", "key": "0" * 64, "versions": {}, "files": {}, "weights_bytes": 0}
    fields |= {"parity": {"max_abs": 0, "psnr_db": 0, "ssim": 0}}
    for variant in (Variant("tensorrt"), plain, fused, Variant("openvino", "int8", calibration=1)):
        record = EngineRecord(**fields | {"backend": variant.backend}, precision=variant.precision, fused=variant.fused)
        assert record.variant == variant.name


@pytest.mark.parametrize(
    ("backends", "precisions", "said"),
    [
        (None, ["fp16"], "none is given: add --backend tensorrt alone"),
        (["tensorrt_rtx"], ["fp16"], "tensorrt_rtx cannot take them"),
        (["tensorrt", "onnxruntime"], ["fp16"], "add --backend tensorrt alone"),
        (["tensorrt"], ["fp16", "int8"], "leave int8 out"),
    ],
)
def test_fused_is_for_tensorrt_alone(backends, precisions, said):
    with pytest.raises(BuildError, match=said):
        variants(backends, precisions, [], fused=True)
