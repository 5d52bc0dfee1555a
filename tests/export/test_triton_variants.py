"""Which of a network's engines Triton gets, on what, and whose graph each of them takes."""

from types import SimpleNamespace

import pytest

from anycost.export.triton_variants import triton_variants


def engine(backend, precision="fp32", **more):
    values = {"network": "n", "backend": backend, "precision": precision, "fused": False, "batch": None}
    return SimpleNamespace(**(values | more))


@pytest.mark.parametrize(
    ("engines", "plans", "expected"),
    [
        ([engine("openvino"), engine("cuda")], True, []),
        ([engine("tensorrt")], True, []),
        (
            [engine("onnxruntime"), engine("tensorrt")],
            True,
            [("tensorrt", "fp32", "plan"), ("onnxruntime", "fp32", "")],
        ),
        (
            [engine("onnxruntime"), engine("tensorrt")],
            False,
            [("tensorrt", "fp32", "tensorrt"), ("onnxruntime", "fp32", "")],
        ),
        # The plan's precision has no graph: what is right, if slower.
        (
            [engine("onnxruntime"), engine("tensorrt_rtx", "bf16"), engine("tensorrt", "int8")],
            True,
            [("tensorrt", "fp32", "tensorrt"), ("onnxruntime", "fp32", "")],
        ),
        (
            [engine("onnxruntime", "int8"), engine("onnxruntime"), engine("onnxruntime_tensorrt", "fp16")],
            False,
            [("tensorrt-fp16", "fp16", "tensorrt"), ("onnxruntime", "fp32", ""), ("onnxruntime-int8", "int8", "")],
        ),
        (
            [engine("tensorrt", fused=True), engine("onnxruntime_tensorrt"), engine("tensorrt"), engine("tensorrt")],
            True,
            [("tensorrt", "fp32", "plan")],
        ),
    ],
)
def test_variants(engines, plans, expected):
    found = triton_variants(engines, plans)
    shown = [(v.label, v.source.precision, "plan" if v.place.plan else v.place.accelerator) for v in found]
    assert shown == expected
