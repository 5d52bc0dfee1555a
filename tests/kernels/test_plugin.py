"""The operators as TensorRT plugins: shapes, types and launches, and what a stand-in for TensorRT is told of them."""

import inspect
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

pytest.importorskip("triton", reason="Triton has no package for this platform")

from anycost.errors import BuildError
from anycost.export.compilers import tensorrt as compiler
from anycost.export.function_bodies import fused_functions
from anycost.export.fused import plugin_nodes, with_plugins
from anycost.export.trace import trace_mapping, trace_synthesis
from anycost.kernels.call import Slot, run
from anycost.kernels.plugin.operators import MOST_SHARED, OPERATORS
from anycost.kernels.plugin.ptx import kernel, ordered
from anycost.kernels.plugin.registration import register
from anycost.networks.stylegan2 import Generator

BY_NAME = {operator.name: operator for operator in OPERATORS}
N = 2
# Sizes of the inputs; a first axis of N is the batch, one of 1 is shared by all images.
SHAPES = {
    "ModulatedConv": [(N, 5, 7, 20), (9, 20, 9), (N, 20), (N, 9), (N, 1, 5, 7), (1,), (9,)],
    "ModulatedConvTranspose": [(1, 4, 4, 16), (9, 16, 8), (N, 16)],
    "Finish": [(N, 9, 7, 10), (4, 4), (N, 10), (1, 1, 8, 6), (1,), (10,)],
    "FirstToRGB": [(N, 4, 4, 17), (3, 17), (N, 17), (3,)],
    "ToRGB": [(N, 6, 6, 8), (3, 8), (N, 8), (3,), (N, 3, 3, 3), (4, 4)],
}
# Of the largest value: products of rounded inputs summed in float32, in float16 rounded once or twice.
BOUND = {torch.float32: 1e-5, torch.float16: 2e-3}


def types_of(operator, dtype):
    return [dtype if kind == "activation" else torch.float32 for kind in operator.inputs.values()]


