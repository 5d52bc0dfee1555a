"""The operators as IPluginV3 classes: what a stand-in for TensorRT is told of them, and that what it keeps computes the same."""

import sys
from importlib import import_module
from types import SimpleNamespace

import fake_plugins
import onnx
import pytest
import torch

pytest.importorskip("triton", reason="Triton has no package for this platform")

from fake_gpu import FakeCuda
from fake_plugins import (
    DataType,
    DimsExprs,
    ExprBuilder,
    Expression,
    Library,
    TensorFormat,
    TensorRTPhase,
    dynamic,
    stored,
    tensor,
)
from triton_on_host import as_function

from anycost.errors import BuildError
from anycost.export.compilers import plan
from anycost.export.compilers import tensorrt as compiler
from anycost.export.compilers.tensorrt import Features, plugin_way
from anycost.export.fused import plugin_nodes
from anycost.export.trace import trace_mapping, trace_synthesis
from anycost.export.variants import Variant
from anycost.kernels.call import Slot, run
from anycost.kernels.compile import Compiled, kernel_key
from anycost.kernels.plugin import launched
from anycost.kernels.plugin.operators import OPERATORS
from anycost.networks.stylegan2 import Generator
from anycost.runtime.cuda.devices import CudaDevice
from anycost.runtime.cuda.tensorrt_plugins import register as register_creators

N = 2
# Sizes of the inputs; a first axis of N is the batch, one of 1 is shared by all images.
SHAPES = {
    "ModulatedConv": [(N, 5, 7, 20), (9, 20, 9), (N, 20), (N, 9), (N, 1, 5, 7), (1,), (9,)],
    "ModulatedConvTranspose": [(1, 4, 4, 16), (9, 16, 8), (N, 16)],
    "Finish": [(N, 9, 7, 10), (4, 4), (N, 10), (1, 1, 8, 6), (1,), (10,)],
    "FirstToRGB": [(N, 4, 4, 17), (3, 17), (N, 17), (3,)],
    "ToRGB": [(N, 6, 6, 8), (3, 8), (N, 8), (3,), (N, 3, 3, 3), (4, 4)],
}
OUT = {
    "ModulatedConv": (N, 5, 7, 9),
    "ModulatedConvTranspose": (N, 9, 9, 8),
    "Finish": (N, 8, 6, 10),
    "FirstToRGB": (N, 3, 4, 4),
    "ToRGB": (N, 3, 6, 6),
}
KINDS = {torch.float32: DataType.FLOAT, torch.float16: DataType.HALF, torch.bfloat16: DataType.BF16}
each_operator = pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)


def device(target="sm_80"):
    return CudaDevice(0, "a GPU", (int(target[3:-1]), int(target[-1])), 1 << 30, (12, 8))


def dynamic_sizes(shapes):
    return [(-1, *shape[1:]) if shape[0] == N else shape for shape in shapes]


def types_of(operator, dtype):
    return [dtype if kind == "activation" else torch.float32 for kind in operator.inputs.values()]


@pytest.fixture
def made(monkeypatch):
    """Kernels without machine code: their image is their key."""
    calls = {}

    def no_code(given, targets, threads=None):
        found = {kernel_key(call): call for call in given}
        calls.update(found)
        return {
            (key, target): Compiled(call.name, f"{target} {key}".encode(), 1 << 10, call.warps)
            for key, call in found.items()
            for target in targets
        }

    monkeypatch.setattr(launched, "compile_calls", no_code)
    launched.plugin_kernels.cache_clear()
    yield calls
    launched.plugin_kernels.cache_clear()


def configured(trt, operator, dtype):
    plugin = trt.create(operator.name, TensorRTPhase.BUILD)
    inputs = [
        dynamic(shape, KINDS[kind])
        for shape, kind in zip(dynamic_sizes(SHAPES[operator.name]), types_of(operator, dtype), strict=True)
    ]
    plugin.configure_plugin(inputs, [])
    return plugin


