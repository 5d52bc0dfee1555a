"""Winograd's convolution down the columns, F(4, 3): four rows of a 3x3 convolution's result out of six 1x3 convolutions of a
quarter of the rows each, which is half of its products. (Winograd, Arithmetic Complexity of Computations, 1980; Lavin and
Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308.)

The rows 4 i - 1 to 4 i + 4 of the input are added up to six sums; each is convolved with one of the six filters of a row that
come of the three rows of the 3x3 filter; the rows 4 i to 4 i + 3 of the result are four sums of the six results. Along the
rows as well it would halve the products again, of larger sums and with more rounding: that was not built.

Neither ONNX Runtime nor OpenVINO has such a convolution for x86 processors. Both compute what the filters become when they
load the graph: the bundle's weights stay as they are.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

# Fewer products pay from here on: below, what lies around them is bound by memory, or by reading twice as many weights.
LEAST_CHANNELS = 128
LEAST_ROWS = 16

# Of the points 0, 1, -1, 2, -2 and infinity, as in section 4.3 of Lavin and Gray.
_SUMS = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_FILTERS = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
# In the names of the nodes and constants that take the place of a convolution, behind its result's name.
_MARK = "/winograd/"
_LEAST_OPSET = 18  # the first whose Split takes a number of parts


def winograd(model: ModelProto) -> ModelProto:
    """A graph of the same results up to float32's rounding, without the convolutions that gain by it; others are left alone."""
    if next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx")) < _LEAST_OPSET:
        return model
    shapes = _shapes(model)
    weights = {each.name: each for each in model.graph.initializer}
    found = ModelProto()
    found.CopyFrom(model)
    del found.graph.node[:], found.graph.value_info[:]
    for node in model.graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is not None and _gains(node, weight, shapes.get(node.input[0], [])):
            _add(found.graph, node, weight, shapes[node.input[0]][2])
        else:
            found.graph.node.append(node)
    return found


def plain(model: ModelProto) -> ModelProto:
    """The graph that ``winograd`` was given: for devices whose libraries choose such an algorithm themselves."""
    found = ModelProto()
    found.CopyFrom(model)
    del found.graph.node[:], found.graph.initializer[:]
    found.graph.initializer.extend(each for each in model.graph.initializer if _MARK not in each.name)
    made = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        if node.name.endswith(_MARK):
            x, weight = made[f"{node.name}sums_0"].input[0], made[f"{node.name}stacked"].input[1]
            bias = [made[f"{node.name}bias"].input[0]] if node.op_type == "Add" else []
            found.graph.node.append(
                helper.make_node(
                    "Conv", [x, weight, *bias], node.output, node.name.removesuffix(_MARK), pads=[1, 1, 1, 1]
                )
            )
        elif _MARK not in node.name:
            found.graph.node.append(node)
    return found


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    """By name; 0 for a size that is not fixed."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.value_info, *graph.input]
    return {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in values}


def _gains(node: NodeProto, weight: TensorProto, shape: list[int]) -> bool:
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return (
        weight.data_type == TensorProto.FLOAT
        and list(weight.dims[2:]) == [3, 3] and min(weight.dims[:2]) >= LEAST_CHANNELS
        and given.get("group", 1) == 1 and given.get("pads") == [1, 1, 1, 1]
        and given.get("strides", [1, 1]) == given.get("dilations", [1, 1]) == [1, 1]
        and given.get("auto_pad", b"NOTSET") == b"NOTSET"
        and len(shape) == 4 and shape[2] >= LEAST_ROWS and shape[2] % 4 == 0
    )  # fmt: skip


def _add(graph: GraphProto, node: NodeProto, weight: TensorProto, height: int) -> None:
    name = node.output[0] + _MARK
    outputs, inputs = weight.dims[:2]

    def constant(role: str, value: object, dtype: type = np.float32) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name + role))
        return name + role

    def add(op: str, role: str, *given: str, results: list[str] | None = None, **attributes: object) -> str:
        made = helper.make_node(op, list(given), results or [name + role], name + role, **attributes)
        graph.node.append(made)
        return made.output[0]

    six = [f"{name}filter_{i}" for i in range(6)]
    add("MatMul", "stacked", constant("filters", _FILTERS), node.input[1])
    add("Split", "split", name + "stacked", results=six, axis=2, num_outputs=6)
    channels = constant("channels", [inputs, 1, 1, 1], np.int64)
    p = []
    for i, coefficients in enumerate(_SUMS):
        column = add("Expand", f"column_{i}", constant(f"coefficients_{i}", [[[[c] for c in coefficients]]]), channels)
        sums = add(
            "Conv", f"sums_{i}", node.input[0], column,
            group=inputs, kernel_shape=[6, 1], strides=[4, 1], pads=[1, 0, 1, 0],
        )  # fmt: skip
        p.append(add("Conv", f"products_{i}", sums, six[i], kernel_shape=[1, 3], pads=[0, 1, 0, 1]))
    plus, minus = add("Add", "plus_1", p[1], p[2]), add("Sub", "minus_1", p[1], p[2])
    plus_2, minus_2 = add("Add", "plus_2", p[3], p[4]), add("Sub", "minus_2", p[3], p[4])
    twice, four, eight = (
        add("Mul", f"{role}_times", value, constant(role, factor))
        for role, value, factor in (("two", minus_2, 2), ("four", plus_2, 4), ("eight", minus_2, 8))
    )
    rows = [
        add("Add", "row_0", p[0], add("Add", "all", plus, plus_2)),
        add("Add", "row_1", minus, twice),
        add("Add", "row_2", plus, four),
        add("Add", "row_3", p[5], add("Add", "odd", minus, eight)),
    ]
    # Rows side by side are the rows one after the other.
    beside = add("Concat", "beside", *rows, axis=3)
    shape = constant("shape", [0, outputs, height, -1], np.int64)
    if len(node.input) > 2 and node.input[2]:
        last = add("Reshape", "rows", beside, shape)
        bias = add("Unsqueeze", "bias", node.input[2], constant("axes", [1, 2], np.int64))
        add("Add", "", last, bias, results=[node.output[0]])
    else:
        add("Reshape", "", beside, shape, results=[node.output[0]])
