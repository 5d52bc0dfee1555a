"""What only OpenVINO's engines have: rows of even length, and layers in bfloat16 on processors that can."""

import math

import numpy as np
import onnxruntime as ort
import openvino as ov
import pytest
import torch
from deterministic import fill, golden_input
from onnx import parser

from anycost.export import compilers
from anycost.export.compilers.even_rows import even_rows
from anycost.export.trace import trace_mapping, trace_synthesis
from anycost.export.variants import Variant
from anycost.networks.stylegan2 import Generator
from anycost.runtime import backends
from anycost.runtime.bundle import as_bfloat16

# In bf16 about 50 dB are seen (eight significant bits in every layer); float32 by another order of sums gives 115 to 130.
LEAST = {"fp32": 105.0, "bf16": 44.0}


@pytest.fixture(scope="module")
def golden():
    network = Generator(64, 0.25, 128).eval().requires_grad_(False)
    fill(network)
    return network


def psnr(found, expected):
    found, expected = (np.asarray(x, dtype=np.float64) for x in (found, expected))
    return 10 * math.log10((expected.max() - expected.min()) ** 2 / np.mean((found - expected) ** 2))


def engine(traced, state, precision, folder):
    folder.mkdir(exist_ok=True)
    compilers.write(traced, Variant("openvino", precision), folder)

    def bind(binding):
        value = (
            binding.apply(state[binding.source], None if binding.times is None else state[binding.times])
            .float()
            .numpy()
        )
        found = np.ascontiguousarray(value)
        return as_bfloat16(found) if binding.dtype == "bfloat16" else found.astype(binding.dtype)

    return backends.load("openvino", folder, bind, 2)


def synthesis(golden, net, precision, folder):
    state = golden.state_dict()
    return engine(trace_synthesis(golden.arch, net, state, False, precision), state, precision, folder)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("channels", [0.5, [128, 96, 64, 128, 32, 64, 96, 128, 32, 16]])
@pytest.mark.parametrize("scale", [1, 100])
@torch.no_grad()
def test_a_loaded_engine_is_the_papers_formulation(golden, tmp_path, precision, channels, scale):
    net = golden.arch.subnet(64, channels)
    w_plus = scale * golden_input("anycost64", "w_plus", (2, 10, 512))
    noise = golden.noise("stored", net, 2)
    inputs = {"w_plus": w_plus.numpy()} | {
        f"noise_{i}": layer.repeat(2, 1, 1, 1).numpy() for i, layer in enumerate(noise)
    }
    found = synthesis(golden, net, precision, tmp_path / "engine").run(inputs)["image"]
    assert found.dtype == np.float32 and psnr(found, golden.synthesis(w_plus, noise, net)) > LEAST[precision]


@torch.no_grad()
def test_bfloat16_is_used_where_the_processor_has_it(golden, tmp_path):
    net = golden.arch.subnet(64, 0.5)
    noise = [layer.numpy() for layer in golden.noise("stored", net, 1)]
    inputs = {"w_plus": golden_input("anycost64", "w_plus", (2, 10, 512))[:1].numpy()}
    inputs |= {f"noise_{i}": layer for i, layer in enumerate(noise)}
    engines = {name: synthesis(golden, net, name, tmp_path / name) for name in ("fp32", "fp16", "bf16")}
    images = {name: engine.run(inputs)["image"] for name, engine in engines.items()}
    assert psnr(images["fp16"], images["fp32"]) > 65  # nothing of less than float16's bits
    assert 44 < psnr(images["bf16"], images["fp32"]) < 62
    has = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for name, engine in engines.items():
        (request,) = engine._requests.values()
        used = request.get_compiled_model().get_property("INFERENCE_PRECISION_HINT")
        assert used == (ov.Type.bf16 if has and name == "bf16" else ov.Type.f32)


