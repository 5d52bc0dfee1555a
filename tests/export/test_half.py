"""Half precision that does not overflow, in PyTorch's own half arithmetic and in both CPU runtimes on the exported graph."""

import math

import numpy as np
import onnxruntime as ort
import openvino as ov
import pytest
import torch
from deterministic import fill, golden_input
from small_networks import OTHERS

from anycost.export.half import HalfSynthesis, half_bindings
from anycost.export.jobs import part_records
from anycost.export.trace import trace_part, trace_synthesis
from anycost.networks.registry import BY_NAME
from anycost.networks.stylegan2 import Generator
from anycost.runtime.binding import Binding
from anycost.runtime.bundle import as_bfloat16
from anycost.runtime.parity import compare, views
from anycost.runtime.samples import inputs_of
from anycost.weights import catalogue
from anycost.weights.checkpoint import read_any
from anycost.weights.random_init import random_checkpoint, random_network

# Eleven significant bits leave about 72 dB here, eight about 51; lost bits (a constant wrong by 1%, a float16 sum of squares)
# cost far more than the margin.
LEAST = {"fp16": 65.0, "bf16": 45.0}


@pytest.fixture(scope="module")
def golden():
    network = Generator(64, 0.25, 128).eval().requires_grad_(False)
    fill(network)
    return network


@pytest.fixture(scope="module")
def embedded():
    return read_any(catalogue.resolve("avatars", None)).generator()


def psnr(found, expected):
    found, expected = (np.asarray(x, dtype=np.float64) for x in (found, expected))
    peak = expected.max() - expected.min()
    return 10 * math.log10(peak**2 / np.mean((found - expected) ** 2))


def samples(generator, net, scale):
    """w+ of two latents times a factor, the stored noise, and the paper's formulation of them in float32."""
    arch = generator.arch
    z = torch.randn(2, arch.style_dim, generator=torch.Generator().manual_seed(3))
    w_plus = scale * generator.mapping(z)[:, None].repeat(1, arch.n_style, 1)
    noise = generator.noise("stored", net, 2)
    return w_plus, noise, generator.synthesis(w_plus, noise, net)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("scale", [1, 10, 100])
@pytest.mark.parametrize("shape", [(16, 0.25), (64, 0.5), (128, 1.0)])
@torch.no_grad()
def test_half_arithmetic_stays_near_the_papers_formulation(embedded, precision, scale, shape):
    net = embedded.arch.subnet(*shape)
    w_plus, noise, expected = samples(embedded, net, scale)
    found = HalfSynthesis(embedded.arch, net, embedded.state_dict(), False, precision)(w_plus, noise)
    assert found.dtype == torch.float32 and torch.isfinite(found).all()
    assert psnr(found, expected) > LEAST[precision]


@torch.no_grad()
def test_the_plain_form_overflows_where_this_does_not(embedded):
    """What the normalization is for: float16 products of scaled styles, without it, leave the type's range."""
    net = embedded.arch.subnet(64, 1.0)
    w_plus, noise, _ = samples(embedded, net, 100)
    half = HalfSynthesis(embedded.arch, net, embedded.state_dict(), False, "fp16")
    affine = embedded.state_dict()["conv1.conv.modulation.weight"] / math.sqrt(embedded.arch.style_dim)
    style = (w_plus[:, 0] @ affine.T).half()
    assert not torch.isfinite((style * style).sum(dim=1)).all() and torch.isfinite(half(w_plus, noise)).all()


@torch.no_grad()
def test_config_f_shapes_with_scaled_styles():
    generator = random_checkpoint("config-f").generator()
    net = generator.arch.subnet(64, 0.25)
    for scale in (1, 100):
        w_plus, noise, expected = samples(generator, net, scale)
        found = HalfSynthesis(generator.arch, net, generator.state_dict(), False, "fp16")(w_plus, noise)
        assert psnr(found, expected) > LEAST["fp16"]


@torch.no_grad()
def test_a_style_of_zeros_gives_no_nan(golden):
    net = golden.subnet(16, 0.5)
    half = HalfSynthesis(golden.arch, net, golden.state_dict(), False, "fp16")
    for name in half.bindings:
        if name.endswith("affine_bias"):
            half.tensors()[name].zero_()
    found = half(torch.zeros(1, golden.arch.n_style, golden.arch.style_dim), golden.noise("stored", net, 1))
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("channels", [0.5, [128, 96, 64, 128, 32, 64, 96, 128, 32, 16]])
def test_one_graph_in_both_cpu_runtimes(golden, stored, channels):
    net = golden.subnet(64, channels)
    w_plus = golden_input("anycost64", "w_plus", (2, 10, 512))
    noise = golden.noise("stored", net, 2)
    expected = golden.synthesis(w_plus, noise, net).numpy()
    traced = trace_synthesis(golden.arch, net, golden.state_dict(), stored, "fp16")
    inputs = {"w_plus": w_plus.numpy()}
    if not stored:
        inputs |= {f"noise_{i}": layer.numpy() for i, layer in enumerate(noise)}
    model = traced.model.SerializeToString()
    (image,) = ort.InferenceSession(model).run(None, inputs)
    assert image.dtype == np.float32 and psnr(image, expected) > LEAST["fp16"]
    # Left to itself, the plugin computes in bfloat16 where the processor has it.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    other = ov.Core().compile_model(ov.Core().read_model(model, b""), "CPU", exact)(inputs)[0]
    assert psnr(other, expected) > LEAST["fp16"]


