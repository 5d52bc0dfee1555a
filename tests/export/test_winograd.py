"""Winograd's convolution in the graphs of CPU engines."""

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
import pytest
import torch
from onnx import helper, numpy_helper, parser
from torch.nn import functional as F

from anycost.export import compilers
from anycost.export import winograd as module
from anycost.export.compilers.openvino import _deal_rows
from anycost.export.trace import trace_synthesis
from anycost.export.variants import Variant
from anycost.export.winograd import plain, winograd
from anycost.networks.stylegan2 import Generator

# float32 adds up numbers up to ten times as large as a direct convolution's: between 1e-6 and 4e-6 of the largest result is
# seen. A wrong coefficient is seen in the first digit.
MOST = 1e-5


@pytest.fixture
def small(monkeypatch):
    """Convolutions that are quick to check."""
    monkeypatch.setattr(module, "LEAST_CHANNELS", 5)
    monkeypatch.setattr(module, "LEAST_ROWS", 4)


def graph(shape="N,6,16,17", weight="7,6,3,3", attributes="pads = [1, 1, 1, 1]", bias="", opset=20, dtype="float"):
    """One convolution with random weights, by the name ``w`` and, where it has one, ``b``."""
    rng = np.random.default_rng(0)
    made = parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": {opset}]>
        one ({dtype}[{shape}] x) => ({dtype}[N,C,H,W] y)
        {{ y = Conv <{attributes}> (x, w{bias and ", b"}) }}""")
    sizes = [int(size) for size in weight.split(",")]
    values = {"w": rng.standard_normal(sizes)} | ({"b": rng.standard_normal(sizes[0])} if bias else {})
    numpy_type = helper.tensor_dtype_to_np_dtype(made.graph.input[0].type.tensor_type.elem_type)
    made.graph.initializer.extend(numpy_helper.from_array(v.astype(numpy_type), name) for name, v in values.items())
    return made


def expected(model, x):
    """In float64, by PyTorch."""
    values = {
        each.name: torch.tensor(numpy_helper.to_array(each).astype(np.float64)) for each in model.graph.initializer
    }
    return F.conv2d(torch.from_numpy(x).double(), values["w"], values.get("b"), padding=1).numpy()


def in_onnxruntime(model, x):
    onnx.checker.check_model(model, full_check=True)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def in_openvino(model, x):
    read = ov.Core().read_model(model.SerializeToString())
    _deal_rows(read)
    before = [node.input_value(0).get_node().get_type_name() for node in read.get_ops() if node.get_input_size()]
    assert before.count("ShuffleChannels") == 1
    return ov.Core().compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]


@pytest.mark.parametrize("run", [in_onnxruntime, in_openvino])
@pytest.mark.parametrize("bias", ["", "b"])
@pytest.mark.parametrize(
    ("shape", "weight"), [("N,6,16,17", "7,6,3,3"), ("2,5,4,1", "5,5,3,3"), ("N,130,20,16", "128,130,3,3")]
)
def test_equals_the_convolution(small, run, shape, weight, bias):
    model = graph(shape, weight, bias=bias)
    changed = winograd(model)
    sizes = [3 if size == "N" else int(size) for size in shape.split(",")]
    x = np.random.default_rng(1).standard_normal(sizes).astype(np.float32)
    wanted = expected(model, x)
    assert [node.op_type for node in changed.graph.node].count("Conv") == 12
    assert np.abs(run(changed, x) - wanted).max() < MOST * np.abs(wanted).max()


@pytest.mark.parametrize(
    "given",
    [
        {"attributes": "pads = [0, 0, 0, 0]"},
        {"attributes": "pads = [1, 1, 1, 0]"},
        {"attributes": 'auto_pad = "SAME_UPPER"'},
        {"attributes": "pads = [1, 1, 1, 1], strides = [2, 2]"},
        {"attributes": "pads = [1, 1, 1, 1], dilations = [1, 2]"},
        {"attributes": "pads = [1, 1, 1, 1], group = 2", "shape": "N,12,16,17", "weight": "12,6,3,3"},
        {"weight": "7,6,5,5"},
        {"weight": "4,6,3,3"},
        {"weight": "7,4,3,3", "shape": "N,4,16,17"},
        {"shape": "N,6,18,17"},
        {"shape": "N,6,H,16"},
        {"opset": 17},
        {"dtype": "float16"},
    ],
    ids=lambda given: " ".join(f"{key} {value}" for key, value in given.items()),
)
def test_other_convolutions_are_left_alone(small, given):
    model = graph(**given)
    assert winograd(model).graph == model.graph


def test_small_ones_are_left_alone():
    for shape, weight, rewritten in (
        ("N,128,16,16", "128,128,3,3", True),
        ("N,128,12,16", "128,128,3,3", False),
        ("N,127,16,16", "128,127,3,3", False),
        ("N,128,16,16", "127,128,3,3", False),
    ):
        model = graph(shape, weight)
        assert (winograd(model).graph != model.graph) == rewritten


@pytest.mark.parametrize("bias", ["", "b"])
def test_turned_back(small, bias):
    model = graph(bias=bias)
    again = plain(winograd(model))
    (node,) = again.graph.node
    assert (node.op_type, node.input, node.output) == ("Conv", model.graph.node[0].input, model.graph.node[0].output)
    assert again.graph.initializer == model.graph.initializer
    x = np.random.default_rng(1).standard_normal((2, 6, 16, 17)).astype(np.float32)
    np.testing.assert_array_equal(in_onnxruntime(again, x), in_onnxruntime(model, x))


def test_a_graph_that_was_not_changed_is_turned_back_to_itself():
    model = graph("N,6,16,17", "3,6,3,3", bias="b")
    assert plain(model).graph == model.graph


def test_other_operators_between_stay_in_order(small):
    """Two of them, the second behind the first, and a reshaping of concatenated columns that is none of ours."""
    rng = np.random.default_rng(2)
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["": 20]>
        two (float[N,6,8,8] x) => (float[N,6,24,8] y, float[N,6,8,8] d)
        { a = Conv <pads = [1, 1, 1, 1]> (x, v) b = Relu (a) c = Conv <pads = [1, 1, 1, 1]> (b, w) d = Tanh (c)
          e = Concat <axis = 3> (a, b, d) f = Transpose <perm = [0, 1, 3, 2]> (e)
          y = Reshape (f, shape) }""")
    values = {name: rng.standard_normal((6, 6, 3, 3)).astype(np.float32) for name in "vw"}
    values["shape"] = np.array([0, 6, 24, 8])
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    changed = winograd(model)
    assert [node.op_type for node in changed.graph.node].count("Conv") == 24
    x = rng.standard_normal((2, 6, 8, 8)).astype(np.float32)
    wanted, found = (ort.InferenceSession(m.SerializeToString()).run(None, {"x": x}) for m in (model, changed))
    read = ov.Core().read_model(changed.SerializeToString())
    _deal_rows(read)
    compiled = ov.Core().compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)
    for i in range(2):
        assert np.abs(found[i] - wanted[i]).max() < MOST * np.abs(wanted[0]).max()
        assert np.abs(compiled[i] - wanted[i]).max() < MOST * np.abs(wanted[0]).max()


