"""The graphs of a Triton model repository: engines with their weights inside, and the small steps between them.

Triton knows neither bindings nor stored noise: what the runtime hands to an engine has to be in its file. What the runtime does
in NumPy between two engines (truncation, one row for every layer, sliders, pictures from numbers) is a graph of its own here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from anycost.editing.apply import LARGEST_VALUE, ROWS, SCALE
from anycost.editing.directions import Directions
from anycost.errors import BuildError
from anycost.export.winograd import plain
from anycost.runtime.backends.onnxruntime import MODEL_NAME, bindings_of
from anycost.runtime.bundle import Bundle
from anycost.runtime.manifest import EngineRecord

Array = np.ndarray
Shape = tuple[int | str, ...]
# Understood by every ONNX Runtime since 1.13: a server may be older than this package.
_OPSET = 17
_FLOAT, _BYTE = TensorProto.FLOAT, TensorProto.UINT8
_MOST_BYTES = 2**31 - 1  # of one protobuf message


def self_contained(bundle: Bundle, engine: EngineRecord, on_cpu: bool) -> bytes:
    """The ONNX file of an engine that is a graph, its weights inside and the stored noise in place of its inputs for noise.
    on_cpu: whether it is to run there: the convolutions of an engine for CPUs are rewritten for them.

    Raises BuildError for a graph that is too large for one file.
    """
    folder = bundle.path(engine.folder)
    model = onnx.load(folder / MODEL_NAME, load_external_data=False)
    if not on_cpu:
        model = plain(model)
    weights = bundle.weights(engine.network)
    bindings = bindings_of(folder)
    for initializer in model.graph.initializer:
        if initializer.name in bindings:
            # Of the right type already: bfloat16 comes as its bits.
            initializer.raw_data = weights.bind(bindings[initializer.name]).tobytes()
            initializer.data_location = TensorProto.DEFAULT
            del initializer.external_data[:]
    noise = noise_inputs(bundle, engine)
    kept = []
    for value in model.graph.input:
        if value.name in noise:
            array = weights.tensor(f"noises.{value.name}")
            model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), value.name))
        else:
            kept.append(value)
    inputs = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return _file(model, engine.name)


def noise_inputs(bundle: Bundle, engine: EngineRecord) -> set[str]:
    """The inputs of a generator's engine that a repository fills with the stored noise."""
    return set() if bundle.part(engine.network) else {name for name in engine.inputs if name.startswith("noise_")}


def styles(n_style: int, mean: Array) -> bytes:
    """w [N, D] and psi [N, 1] -> w_plus [N, n_style, D]: truncation towards the mean [1, D], then one row for every layer."""
    nodes = [
        helper.make_node("Sub", ["one", "psi"], ["rest"]),
        helper.make_node("Mul", ["rest", "mean"], ["pulled"]),
        helper.make_node("Mul", ["psi", "w"], ["kept"]),
        helper.make_node("Add", ["pulled", "kept"], ["truncated"]),
        helper.make_node("Unsqueeze", ["truncated", "rows"], ["row"]),
        helper.make_node("Expand", ["row", "shape"], ["w_plus"]),
    ]
    constants: dict[str, Array] = {
        "one": np.ones((1, 1), np.float32),
        "mean": mean.reshape(1, -1).astype(np.float32),
        "rows": np.array([1], np.int64),
        "shape": np.array([1, n_style, 1], np.int64),
    }
    dim = mean.size
    inputs: dict[str, Shape] = {"w": (dim,), "psi": (1,)}
    return _glue("styles", nodes, constants, inputs, {"w_plus": (n_style, dim)})


def sliders(n_style: int, directions: Directions) -> bytes:
    """w_plus [N, n_style, D] and values [N, K], one from -100 to 100 for every direction in its order -> edited [N, n_style, D].

    The rule of ``editing.apply.edit``; a graph cannot refuse a value, so those out of range are cut.
    """
    step = np.stack([directions[name].astype(np.float64) for name in directions.names]) * (SCALE / LARGEST_VALUE)
    moved = np.array([[[1.0] if row in ROWS else [0.0] for row in range(n_style)]], np.float32)
    nodes = [
        helper.make_node("Clip", ["values", "least", "most"], ["cut"]),
        helper.make_node("MatMul", ["cut", "step"], ["sum"]),
        helper.make_node("Unsqueeze", ["sum", "rows"], ["row"]),
        helper.make_node("Mul", ["row", "moved"], ["moves"]),
        helper.make_node("Add", ["w_plus", "moves"], ["edited"]),
    ]
    constants: dict[str, Array] = {
        "least": np.array(-LARGEST_VALUE, np.float32),
        "most": np.array(LARGEST_VALUE, np.float32),
        "step": step.astype(np.float32),
        "rows": np.array([1], np.int64),
        "moved": moved,
    }
    codes: Shape = (n_style, directions.style_dim)
    inputs: dict[str, Shape] = {"w_plus": codes, "values": (len(directions.names),)}
    return _glue("sliders", nodes, constants, inputs, {"edited": codes})


def pictures() -> bytes:
    """image float32 [N, 3, H, W], nominally in [-1, 1] -> picture uint8 [N, H, W, 3], as ``latents.as_images``, and the image
    ``unchanged``.

    What one step of an ensemble takes must not be an output of it as well: Triton drops outputs that a client does not ask
    for, and then never comes to the step.
    """
    nodes = [
        helper.make_node("Mul", ["image", "half"], ["scaled"]),
        helper.make_node("Add", ["scaled", "middle"], ["shifted"]),
        helper.make_node("Clip", ["shifted", "least", "most"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["bytes"], to=_BYTE),
        helper.make_node("Transpose", ["bytes"], ["picture"], perm=[0, 2, 3, 1]),
        helper.make_node("Identity", ["image"], ["unchanged"]),
    ]
    numbers = {"half": 127.5, "middle": 128.0, "least": 0.0, "most": 255.0}
    constants = {name: np.array(number, np.float32) for name, number in numbers.items()}
    outputs: dict[str, Shape] = {"picture": ("H", "W", 3), "unchanged": (3, "H", "W")}
    return _glue("pictures", nodes, constants, {"image": (3, "H", "W")}, outputs, {"picture": _BYTE})


def _glue(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Array],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    types: Mapping[str, int] | None = None,
) -> bytes:
    """A checked model. inputs, outputs: shapes without the batch. types: of outputs that are not float32."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(key, _FLOAT, ["batch", *shape]) for key, shape in inputs.items()],
        [
            helper.make_tensor_value_info(key, (types or {}).get(key, _FLOAT), ["batch", *shape])
            for key, shape in outputs.items()
        ],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="anycost-runtime")
    onnx.checker.check_model(model, full_check=True)
    return _file(model, name)


def _file(model: onnx.ModelProto, name: str) -> bytes:
    # The oldest form that holds it, for the same reason as _OPSET.
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import))
    if model.ByteSize() > _MOST_BYTES:
        raise BuildError(
            f"{name} with its weights is larger than 2 GB, the most that an ONNX file can be: leave it out"
        )
    return model.SerializeToString(deterministic=True)
