"""Eight-bit integers for CPUs: the 3x3 convolutions of the static-weight form, quantized after training.

In y = d * conv(x * s, W) the input x * s and the weights W are rounded to eight bits, before and after an exact integer sum; all
else stays in float32, and so do the first and the last convolution, every to-RGB layer and the depthwise FIRs, which see the most
and cost the least. Rounding is linear and symmetric, with one scale a tensor for activations and one an output channel for
weights (Jacob et al., arXiv 1712.05877; Krishnamoorthi, arXiv 1806.08342). Scales of activations come from calibration: the
99.999th percentile of the absolute values that images of random codes give (Wu et al., arXiv 2004.09602), collected by
``onnxruntime.quantization``. Nothing is trained.

Why symmetric: a zero point of its own gains 1 to 3 dB, as most activations are positive, and costs as much as a symmetric
convolution in ONNX Runtime and OpenVINO; but OpenVINO then computes transposed convolutions in float, TensorRT takes no zero
points, and x86 processors without VNNI saturate on products of unsigned and signed bytes. Why plain styles: dividing s by its
largest value, as half.py does, changed the PSNR of ordinary codes by less than 1 dB either way.

The graph says what is rounded by pairs of QuantizeLinear and DequantizeLinear. The weights keep their float initializers, bound
to the one weights file, and each backend folds their pairs when it loads the engine.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

from anycost.errors import BuildError
from anycost.export.trace import OPSET, Traced, quiet

Arrays = dict[str, np.ndarray]
_PERCENTILE = 99.999
_CONVOLUTIONS = ("Conv", "ConvTranspose")


def quantized(traced: Traced, samples: Sequence[Arrays]) -> Traced:
    """The float32 graph with pairs at the inputs, weights and outputs of its inner 3x3 convolutions, from at least one sample of
    its inputs. Same inputs, outputs and bindings; a graph without such convolutions stays as it is. ``fitted`` removes the
    pairs that a backend has no use for.

    Raises BuildError without samples, and where the quantizer changed a weight.
    """
    if not samples:
        raise BuildError("int8 engines need calibration samples: give at least 1")
    nodes = inner_convolutions(traced)
    if not nodes:
        return traced
    options = {
        "ActivationSymmetric": True,
        "AddQDQPairToWeight": True,
        "CalibPercentile": _PERCENTILE,
        "CalibStridedMinMax": 1,  # One sample at a time, for this method too: all activations of many do not fit into memory.
        "CalibTensorRangeSymmetric": True,
        "WeightSymmetric": True,
    }
    with tempfile.TemporaryDirectory() as folder, quiet(), _no_advice():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            copy.deepcopy(traced.model),  # It moves the initializers of what it is given into a file.
            path,
            _Reader(samples),
            op_types_to_quantize=list(_CONVOLUTIONS),
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options=options,
        )
        model = onnx.load(path)
    del model.metadata_props[:]
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    onnx.checker.check_model(model, full_check=True)
    found = Traced(model, traced.bindings)
    after = found.values()
    for name, value in traced.values().items():
        if name not in after or not np.array_equal(after[name], value):
            raise BuildError(
                f"the quantizer of this ONNX Runtime changed the weights {name}: this version is not supported"
            )
    return found


def inner_convolutions(traced: Traced) -> list[str]:
    """Names of the nodes to quantize: convolutions over all channels with bound weights larger than 1x1, in the order of the
    graph, without the first and the last."""
    shapes = {x.name: tuple(x.dims) for x in traced.model.graph.initializer if x.name in traced.bindings}
    found = [
        node.name
        for node in traced.model.graph.node
        if node.op_type in _CONVOLUTIONS and shapes.get(node.input[1], (1,))[-1] > 1
    ]
    return found[1:-1]


def fitted(traced: Traced, backend: str) -> Traced:
    """A quantized graph as a backend runs it best, with the same weights.

    ONNX Runtime has integer convolutions only where the output is rounded too, and no transposed ones, which go back to float.
    The others sum into float32 themselves, so that rounding the outputs again would cost 1 dB and gain nothing.
    """
    model = onnx.ModelProto()
    model.CopyFrom(traced.model)
    graph = model.graph
    rounds = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    # Of each pair: what comes out -> what went in.
    pairs = {
        node.output[0]: rounds[node.input[0]].input[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in rounds
    }
    convolutions = [node for node in graph.node if node.op_type in _CONVOLUTIONS]
    if backend == "onnxruntime":
        unused = [node for node in convolutions if node.op_type == "ConvTranspose"]
        for node in unused:
            node.input[:] = [pairs.get(name, name) for name in node.input]
    else:
        unused = convolutions
    made = {node.output[0] for node in unused}
    outputs = {after: before for after, before in pairs.items() if before in made}
    for node in graph.node:
        node.input[:] = [outputs.get(name, name) for name in node.input]
    _remove_unused(graph)
    onnx.checker.check_model(model, full_check=True)
    return Traced(model, traced.bindings)


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Pairs whose result nothing takes, and their scales."""
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        used = {name for node in graph.node for name in node.input}
        for node in [node for node in graph.node if node.op_type == kind and node.output[0] not in used]:
            graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for constant in [constant for constant in graph.initializer if constant.name not in used]:
        graph.initializer.remove(constant)


class _Reader(CalibrationDataReader):
    """Samples from ``start`` to ``end``, as the calibrator asks for them."""

    def __init__(self, samples: Sequence[Arrays]):
        self._samples = samples
        self.set_range(0, len(samples))

    def __len__(self) -> int:
        return len(self._samples)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = iter(self._samples[start_index:end_index])

    def get_next(self) -> Arrays | None:
        return next(self._left, None)


class _no_advice:  # noqa: N801 - used as a function
    """The quantizer recommends a preparation that has nothing to do here, as a warning of the root logger."""

    def __enter__(self) -> None:
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(logging.NOTSET)