@each_operator
def test_what_is_built_and_stored_computes_the_same(operator, made):
    trt, cuda = Library(), FakeCuda()
    launched.register(trt, device(), cuda, ("sm_80",))
    building = configured(trt, operator, torch.float16)
    # As the library does: what is timed, and what is kept, are copies.
    building = building.clone().attach_to_context(None)
    for key, call in made.items():
        cuda.functions[f"sm_80 {key}".encode()] = as_function(call)
    tactics = building.get_valid_tactics()
    assert tactics == operator.tactics(dynamic_sizes(SHAPES[operator.name]))
    smallest = min(tactics, key=lambda number: getattr(operator.configs[number - 1], "pixels", 0))
    generator = torch.Generator().manual_seed(1)
    given = [
        torch.randn(shape, generator=generator).to(kind)
        for shape, kind in zip(SHAPES[operator.name], types_of(operator, torch.float16), strict=True)
    ]
    running = trt.create(operator.name, TensorRTPhase.RUNTIME, stored(building))
    found = []
    for plugin in (building, running):
        plugin.set_tactic(smallest)
        plugin = plugin.attach_to_context(None)
        kind = operator.types(types_of(operator, torch.float16))[-1]
        out = torch.full(OUT[operator.name], 7.0, dtype=kind)
        described = [tensor(tuple(x.shape), KINDS[x.dtype]) for x in (*given, out)]
        plugin.on_shape_change(described[:-1], described[-1:])
        plugin.enqueue(described[:-1], described[-1:], [x.data_ptr() for x in given], [out.data_ptr()], 0, 9)
        found.append(out)
    call = operator.call(dynamic_sizes(SHAPES[operator.name]), types_of(operator, torch.float16), smallest)
    expected = torch.full_like(out, 5.0)
    by_name = dict(zip((*operator.inputs, "out"), (*given, expected), strict=True))
    here = {name: by_name[value.name] if isinstance(value, Slot) else value for name, value in call.arguments.items()}
    run(launched.Call(call.kernel, here, call.constants, (*call.grid[:2], N), call.warps, call.stages))
    assert torch.equal(found[0], expected) and torch.equal(found[1], expected)
    assert cuda.started[0][1] == (*call.grid[:2], N) and cuda.started[0][2] == 32 * call.warps


@each_operator
def test_shapes_and_types(operator):
    trt = Library()
    launched.register(trt, device(), FakeCuda(), ("sm_80",))
    plugin = trt.create(operator.name, TensorRTPhase.BUILD)
    assert plugin.num_outputs == 1
    sizes = [
        DimsExprs([Expression(None if n == N else n) for n in shape[:1]] + [Expression(n) for n in shape[1:]])
        for shape in SHAPES[operator.name]
    ]
    (found,) = plugin.get_output_shapes(sizes, [], ExprBuilder())
    assert [size.value for size in found] == [None, *OUT[operator.name][1:]]
    for dtype in KINDS:
        types = types_of(operator, dtype)
        (kind,) = plugin.get_output_data_types([KINDS[given] for given in types])
        assert kind == KINDS[operator.types(types)[-1]]
        every = [dynamic((1,), KINDS[given]) for given in types] + [dynamic((1,), kind)]
        for position in range(len(every)):
            # What comes after is not to be looked at.
            seen = every[: position + 1] + [None] * (len(every) - position - 1)
            assert plugin.supports_format_combination(position, seen, len(types))
            for wrong in (dynamic((1,), DataType.INT8), dynamic((1,), seen[position].desc.type, TensorFormat.CHW2)):
                assert not plugin.supports_format_combination(position, [*seen[:position], wrong], len(types))
        if dtype == torch.float32:
            continue
        names = list(operator.inputs)
        for position, name in enumerate(names):
            other = dynamic((1,), DataType.FLOAT if operator.inputs[name] == "activation" else KINDS[dtype])
            accepted = plugin.supports_format_combination(position, [*every[:position], other], len(types))
            assert accepted == (name in ("x", "noise")), name


