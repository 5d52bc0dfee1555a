"""Eight-bit integers: near the reference, on integer kernels of both CPU runtimes, without a copy of the weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from anycost import open as open_bundle
from anycost.errors import BuildError
from anycost.export import compilers
from anycost.export.build import Plan, build
from anycost.export.int8 import fitted, inner_convolutions, quantized
from anycost.export.jobs import SubnetJob
from anycost.export.reference import Reference
from anycost.export.trace import Traced
from anycost.export.variants import Variant
from anycost.runtime import backends
from anycost.runtime.bundle import Weights
from anycost.runtime.parity import LEAST_PSNR_DB

LEAST = LEAST_PSNR_DB["int8"]
BACKENDS = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def job(tiny_checkpoint):
    """16 px at half width: five 3x3 convolutions, of which three are quantized (two of them transposed)."""
    generator = tiny_checkpoint.generator()
    net = tiny_checkpoint.arch.subnet(16, 0.5)
    return SubnetJob(tiny_checkpoint.arch, net, Reference(generator, generator.mean_style(), False), "weights")


@pytest.fixture(scope="module")
def plain(job):
    return job.trace("fp32")


@pytest.fixture(scope="module")
def traced(job, plain):
    return quantized(plain, job._calibration(4))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_checkpoint):
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    nets = [tiny_checkpoint.arch.subnet(16, 0.5)]
    variants = [Variant(backend, precision) for precision in ("fp32", "int8") for backend in BACKENDS]
    return folder, build(tiny_checkpoint, Plan("tiny", nets, variants), folder)


def constants(model):
    return {x.name: x for x in model.graph.initializer}


def pairs(model):
    """Names of what goes through QuantizeLinear and DequantizeLinear -> what comes out."""
    rounds = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    return {rounds[node.input[0]]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}


def test_inner_convolutions_are_rounded_and_the_rest_stays_in_float(plain, traced):
    inner = inner_convolutions(plain)
    rounded = set(pairs(traced.model).values())
    kinds = []
    for node in traced.model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            assert (node.name in inner) == (node.input[1] in rounded)
            assert node.name not in inner or node.input[0] in rounded
            kinds += [node.op_type] if node.name in inner else []
    assert kinds == ["ConvTranspose", "Conv", "ConvTranspose"]
    weights = sorted(name for name in pairs(traced.model) if name.startswith("constants."))
    # The first convolution is conv1, the last convs.3; no to-RGB layer is among them.
    assert weights == [f"constants.convs__{i}__weight" for i in range(3)]


def test_weights_have_one_scale_a_channel_and_no_zero_points(traced):
    values = {name: onnx.numpy_helper.to_array(x) for name, x in constants(traced.model).items()}
    for node in traced.model.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        scale, zero = values[node.input[1]], values[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any()
        if node.input[0] in traced.bindings:
            (axis,) = (attribute.i for attribute in node.attribute if attribute.name == "axis")
            weight = values[node.input[0]]
            others = tuple(i for i in range(4) if i != axis)
            assert np.allclose(scale * 127, abs(weight).max(axis=others), rtol=0.01)
        else:
            assert scale.ndim == 0


def test_bound_weights_stay_as_they_were(plain, traced):
    assert traced.bindings == plain.bindings
    after = traced.values()
    assert all(np.array_equal(value, after[name]) for name, value in plain.values().items())


def test_quantizing_twice_gives_the_same_bytes(job, plain, traced, tmp_path):
    again = quantized(plain, job._calibration(4))
    assert again.model.SerializeToString(deterministic=True) == traced.model.SerializeToString(deterministic=True)
    for backend in BACKENDS:
        for name, graph in (("a", traced), ("b", again)):
            folder = tmp_path / backend / name
            folder.mkdir(parents=True)
            compilers.write(graph, Variant(backend, "int8"), folder)
        first, second = sorted((tmp_path / backend / "a").iterdir()), sorted((tmp_path / backend / "b").iterdir())
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_other_samples_give_other_scales(job, plain, traced):
    assert quantized(plain, job._calibration(1)).model != traced.model


def test_each_backend_gets_the_pairs_that_it_uses(traced):
    for backend in ("onnxruntime", "openvino", "tensorrt"):
        graph = fitted(traced, backend).model.graph
        rounded = pairs(fitted(traced, backend).model)
        made = {name: node.op_type for node in graph.node for name in node.output}
        outputs = [made[name] for name in rounded if made.get(name) in ("Conv", "ConvTranspose")]
        weights = [name for name in rounded if name in traced.bindings]
        if backend == "onnxruntime":
            assert outputs == ["Conv"] and len(weights) == 1 and len(rounded) == 3
        else:
            assert not outputs and len(weights) == 3 and len(rounded) == 6
        # No scale is left without its pair.
        used = {name for node in graph.node for name in node.input}
        assert {x.name for x in graph.initializer} <= used


def test_engines_hold_the_bound_and_no_weights(bundle):
    _, manifest = bundle
    engines = {engine.name: engine for engine in manifest.engines}
    for backend in BACKENDS:
        int8, fp32 = engines[f"0.5@16/{backend}-int8"], engines[f"0.5@16/{backend}"]
        assert LEAST < int8.parity.psnr_db < fp32.parity.psnr_db
        assert int8.checked == "engine"
        assert int8.weights_bytes == fp32.weights_bytes
        # What is added are scales and nodes: a copy of the weights, even in int8, would be more.
        own = max(int8.files[name].size for name in int8.files if name in ("model.onnx", "constants.bin"))
        assert int8.size < fp32.size + 60_000 and own < int8.weights_bytes / 8
        mapping = engines[f"mapping/{backend}-int8"]
        assert mapping.parity.psnr_db > LEAST_PSNR_DB["fp32"]


def test_onnx_runtime_has_integer_kernels(traced, tmp_path):
    model = fitted(traced, "onnxruntime").model
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearConv") == 1 and kinds.count("QuantizeLinear") == 1


def test_openvino_has_integer_kernels(bundle):
    folder, manifest = bundle
    (record,) = (engine for engine in manifest.engines if engine.name == "0.5@16/openvino-int8")
    weights = Weights(folder / manifest.generator.weights)
    engine = backends.load("openvino", folder / record.folder, weights.bind, 1)
    inputs = {name: np.zeros((1, *shape), np.float32) for name, shape in record.inputs.items()}
    engine.run(inputs)
    compiled = engine._requests[1].get_compiled_model()
    precisions = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = {name: str(node.get_rt_info()[name].astype(str)) for name in ("layerType", "runtimePrecision")}
        if info["layerType"] in ("Convolution", "Deconvolution") and info["runtimePrecision"] in ("i8", "u8"):
            precisions.append(info["layerType"])
    assert sorted(precisions) == ["Convolution"] + ["Deconvolution"] * 2


def test_graphs_without_inner_convolutions_stay_in_float(bundle, plain):
    folder, _ = bundle
    fp32, int8 = (folder / f"engines/mapping/onnxruntime-{precision}/model.onnx" for precision in ("fp32", "int8"))
    assert fp32.read_bytes() == int8.read_bytes()
    mapping = Traced(onnx.load(fp32, load_external_data=False), {})
    assert quantized(mapping, [{"z": np.zeros((1, 64), np.float32)}]) is mapping
    assert fitted(plain, "onnxruntime").model == fitted(plain, "openvino").model == plain.model


def test_no_samples_is_one_line(plain):
    with pytest.raises(BuildError, match="at least 1"):
        quantized(plain, [])


def test_one_batch_gives_what_single_images_give(bundle):
    runtime = open_bundle(bundle[0])
    w_plus = np.random.RandomState(3).standard_normal((3, 8, 64)).astype(np.float32)
    for backend in BACKENDS:
        session = runtime.session("0.5@16", f"{backend}-int8")
        single = np.concatenate([session.synthesize(w_plus[i : i + 1], None) for i in range(3)])
        assert np.abs(session.synthesize(w_plus, None) - single).max() < 1e-4 * np.abs(single).max()