def body(operator, precision, tensors, out):
    """A model of the function alone."""
    elements = {torch.float32: 1, torch.float16: 10}
    inputs = [onnx.helper.make_tensor_value_info(name, elements[x.dtype], list(x.shape)) for name, x in tensors.items()]
    output = onnx.helper.make_tensor_value_info("out", elements[out.dtype], list(out.shape))
    node = onnx.helper.make_node(operator.name, list(tensors), ["out"], domain="anycost")
    graph = onnx.helper.make_graph([node], "one", inputs, [output])
    known = [function for function in fused_functions(precision, 18) if function.name == operator.name]
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("anycost", 1)]
    return onnx.helper.make_model(graph, functions=known, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_the_launch_does_what_the_function_says(operator, dtype):
    generator = torch.Generator().manual_seed(1)
    shapes, dtypes = SHAPES[operator.name], types_of(operator, dtype)
    tensors = {
        name: torch.randn(shape, generator=generator).to(kind)
        for name, shape, kind in zip(operator.inputs, shapes, dtypes, strict=True)
    }
    if "taps" in tensors:
        tensors["taps"] += tensors["taps"].flip(0, 1)  # As the FIR: which way it is turned makes no difference.
    sizes = operator.shape(dict(zip(operator.inputs, shapes, strict=True)))
    out = torch.full(sizes, 7.0, dtype=operator.types(dtypes)[-1])
    smallest = min(range(len(operator.configs)), key=lambda i: getattr(operator.configs[i], "pixels", 0))
    call = operator.call([(-1, *shape[1:]) if shape[0] == N else shape for shape in shapes], dtypes, smallest + 1)
    here = {
        name: (tensors | {"out": out})[value.name] if isinstance(value, Slot) else value
        for name, value in call.arguments.items()
    }
    run(replace(call, arguments=here, grid=(*call.grid[:2], N)))
    model = body(operator, "fp32" if dtype == torch.float32 else "fp16", tensors, out)
    (expected,) = ort.InferenceSession(model.SerializeToString()).run(
        None, {name: x.numpy() for name, x in tensors.items()}
    )
    assert tuple(expected.shape) == sizes
    wanted = expected.astype(np.float64)
    assert np.abs(out.numpy() - wanted).max() <= BOUND[dtype] * np.abs(wanted).max()


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_parameters_are_inputs_then_integers_then_the_output(operator, tmp_path):
    import triton

    call = operator.call(
        [(-1, *s[1:]) if s[0] == N else s for s in SHAPES[operator.name]], types_of(operator, torch.float16), 1
    )
    made = kernel(call, list(operator.inputs), "out", "sm_80")
    head = re.search(rf"\.entry {made.symbol}\((.*?)\)", made.ptx, re.DOTALL)
    names = [line.split()[-1].rstrip(",") for line in head[1].splitlines() if ".param" in line]
    wide = [".u64" in line for line in head[1].splitlines() if ".param" in line]
    assert wide == [True] * len(operator.inputs) + [False] * len(made.integers) + [True]
    # The place of each in Triton's order says which operand it is.
    order = list(call.arguments)
    for name, parameter in zip([*operator.inputs, *[None] * len(made.integers), "out"], names, strict=True):
        number = re.fullmatch(rf"{made.symbol}_param_(\d+)", parameter)
        if name is None:
            assert isinstance(call.arguments[order[int(number[1])]], int)
        elif number:
            assert call.arguments[order[int(number[1])]].name == name
        else:
            assert parameter == f"{made.symbol}_unread_{name}"
    integers = [call.arguments[order[int(name.rsplit("_", 1)[1])]] for name in names[len(operator.inputs) : -1]]
    assert tuple(integers) == made.integers
    # It is still valid.
    ptxas = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    (tmp_path / "kernel.ptx").write_text(made.ptx)
    subprocess.run([ptxas, "-arch=sm_80", tmp_path / "kernel.ptx", "-o", tmp_path / "kernel.cubin"], check=True)


@pytest.mark.parametrize("target", ["sm_75", "sm_86", "sm_89", "sm_90", "sm_120"])
def test_drivers_of_cuda_12_8_know_the_ptx(target):
    operator = BY_NAME["ModulatedConv"]
    shapes = [(-1, 16, 16, 64), (9, 64, 64), (-1, 64), (-1, 64), (-1, 1, 16, 16), (1,), (64,)]
    made = kernel(operator.call(shapes, types_of(operator, torch.float16), 4), list(operator.inputs), "out", target)
    assert ".version 8.7" in made.ptx and f".target {target}" in made.ptx


def test_what_tensorrt_cannot_give_is_refused():
    operator = BY_NAME["FirstToRGB"]
    call = operator.call(SHAPES["FirstToRGB"], types_of(operator, torch.float16), 1)
    entry = (
        ".entry rgb(\n" + ",\n".join(f"\t.param .u64 rgb_param_{i}" for i in range(len(call.arguments) + 2)) + "\n)\n"
    )
    reads = "".join(f"ld.param.b64 %rd{i}, [rgb_param_{i}];\n" for i in range(5))
    ordered(entry + reads, "rgb", call, list(operator.inputs), "out")
    with pytest.raises(BuildError, match="reads weight"):
        ordered(entry + reads, "rgb", call, ["x", "bias", "style"], "out")
    scratch = f"{entry}{reads}ld [rgb_param_{len(call.arguments)}];"
    with pytest.raises(BuildError, match="scratch memory"):
        ordered(scratch, "rgb", call, list(operator.inputs), "out")
    with pytest.raises(BuildError, match="no entry"):
        ordered("", "rgb", call, list(operator.inputs), "out")
    with pytest.raises(
        TypeError, match=r"input weight of plugin anycost::FirstToRGB is torch\.float16: expected torch\.float32"
    ):
        operator.types([torch.float16] * 4)


class Size:
    """A size as TensorRT gives it while an engine is built: None is the batch."""

    def __init__(self, value):
        self.value = value

    def _with(self, other, operation):
        other = other.value if isinstance(other, Size) else other
        return Size(None if self.value is None else operation(self.value, other))

    def __add__(self, other):
        return self._with(other, lambda a, b: a + b)

    def __sub__(self, other):
        return self._with(other, lambda a, b: a - b)

    def __mul__(self, other):
        return self._with(other, lambda a, b: a * b)


class Desc:
    def __init__(self, shape, dtype):
        self.shape_expr, self.dtype, self.shape = [Size(n) for n in shape], dtype, [n or -1 for n in shape]

    def like(self):
        return Desc([size.value for size in self.shape_expr], self.dtype)


class Exprs(list):
    def __init__(self, length=0):
        super().__init__([None] * length)

    @classmethod
    def from_tuple(cls, sizes):
        found = cls()
        found.extend(size if isinstance(size, Size) else Size(size) for size in sizes)
        return found


def library():
    """``tensorrt`` and ``tensorrt.plugin`` as far as plugins are registered: signatures are looked at as it looks at them."""
    kept = {"register": {}, "autotune": {}, "aot_impl": {}}
    launch = type("KernelLaunchParams", (), {})
    plugin = SimpleNamespace(TensorDesc=Desc, ShapeExprs=Exprs, SymIntExprs=Exprs, SymExprs=Exprs, SymInt32=int)
    plugin.KernelLaunchParams = launch
    plugin.AutoTuneCombination = type(
        "AutoTuneCombination", (), {"__init__": lambda self, *given: setattr(self, "given", given)}
    )

    def keeper(kind, extra):
        def decorator(plugin_id):
            def keep(function):
                parameters = inspect.signature(function).parameters
                namespace, name = plugin_id.split("::")
                assert namespace == "anycost"
                assert list(parameters) == [*BY_NAME[name].inputs, *extra]
                assert all(parameters[i].annotation is Desc for i in BY_NAME[name].inputs)
                assert plugin_id not in kept[kind], "registered twice"
                kept[kind][plugin_id] = function
                return function

            return keep

        return decorator

    plugin.register = keeper("register", [])
    plugin.autotune = keeper("autotune", ["outputs"])
    plugin.aot_impl = keeper("aot_impl", ["outputs", "tactic"])
    trt = SimpleNamespace(float32="FLOAT", float16="HALF", bfloat16="BF16", __name__="stand_in", __version__="10.13")
    return trt, plugin, kept


@pytest.fixture(scope="module")
def traced():
    generator = Generator(16, 0.0625, 32, 16, 2).eval()
    return trace_synthesis(generator.arch, generator.arch.full(), generator.state_dict(), False, "fp16", fused=True)


def test_tensorrt_builds_every_plugin_of_a_generator(traced):
    trt, plugin, kept = library()
    register(trt, plugin, "sm_75")
    register(trt, plugin, "sm_80")
    inferred = onnx.shape_inference.infer_shapes(traced.functions, strict_mode=True).graph
    values = {x.name: x.type.tensor_type for x in (*inferred.value_info, *inferred.input, *inferred.output)}
    words = {1: trt.float32, 10: trt.float16}
    known = {name: ([d.dim_value or None for d in x.shape.dim], words[x.elem_type]) for name, x in values.items()}
    known |= {x.name: (list(x.dims), words[x.data_type]) for x in inferred.initializer}
    seen = set()
    for node in plugin_nodes(with_plugins(traced.functions)):
        identity = f"anycost::{node.op_type}"
        inputs = [Desc(*known[name]) for name in node.input]
        output = kept["register"][identity](*inputs)
        shape, dtype = known[node.output[0]]
        assert [size.value for size in output.shape_expr] == shape and output.dtype == dtype
        (combination,) = kept["autotune"][identity](*inputs, (output,))
        types, layouts, tactics = combination.given
        assert types.count(",") == len(node.input) and layouts == "LINEAR" and 0 not in tactics
        if node.op_type in seen:
            continue
        seen.add(node.op_type)
        symbol, ptx, launch, integers = kept["aot_impl"][identity](*inputs, (output,), tactics[-1])
        assert f".entry {symbol}(" in ptx and ".target sm_80" in ptx and launch.shared_mem <= MOST_SHARED
        # The batch is axis 2 of the grid and nothing else.
        assert launch.grid_z.value is None and launch.grid_x >= 1 and launch.grid_y >= 1
        head = re.search(rf"\.entry {symbol}\((.*?)\)", ptx, re.DOTALL)
        assert head[1].count(".param") == len(node.input) + len(integers) + 1
    assert seen == set(BY_NAME)


def test_the_compiler_registers_what_it_needs(traced, monkeypatch):
    trt, plugin, kept = library()
    modules = {"stand_in.plugin": plugin}
    monkeypatch.setattr(compiler, "import_module", modules.__getitem__)
    found = compiler.with_registered_plugins(trt, traced, ("sm_90",))
    assert len(plugin_nodes(found.model)) == len(plugin_nodes(traced.functions)) > 0
    assert found.bindings == traced.bindings and set(kept["aot_impl"]) == {o.plugin_id for o in OPERATORS}
    # Nothing is fused in a mapping, and nothing is asked of the library for it.
    generator = Generator(16, 0.0625, 32, 16, 2)
    mapping = trace_mapping(generator.arch, generator.state_dict())
    assert compiler.with_registered_plugins(None, mapping, ("sm_90",)) is mapping
    modules["stand_in.plugin"] = SimpleNamespace(register=None)
    with pytest.raises(BuildError, match=r"install 10\.8 or later, or build without --fused"):
        compiler.with_registered_plugins(trt, traced, ("sm_90",))