@torch.no_grad()
def test_images_that_are_kept_are_not_written_again(golden, tmp_path):
    net = golden.arch.subnet(16, 0.5)
    noise = {f"noise_{i}": layer.numpy() for i, layer in enumerate(golden.noise("stored", net, 1))}
    codes = golden_input("anycost64", "w_plus", (2, 10, 512)).numpy()
    made = synthesis(golden, net, "fp32", tmp_path / "engine")
    images = [made.run({"w_plus": scale * codes[:1]} | noise)["image"] for scale in (1, 2, 3, 4, 5)]
    again = [made.run({"w_plus": scale * codes[:1]} | noise)["image"].copy() for scale in (1, 2, 3, 4, 5)]
    assert all(np.array_equal(image, same) for image, same in zip(images, again, strict=True))
    assert not np.array_equal(images[0], images[1])


@torch.no_grad()
def test_the_mapping_stays_in_float32(golden, tmp_path):
    state = golden.state_dict()
    z = torch.randn(2, golden.arch.style_dim, generator=torch.Generator().manual_seed(1))
    found = engine(trace_mapping(golden.arch, state), state, "bf16", tmp_path / "mapping").run({"z": z.numpy()})["w"]
    assert psnr(found, golden.mapping(z)) > LEAST["fp32"]


def graph(nodes, outputs="float[N,3,H,W] y"):
    return parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 18]>
        pattern (float[N,2,5,5] x, float[2,3,3,3] w, float[3,1,4,4] v, float[3] bias) => ({outputs}) {{ {nodes} }}""")


ENLARGE = "a = ConvTranspose <kernel_shape = [3, 3], strides = [2, 2]> (x, w)"
FILTER = "y = Conv <kernel_shape = [4, 4], pads = [1, 1, 1, 1], group = 3> (a, v)"


def ran(model):
    rng = np.random.default_rng(0)
    session = ort.InferenceSession(model.SerializeToString())
    shapes = {value.name: [2 if isinstance(n, str) else n for n in value.shape] for value in session.get_inputs()}
    return session.run(None, {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()})


def attributes(model, number):
    return {each.name: list(each.ints) for each in model.graph.node[number].attribute}


@pytest.mark.parametrize(
    "nodes",
    [
        f"{ENLARGE} {FILTER}",
        f"{ENLARGE.replace('strides', 'output_padding = [0, 0], pads = [0, 0, 0, 0], strides')} {FILTER}",
        f"{ENLARGE} b = Cast <to = 1> (a) {FILTER.replace('(a,', '(b,')}",
    ],
    ids=["plain", "defaults written out", "a cast between"],
)
def test_rows_become_even_and_results_stay(nodes):
    model = graph(nodes)
    changed = even_rows(model)
    assert attributes(changed, 0)["output_padding"] == [0, 1] and attributes(changed, -1)["pads"] == [1, 1, 1, 0]
    assert attributes(model, -1)["pads"] == [1, 1, 1, 1]
    assert np.abs(ran(changed)[0] - ran(model)[0]).max() < 1e-5


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        (
            f"{ENLARGE.replace('(x, w)', '(x, w, bias)')} {FILTER}",
            "float[N,3,H,W] y",
        ),  # its last column would be the bias
        (f"{ENLARGE.replace('strides', 'pads = [1, 1, 1, 1], strides')} {FILTER}", "float[N,3,H,W] y"),
        (f"{ENLARGE} {FILTER.replace('1, 1, 1, 1', '2, 1, 2, 1')}", "float[N,3,H,W] y"),
        (f"{ENLARGE} {FILTER} z = Relu (a)", "float[N,3,H,W] y, float[N,3,K,L] z"),
        (f"{ENLARGE} {FILTER}", "float[N,3,H,W] y, float[N,3,K,L] a"),
        (f"{ENLARGE} y = Relu (a)", "float[N,3,H,W] y"),
    ],
    ids=["bias", "padded", "other padding behind", "another reader", "an output", "no filter"],
)
def test_other_graphs_are_left_alone(nodes, outputs):
    model = graph(nodes, outputs)
    assert even_rows(model).graph.node == model.graph.node


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_every_layer_that_enlarges_has_even_rows(golden, tmp_path, precision):
    traced = trace_synthesis(golden.arch, golden.subnet(64, 0.5), golden.state_dict(), True, precision)
    compilers.write(traced, Variant("openvino", precision), tmp_path)
    text = (tmp_path / "model.xml").read_text()
    assert text.count('output_padding="0, 1"') == 4  # 8, 16, 32 and 64 px
