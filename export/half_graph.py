"""A float32 graph in half precision: products, convolutions and what lies between them; never what a float16 cannot hold.

For every network beside the generator, whose own form is in half.py. (ONNX Runtime's converter gives several casts one name
where a value is used twice by one node, so the conversion is here.)
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from anycost.runtime.binding import Dtype

# Sums over many values, and what is steep: their intermediate values leave float16's range or lose its eleven bits.
_SENSITIVE = {
    "Div",
    "Exp",
    "InstanceNormalization",
    "LayerNormalization",
    "Log",
    "Pow",
    "Reciprocal",
    "ReduceL2",
    "ReduceMean",
    "ReduceSum",
    "ReduceSumSquare",
    "Resize",
    "Softmax",
    "Sqrt",
}
# A factor outside of these takes ordinary values out of float16's range (rsqrt(1e8 x + 1) 1e4 is how 1e-8 stays under a root).
_ORDINARY = (1e-3, 1e3)
_POINTWISE = {"Add", "Mul", "Sub"}
_TYPES: dict[str, tuple[int, type, Dtype]] = {
    "fp16": (TensorProto.FLOAT16, np.float16, "float16"),
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16, "bfloat16"),
}
_FLOAT = TensorProto.FLOAT


def in_half(model: onnx.ModelProto, precision: str, bound: set[str]) -> tuple[onnx.ModelProto, dict[str, Dtype]]:
    """The graph in fp16 or bf16 with float32 inputs and outputs, and what type each of the bound initializers has in it."""
    return _Conversion(model, precision, bound).run()


class _Conversion:
    def __init__(self, model: onnx.ModelProto, precision: str, bound: set[str]):
        self.half, self.number, self.said = _TYPES[precision]
        self.source, self.bound = model, bound
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        del self.model.graph.node[:], self.model.graph.value_info[:], self.model.graph.initializer[:]
        self.constants = {x.name: x for x in model.graph.initializer}
        graph = shape_inference.infer_shapes(model).graph
        self.floats = {
            value.name
            for value in (*graph.value_info, *graph.input, *graph.output)
            if value.type.tensor_type.elem_type == _FLOAT
        } | {name for name, x in self.constants.items() if x.data_type == _FLOAT}
        # The type that each value is made in, and its casts to the other.
        self.made = dict.fromkeys(self.floats, _FLOAT)
        self.casts: dict[tuple[str, int], str] = {}
        self.bound_types: dict[str, Dtype] = dict.fromkeys(bound, "float32")

    def run(self) -> tuple[onnx.ModelProto, dict[str, Dtype]]:
        kept = kept_nodes(self.source)
        if self.said == "bfloat16":  # TensorRT-RTX has no transposed convolution in it.
            kept |= {i for i, node in enumerate(self.source.graph.node) if node.op_type == "ConvTranspose"}
        # A weight that any half node takes is half for all, so these come first.
        for i, node in enumerate(self.source.graph.node):
            for name in self.bound.intersection(node.input) & self.floats if i not in kept else ():
                self._as(name, self.half)
        outputs = {value.name for value in self.source.graph.output}
        for i, node in enumerate(self.source.graph.node):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            wanted = _FLOAT if i in kept or node.op_type in ("Cast", "Constant", "ConstantOfShape") else self.half
            if node.op_type != "Shape":  # It takes any type.
                copy.input[:] = [self._as(name, wanted) if name in self.floats else name for name in node.input]
            last = []
            for k, name in enumerate(node.output):
                if name not in self.floats:
                    continue
                self.made[name] = wanted
                if wanted == self.half and name in outputs:
                    copy.output[k] = f"{name}_half"
                    self.casts[name, self.half] = copy.output[k]
                    self.made[name] = _FLOAT
                    last.append(helper.make_node("Cast", [copy.output[k]], [name], to=_FLOAT))
            self.model.graph.node.extend([copy, *last])
        for name, constant in self.constants.items():
            if name not in self.floats or name in self._used():
                self.model.graph.initializer.append(constant)
        onnx.checker.check_model(self.model, full_check=True)
        return self.model, self.bound_types

    def _as(self, name: str, wanted: int) -> str:
        """The name of a value in the wanted type, cast before its first use."""
        if name in self.constants and wanted == self.half and (name, wanted) not in self.casts:
            value = numpy_helper.to_array(self.constants[name]).astype(self.number)
            if name in self.bound:  # It keeps its name: the weights file is bound to it.
                self.constants[name] = numpy_helper.from_array(value, name)
                self.made[name] = self.half
                self.bound_types[name] = self.said
            else:
                self.casts[name, wanted] = f"{name}_half"
                self.model.graph.initializer.append(numpy_helper.from_array(value, f"{name}_half"))
        if self.made[name] == wanted:
            return name
        if (name, wanted) not in self.casts:
            self.casts[name, wanted] = f"{name}_{'float' if wanted == _FLOAT else 'half'}"
            self.model.graph.node.append(helper.make_node("Cast", [name], [self.casts[name, wanted]], to=wanted))
        return self.casts[name, wanted]

    def _used(self) -> set[str]:
        return {name for node in self.model.graph.node for name in node.input}


def kept_nodes(model: onnx.ModelProto) -> set[int]:
    """Indices of the nodes that stay in float32."""
    constants = {x.name: numpy_helper.to_array(x) for x in model.graph.initializer}
    nodes = model.graph.node
    kept = {i for i, node in enumerate(nodes) if node.op_type in _SENSITIVE or _extreme(node, constants)}
    # What leads to a kept node by pointwise operations alone stays too: its result may have no place in float16.
    users: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        for name in node.input:
            users.setdefault(name, []).append(i)
    for i in reversed(range(len(nodes))):
        following = [user for name in nodes[i].output for user in users.get(name, [])]
        if nodes[i].op_type in _POINTWISE and following and kept.issuperset(following):
            kept.add(i)
    return kept


def _extreme(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> bool:
    """Whether it multiplies or adds a single number that float16 arithmetic has no good place for."""
    if node.op_type not in _POINTWISE:
        return False
    for name in node.input:
        value = constants.get(name)
        if value is not None and value.size == 1 and value.dtype == np.float32 and value.item() != 0:
            size = abs(value.item())
            if not _ORDINARY[0] <= size <= _ORDINARY[1]:
                return True
    return False
