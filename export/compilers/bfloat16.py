"""bfloat16 graphs as ONNX Runtime takes them.

Its CUDA provider has no bfloat16 kernel for transposed convolutions and some other operators, and there is none on the CPU to
fall back to: these compute in float32.
"""

from __future__ import annotations

from collections.abc import Set

import onnx
from onnx import TensorProto, helper, shape_inference

# What moves values and does not compute.
_MOVING = {"Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Shape", "Slice", "Split", "Squeeze"}
_MOVING |= {"Transpose", "Unsqueeze"}
# With bfloat16 kernels in the CUDA provider of ONNX Runtime 1.31.
CUDA = frozenset(_MOVING | {"Add", "Conv", "Div", "Gemm", "MatMul", "Mul", "Relu", "Sigmoid", "Sub", "Tanh"})
# TensorRT takes whole graphs, and these have the type in the operator set.
TENSORRT = CUDA | {"AveragePool", "Clip", "ConvTranspose", "GlobalAveragePool", "LeakyRelu", "MaxPool"}


def for_onnxruntime(model: onnx.ModelProto, kept: Set[str]) -> onnx.ModelProto:
    """A copy whose bfloat16 operators are those of ``kept``; all others have casts around them."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    del found.graph.value_info[:]
    types = _types(found)
    nodes: list[onnx.NodeProto] = []
    wide: dict[str, str] = {}

    def cast(source: str, to: str, dtype: int) -> str:
        nodes.append(helper.make_node("Cast", [source], [to], name=f"cast.{to}", to=dtype))
        return to

    for original in found.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        halves = [name for name in node.output if types.get(name) == TensorProto.BFLOAT16]
        taken = [name for name in node.input if types.get(name) == TensorProto.BFLOAT16]
        if node.op_type in kept or not (halves or taken):
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            if name in taken:
                if name not in wide:
                    wide[name] = cast(name, f"{name}.float32", TensorProto.FLOAT)
                node.input[i] = wide[name]
        for i, name in enumerate(node.output):
            if name in halves:
                node.output[i] = f"{name}.wide"
        nodes.append(node)
        for name in halves:
            cast(f"{name}.wide", name, TensorProto.BFLOAT16)
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    return found


def _types(model: onnx.ModelProto) -> dict[str, int]:
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    values = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)
    }
    return values | {initializer.name: initializer.data_type for initializer in graph.initializer}