@pytest.mark.parametrize(
    ("backend", "precision", "layers"),
    [
        ("openvino", "fp32", 2),
        ("onnxruntime", "fp32", 2),
        ("openvino", "bf16", 0),
        ("onnxruntime", "fp16", 0),
        ("onnxruntime_cuda", "fp32", 0),
    ],
)
def test_engines_of_cpus_in_float32_have_it(tmp_path, backend, precision, layers):
    """128 channels at 16 and at 32 px. No second copy of a weight is stored."""
    network = Generator(32, 0.25, 128).eval().requires_grad_(False)
    net = network.arch.full()
    traced = trace_synthesis(network.arch, net, network.state_dict(), False, precision)
    compilers.write(traced, Variant(backend, precision), tmp_path)
    if backend == "openvino":
        assert (tmp_path / "model.xml").read_text().count('type="ShuffleChannels"') == layers
    else:
        nodes = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.node
        assert sum(node.name.endswith("/winograd/") for node in nodes) == layers
    assert sum(path.stat().st_size for path in tmp_path.iterdir() if path.name != "bindings.json") < 1 << 20


def test_what_bfloat16_leaves_in_float32_is_left_alone(tmp_path):
    """OpenVINO computes a whole bf16 engine in bfloat16."""
    network = Generator(32, 0.25, 128).eval().requires_grad_(False)
    traced = trace_synthesis(network.arch, network.arch.full(), network.state_dict(), False)
    compilers.write(traced, Variant("openvino", "bf16"), tmp_path)
    assert "ShuffleChannels" not in (tmp_path / "model.xml").read_text()