def test_machine_code_of_all_targets_is_kept():
    """The real compiler, for the smallest operator."""
    trt, cuda = Library(), FakeCuda()
    launched.register(trt, device(), cuda, ("sm_80", "sm_90"))
    operator = next(operator for operator in OPERATORS if operator.name == "FirstToRGB")
    plugin = configured(trt, operator, torch.float16)
    kernels = plugin.launcher.kernels
    assert plugin.get_valid_tactics() == [1, 2, 3] == list(kernels.record.tactics)
    assert kernels.record.targets == ("sm_80", "sm_90") and len(kernels.images) == 6
    assert all(image.startswith(b"\x7fELF") for image in kernels.images.values())
    # Equal layers share them.
    assert configured(trt, operator, torch.float16).launcher.kernels is kernels
    running = trt.create("FirstToRGB", TensorRTPhase.RUNTIME, stored(plugin))
    assert running.launcher.kernels == kernels


def test_tactics_that_do_not_fit_are_left_out(made, monkeypatch):
    trt = Library()
    launched.register(trt, device("sm_86"), FakeCuda(), ("sm_80", "sm_86"))
    operator = OPERATORS[0]
    best = operator.tactics(SHAPES[operator.name])
    plain = launched.compile_calls

    def large(*warps):
        def compiled(calls, targets, threads=None):
            found = plain(calls, targets)
            # More than sm_86 has, not more than sm_80.
            return {
                key: Compiled(c.symbol, c.image, 150_000 if c.warps in warps else 0, c.warps)
                for key, c in found.items()
            }

        launched.plugin_kernels.cache_clear()
        monkeypatch.setattr(launched, "compile_calls", compiled)

    warps = {operator.configs[number - 1].warps for number in best}
    large(8)
    found = configured(trt, operator, torch.float32).get_valid_tactics()
    assert found and all(operator.configs[number - 1].warps == 4 for number in found)
    large(*warps)
    if warps == {4}:
        found = configured(trt, operator, torch.float32).get_valid_tactics()
        assert [operator.configs[number - 1].warps for number in found] == [8] * 3
    large(4, 8)
    with pytest.raises(BuildError, match=r"plugin anycost::ModulatedConv has no block sizes for sm_80, sm_86"):
        configured(trt, operator, torch.float32)


def test_the_device_that_times_tactics_has_code_too(made):
    for targets, expected in [
        (("sm_90", "sm_120"), ("sm_90", "sm_120", "sm_86")),
        (("sm_80", "sm_90"), ("sm_80", "sm_90")),
    ]:
        trt = Library()
        launched.register(trt, device("sm_86"), FakeCuda(), targets)
        assert configured(trt, OPERATORS[0], torch.float16).launcher.kernels.record.targets == expected
    # A plugin of a plan that was loaded first is registered already, and becomes one that can be built.
    trt = Library()
    register_creators(trt, device(), FakeCuda())
    launched.register(trt, device(), FakeCuda(), ("sm_80",))
    plugin = trt.create("Finish", TensorRTPhase.BUILD)
    with pytest.raises(BuildError, match="before it says the sizes"):
        plugin.get_valid_tactics()
    assert list(plugin.get_fields_to_serialize()) == []
    # Measured tactics are kept for as long as their numbers mean the same.
    assert plugin.timing_cache_id == trt.create("Finish", TensorRTPhase.BUILD).timing_cache_id
    assert plugin.timing_cache_id != trt.create("ToRGB", TensorRTPhase.BUILD).timing_cache_id


@pytest.mark.parametrize(
    ("version", "ahead_of_time", "classes", "way"),
    [
        ("10.13.0.35", True, True, "compiled"),
        ("10.8.0", True, True, "compiled"),
        ("11.0", True, False, "compiled"),
        ("10.7.0", False, True, "launched"),
        ("10.3.0", False, True, "launched"),
        ("11.1", False, True, "launched"),
        ("10.2.0", False, True, None),
        ("8.6.1", False, False, None),
        ("10.5.0", False, False, None),
    ],
)
def test_one_rule_for_the_two_ways(version, ahead_of_time, classes, way):
    features = Features(version, ahead_of_time, classes)
    if way:
        assert plugin_way(features) == way
        return
    with pytest.raises(
        BuildError, match=rf"TensorRT {version} has neither.*install 10\.8 or later, or build without --fused"
    ):
        plugin_way(features)


