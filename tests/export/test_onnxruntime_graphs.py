"""Engines that are graphs of ONNX Runtime, whatever runs them."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import anycost
from anycost.errors import BackendError
from anycost.export import compilers
from anycost.export.build import Plan, build
from anycost.export.compilers import bfloat16
from anycost.export.functions import BFLOAT16_OPSET
from anycost.export.trace import Traced, trace_mapping
from anycost.export.variants import variants
from anycost.runtime import backends
from anycost.runtime.backends import onnxruntime as onnxruntime_cpu
from anycost.runtime.binding import Binding
from anycost.runtime.bundle import as_bfloat16
from anycost.runtime.usable import GRAPH_BACKENDS, unusable

SHAPES = {"w": (4, 3, 3, 3), "v": (4, 2, 3, 3)}


@pytest.fixture(scope="module")
def mapping(tiny_checkpoint):
    return trace_mapping(tiny_checkpoint.arch, tiny_checkpoint.generator().state_dict())


@pytest.mark.parametrize("backend", GRAPH_BACKENDS)
def test_written_without_their_own_package_as_for_the_cpu(mapping, tmp_path, backend):
    folders = []
    for name in ("onnxruntime", backend):
        folder = tmp_path / name
        folder.mkdir()
        compilers.write(mapping, variants([name], ["fp32"], [])[0], folder)
        folders.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert folders[0] == folders[1]
    compilers.require(variants([backend], ["fp16"], [])[0])


def test_what_compiles_has_to_be_there(mapping, tmp_path, monkeypatch):
    monkeypatch.setattr("anycost.runtime.backends.installed", lambda name: None)
    with pytest.raises(BackendError, match="backend onnxruntime needs the package onnxruntime"):
        compilers.write(mapping, variants(["onnxruntime_cuda"], ["fp32"], [])[0], tmp_path)


def test_checked_by_their_graph_where_they_cannot_run(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("anycost.runtime.usable.devices", tuple)
    original = backends.require
    monkeypatch.setattr(backends, "require", lambda name: None if name in GRAPH_BACKENDS else original(name))
    wanted = variants(["onnxruntime", "onnxruntime_cuda"], ["fp32"], [])
    folder = tmp_path / "bundle"
    manifest = build(tiny_checkpoint, Plan("tiny", [tiny_checkpoint.arch.subnet(8, 0.25)], wanted), folder)
    found = [engine for engine in manifest.engines if engine.backend == "onnxruntime_cuda"]
    assert [engine.name for engine in found] == ["mapping/onnxruntime_cuda", "0.25@8/onnxruntime_cuda"]
    for engine in found:
        assert (engine.targets, engine.batch, engine.checked) == (("cuda",), None, "graph")
        assert unusable(engine)
    runtime = anycost.open(folder)
    assert runtime.choose().engine.backend == "onnxruntime"


def half_graph():
    """x [N, 3, 8, 8] -> y [N, 2, 16, 16], float32, through bfloat16: convolution, leaky ReLU, transposed convolution, a sum of
    one value with itself."""
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(shape).astype(np.float32) / 4 for name, shape in SHAPES.items()}
    initializers = []
    for name, value in values.items():
        bits = as_bfloat16(value)
        values[name] = (bits.astype(np.uint32) << 16).view(np.float32)
        initializers.append(
            TensorProto(name=name, data_type=TensorProto.BFLOAT16, dims=bits.shape, raw_data=bits.tobytes())
        )
    initializers.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.BFLOAT16),
        helper.make_node("Conv", ["half", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.25),
        helper.make_node("ConvTranspose", ["b", "v"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
        helper.make_node("Max", ["c", "c"], ["d"]),
        helper.make_node("Add", ["d", "c"], ["e"]),
        helper.make_node("Cast", ["e"], ["y"], to=TensorProto.FLOAT),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 16, 16])
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", BFLOAT16_OPSET)], ir_version=10)
    bindings = {name: Binding(source=name, take=shape, shape=shape, dtype="bfloat16") for name, shape in SHAPES.items()}
    return Traced(model, bindings), values


def types_of(model):
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return found | {initializer.name: initializer.data_type for initializer in graph.initializer}


@pytest.mark.parametrize(("kept", "casts"), [(bfloat16.CUDA, 9), (bfloat16.TENSORRT, 4)])
def test_bfloat16_only_where_there_are_kernels(kept, casts):
    traced, _ = half_graph()
    before = traced.model.SerializeToString()
    model = bfloat16.for_onnxruntime(traced.model, kept)
    assert traced.model.SerializeToString() == before
    onnx.checker.check_model(model, full_check=True)
    types = types_of(model)
    halves = {n.op_type for n in model.graph.node if TensorProto.BFLOAT16 in {types[i] for i in (*n.input, *n.output)}}
    assert halves <= kept and {"Conv", "Add"} <= halves
    assert ("ConvTranspose" in halves) == ("ConvTranspose" in kept)
    # One for a value that is used twice.
    assert sum(node.op_type == "Cast" for node in model.graph.node) == casts
    names = [name for node in model.graph.node for name in node.output]
    assert len(set(names)) == len(names)


def test_the_arithmetic_is_the_same():
    """ONNX Runtime has no bfloat16 on the CPU: with no operator kept, all of it is float32 there."""
    traced, values = half_graph()
    model = bfloat16.for_onnxruntime(traced.model, {"Cast"})
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    (found,) = session.run(None, {"x": x})
    w, v = (torch.from_numpy(values[name]) for name in ("w", "v"))
    wide = torch.nn.functional.leaky_relu(torch.conv2d(torch.from_numpy(x), w, padding=1), 0.25)
    expected = 2 * torch.conv_transpose2d(wide, v, stride=2, padding=1, output_padding=1)
    assert np.abs(found - expected.numpy()).max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("backend", GRAPH_BACKENDS)
def test_a_written_bfloat16_graph_is_valid(tmp_path, backend):
    """The library takes its types and its weights: what it lacks on the CPU is kernels."""
    traced, values = half_graph()
    compilers.write(traced, variants([backend], ["bf16"], [])[0], tmp_path)
    options = onnxruntime_cpu.settings(1)
    bindings = onnxruntime_cpu.bindings_of(tmp_path)
    held = onnxruntime_cpu.hand_over(options, {name: as_bfloat16(values[name]) for name in bindings}, bindings)
    assert len(held) == 2
    with pytest.raises(Exception, match=r"NOT_IMPLEMENTED.*Conv\(22\)"):
        ort.InferenceSession(
            tmp_path / onnxruntime_cpu.MODEL_NAME, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
