"""What this machine's processor can do: the best rate of a float32 matrix product that any library here reaches.

One library alone is no measure: MKL, which PyTorch and often NumPy use, is half as fast as the others on AMD processors.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
import torch
from openvino import opset15 as op
from threadpoolctl import threadpool_limits

Product = Callable[[], object]


def gemm_gflops(threads: int, size: int = 2048, runs: int = 7) -> float:
    """The best of NumPy, PyTorch, ONNX Runtime and OpenVINO, in 10^9 operations a second (two a multiply-add), each by the median
    of its runs; both factors are square and one is constant, as weights are."""
    a = np.random.RandomState(0).standard_normal((size, size)).astype(np.float32)
    b = torch.from_numpy(a)
    products = (lambda: a @ a, lambda: b @ b, _onnxruntime(a, threads), _openvino(a, threads))
    with threadpool_limits(threads):
        seconds = min(_median_s(product, runs) for product in products)
    return 2 * size**3 / seconds / 1e9


def _median_s(product: Product, runs: int) -> float:
    product()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        product()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _onnxruntime(a: np.ndarray, threads: int) -> Product:
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, a.shape) for name in ("x", "y")]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "product", values[:1], values[1:], [onnx.numpy_helper.from_array(a, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": a})


def _openvino(a: np.ndarray, threads: int) -> Product:
    x = op.parameter(a.shape, np.float32)
    model = ov.Model([op.matmul(x, op.constant(a), False, False)], [x])
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer({0: a}, share_inputs=True, share_outputs=True)