@torch.no_grad()
def test_the_embedded_models_graph_with_scaled_styles(embedded):
    net = embedded.arch.subnet(64, 1.0)
    traced = trace_synthesis(embedded.arch, net, embedded.state_dict(), False, "fp16")
    model = traced.model.SerializeToString()
    session = ort.InferenceSession(model)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(ov.Core().read_model(model, b""), "CPU", exact)
    for scale in (1, 10, 100):
        w_plus, noise, expected = samples(embedded, net, scale)
        inputs = {"w_plus": w_plus.numpy()} | {f"noise_{i}": layer.numpy() for i, layer in enumerate(noise)}
        for image in (session.run(None, inputs)[0], compiled(inputs)[0]):
            assert np.isfinite(image).all() and psnr(image, expected) > LEAST["fp16"]


def test_convolutions_and_their_weights_are_half_and_the_rest_is_not(golden):
    traced = trace_synthesis(golden.arch, golden.subnet(16, 0.5), golden.state_dict(), False, "fp16")
    types = {name: binding.dtype for name, binding in traced.bindings.items()}
    kinds = {
        kind: {t for name, t in types.items() if name.endswith(f"__{kind}")} for kind in ("weight", "peak", "energy")
    }
    assert kinds == {"weight": {"float16"}, "peak": {"float32"}, "energy": {"float32"}}
    elements = {x.name: x.data_type for x in traced.model.graph.initializer}
    convolutions = [node for node in traced.model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    half = [node for node in convolutions if elements.get(node.input[1]) == 10]
    # Two of 16 px and the first convolution are 3x3; each larger block has two more; every block has a to-RGB layer. The
    # enlarging of the images (one a block above the first) stays in float32.
    assert len(convolutions) - len(half) == 2 and len(half) == 5 + 2 + 3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_are_divided_by_their_channels_peak(golden, dtype):
    net = golden.subnet(16, 0.5)
    bindings = half_bindings(golden.arch, net, dtype)
    weight, peak = bindings["conv1.weight"], bindings["conv1.peak"]
    source = golden.state_dict()["conv1.conv.weight"]
    full, cut = source.shape[2], source[:, : weight.take[1], : weight.take[2]]
    largest = cut.abs().amax(dim=(2, 3, 4))[0]
    fan_in = cut.shape[2] * 9
    assert torch.allclose(weight.apply(source), (cut / largest[:, None, None, None])[0] / math.sqrt(fan_in))
    assert torch.allclose(peak.apply(source), largest / math.sqrt(full * 9))
    # The same steps on NumPy arrays, as on a device.
    for binding in (weight, peak):
        assert np.allclose(binding.apply(source.numpy()), binding.apply(source).numpy(), rtol=1e-6, atol=0)


def test_rounding_to_bfloat16_is_pytorchs():
    values = torch.cat(
        [torch.randn(10_000) * 10.0**e for e in range(-6, 7)] + [torch.tensor([0.0, -0.0, 1.00390625, 1.01171875])]
    )
    expected = values.bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(as_bfloat16(values.numpy()), expected)
    assert Binding(source="x", take=(3, 2), shape=(6,), dtype="bfloat16").bytes == 12


# One for each way in which half precision could fail: batch norm, instance norm, a minibatch deviation over many values,
# modulation with rsqrt(1e8 x + 1), pixel norm, attention.
@pytest.mark.parametrize(
    "kind", ["dcgan", "cyclegan", "multires-discriminator", "gans-n-roses", "stylegan1", "transgan"]
)
def test_other_networks_in_half_precision(kind):
    checkpoint = random_network(kind, 0, **OTHERS[kind])
    network = checkpoint.module()
    for record, part in part_records(kind, BY_NAME[kind], checkpoint.arguments):
        traced = trace_part(network, part, "fp16")
        assert "float16" in {binding.dtype for binding in traced.bindings.values()}
        inputs = inputs_of(record)
        with torch.no_grad():
            found = part.run(network, *[torch.from_numpy(x) for x in inputs.values()])
        tensors = found if isinstance(found, tuple) else (found,)
        expected = {port.name: x.numpy() for port, x in zip(part.outputs, tensors, strict=True)}
        session = ort.InferenceSession(traced.model.SerializeToString())
        names = [output.name for output in session.get_outputs()]
        answers = dict(zip(names, session.run(names, inputs), strict=True))
        assert compare(views(answers), views(expected)).psnr_db > 45