@pytest.fixture(scope="module")
def traced():
    generator = Generator(16, 0.0625, 32, 16, 2).eval()
    return trace_synthesis(generator.arch, generator.arch.full(), generator.state_dict(), False, "fp16", fused=True)


def test_the_compiler_takes_the_way_that_the_library_has(traced, monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(plan, "write", lambda *given: written.append(given))
    monkeypatch.setattr(compiler, "cuda", lambda ordinal: FakeCuda())
    variant = Variant("tensorrt", "fp16", ("sm_80",), (1, 1, 8), fused=True)
    monkeypatch.setitem(sys.modules, "tensorrt", old := Library("10.5.0"))
    monkeypatch.setattr(compiler, "devices", tuple)
    with pytest.raises(BuildError, match="TensorRT builds on a GPU and none was found here"):
        compiler.write(traced, variant, tmp_path)
    monkeypatch.setattr(compiler, "devices", lambda: (device(),))
    compiler.write(traced, variant, tmp_path)
    _, library, made, *_ = written.pop()
    assert library.plugins == "launched" and len(old.registry.creators) == len(OPERATORS)
    assert len(plugin_nodes(made.model)) == len(plugin_nodes(traced.functions)) and not made.model.functions
    # Nothing is fused in a mapping.
    generator = Generator(16, 0.0625, 32, 16, 2)
    compiler.write(trace_mapping(generator.arch, generator.state_dict()), variant, tmp_path)
    assert written.pop()[1].plugins == "none"
    # A newer library compiles them, and is told of no classes.
    monkeypatch.setitem(sys.modules, "tensorrt", new := Library("10.9.0"))
    asked = []
    monkeypatch.setattr(compiler, "import_module", lambda name: SimpleNamespace(aot_impl=None))
    registration = import_module("anycost.kernels.plugin.registration")
    monkeypatch.setattr(registration, "register", lambda *given: asked.append(given))
    compiler.write(traced, variant, tmp_path)
    assert written.pop()[1].plugins == "compiled" and not new.registry.creators and asked[0][2] == "sm_80"


def test_every_plugin_of_a_generator_is_configured(traced, made):
    trt = Library()
    launched.register(trt, device(), FakeCuda(), ("sm_80",))
    inferred = onnx.shape_inference.infer_shapes(traced.functions, strict_mode=True).graph
    values = {x.name: x.type.tensor_type for x in (*inferred.value_info, *inferred.input, *inferred.output)}
    words = {1: DataType.FLOAT, 10: DataType.HALF}
    known = {name: ([d.dim_value or -1 for d in x.shape.dim], words[x.elem_type]) for name, x in values.items()}
    known |= {x.name: (list(x.dims), words[x.data_type]) for x in inferred.initializer}
    seen = set()
    for node in plugin_nodes(traced.functions):
        plugin = trt.create(node.op_type, TensorRTPhase.BUILD)
        tensors = [dynamic(*known[name]) for name in (*node.input, *node.output)]
        assert all(plugin.supports_format_combination(i, tensors, len(node.input)) for i in range(len(tensors)))
        plugin.configure_plugin(tensors[:-1], tensors[-1:])
        assert plugin.get_valid_tactics() and len(stored(plugin)) == 1
        seen.add(node.op_type)
    assert seen == {operator.name for operator in OPERATORS}


def test_methods_take_what_tensorrt_gives():
    types, trt = fake_plugins.published(), Library()
    launched.register(trt, device(), FakeCuda(), ("sm_80",))
    kind = type(trt.create("Finish", TensorRTPhase.BUILD))
    for name in ("IPluginV3", "IPluginV3OneBuild", "IPluginV3OneRuntime"):
        fake_plugins.check_methods(types[name], kind)
