import platform

import pytest

from anycost.errors import BuildError
from anycost.export.variants import (
    CALIBRATION_SAMPLES,
    DEFAULT_TARGETS,
    LARGEST_BATCH,
    PRECISIONS,
    Variant,
    batch_profile,
    variants,
)
from anycost.runtime.backends import BACKENDS
from anycost.runtime.usable import COMPILED_BACKENDS, GPU_BACKENDS, GRAPH_BACKENDS

CPU = (f"cpu-{platform.machine().lower()}",)
CPU_BACKENDS = ("onnxruntime", "openvino")


def named(found):
    return [variant.name for variant in found]


def test_every_backend_is_of_one_kind():
    assert set(CPU_BACKENDS) | set(GPU_BACKENDS) == set(BACKENDS)
    assert set(COMPILED_BACKENDS) | set(GRAPH_BACKENDS) == set(GPU_BACKENDS)
    assert not set(COMPILED_BACKENDS) & set(GRAPH_BACKENDS)


def test_names():
    assert Variant("openvino").name == "openvino"
    assert Variant("onnxruntime_cuda", "bf16").name == "onnxruntime_cuda-bf16"
    names = [Variant(backend, precision).name for backend in BACKENDS for precision in PRECISIONS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([], ["onnxruntime", "openvino"]),
        (["cpu"], ["onnxruntime", "openvino"]),
        (["sm_89"], ["tensorrt_rtx"]),
        (["sm_89", "cpu"], ["onnxruntime", "openvino", "tensorrt_rtx"]),
    ],
)
def test_backends_of_the_targets(targets, expected):
    assert named(variants(None, ["fp32"], targets)) == expected


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_for_cpus(backend, precision):
    assert variants([backend], [precision], [], "2:3:4", 64) == [Variant(backend, precision, CPU)]


@pytest.mark.parametrize("backend", [*CPU_BACKENDS, "tensorrt"])
def test_int8_is_calibrated(backend):
    found = variants([backend], ["fp32", "int8"], [])
    assert [variant.calibration for variant in found] == [None, CALIBRATION_SAMPLES]
    assert variants([backend], ["int8"], [], calibration=3)[0].calibration == 3


def test_precisions_that_some_of_the_targets_backends_have():
    """Backends that were not named drop out; named ones are refused."""
    found = named(variants(None, ["fp16", "int8"], ["cpu", "sm_89"]))
    assert found == ["onnxruntime-fp16", "onnxruntime-int8", "openvino-fp16", "openvino-int8", "tensorrt_rtx-fp16"]
    with pytest.raises(BuildError, match="int8 is not built for tensorrt_rtx"):
        variants(["openvino", "tensorrt_rtx"], ["fp16", "int8"], ["cpu", "sm_89"])
    assert named(variants(None, ["fp32", "bf16"], ["cpu"])) == ["onnxruntime", "openvino", "openvino-bf16"]
    assert named(variants(None, ["bf16"], ["cpu", "sm_89"])) == ["openvino-bf16", "tensorrt_rtx-bf16"]
    with pytest.raises(
        BuildError, match=r"precision int8 is for onnxruntime, openvino, tensorrt: add one to --backend"
    ):
        variants(None, ["fp32", "int8"], ["sm_89"])
    for samples, precision in ((0, "int8"), (8, "fp16")):
        with pytest.raises(BuildError, match=f"calibration {samples} is for --precision int8, and at least 1"):
            variants(["openvino"], [precision], [], calibration=samples)


@pytest.mark.parametrize("backend", ["tensorrt_rtx", "tensorrt"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_compiled_for_gpus(backend, precision):
    assert variants([backend], [precision], [], "2:3:4", 64) == [
        Variant(backend, precision, DEFAULT_TARGETS, (2, 3, 4), 64)
    ]
    (named_targets,) = variants([backend], [precision], ["cpu", "sm_90", "sm_120"])
    assert named_targets == Variant(backend, precision, ("sm_90", "sm_120"), (1, 1, 8))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_our_own_kernels(precision):
    """Any batch up to the largest, no workspace; Hopper too, which the plans' builder does not know."""
    (found,) = variants(["cuda"], [precision], [], "2:3:4", 64)
    assert found == Variant("cuda", precision, ("sm_86", "sm_89", "sm_90", "sm_120"), (1, 3, 4))
    (named_targets,) = variants(["cuda"], [precision], ["cpu", "sm_100", "sm_80"])
    assert named_targets == Variant("cuda", precision, ("sm_100", "sm_80"), (1, 1, 8))


def test_turing_has_no_bfloat16():
    assert variants(["cuda"], ["fp16"], ["sm_75"])[0].targets == ("sm_75",)
    with pytest.raises(BuildError, match="bf16 kernels need sm_80 or newer: leave sm_75 out of --target"):
        variants(["cuda"], ["bf16"], ["sm_89", "sm_75"])


@pytest.mark.parametrize("backend", GRAPH_BACKENDS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("targets", [[], ["sm_89"], ["sm_86", "sm_120"], ["cpu", "sm_89"]])
def test_graphs_for_any_gpu(backend, precision, targets):
    assert variants([backend], [precision], targets, "2:3:4", 64) == [Variant(backend, precision, ("cuda",))]


def test_in_the_order_asked_for():
    found = variants(["onnxruntime_cuda", "tensorrt_rtx", "openvino"], ["fp16", "fp32"], ["sm_89"])
    assert named(found) == [
        "onnxruntime_cuda-fp16",
        "onnxruntime_cuda",
        "tensorrt_rtx-fp16",
        "tensorrt_rtx",
        "openvino-fp16",
        "openvino",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((["onnxruntime"], ["fp32"], ["gpu"]), "target 'gpu' is not cpu or a compute capability such as sm_89"),
        ((["onnxruntime_cuda"], ["fp32"], ["cuda"]), "target 'cuda' is not cpu"),
        ((None, ["fp32"], ["sm_8"]), "target 'sm_8'"),
        ((None, ["fp32"], ["SM_89"]), "target 'SM_89'"),
        ((None, ["half"], []), "precision 'half' is not one of fp32, fp16, bf16, int8"),
        ((["openvino"], ["fp32"], ["sm_89"]), "targets sm_89 need a backend for GPUs: add tensorrt_rtx"),
        (
            (["onnxruntime"], ["bf16"], []),
            "precision bf16 is not built for onnxruntime: it is for openvino, cuda, tensorrt_rtx, tensorrt, ",
        ),
        (
            (["tensorrt_rtx"], ["int8"], []),
            "precision int8 is not built for tensorrt_rtx: it is for onnxruntime, openvino",
        ),
        *(((([name], ["int8"], [])), f"precision int8 is not built for {name}") for name in GRAPH_BACKENDS),
        ((None, ["fp32"], ["sm_89"], "0:1:8"), r"batch '0:1:8' does not rise within 1\.\.256"),
        ((None, ["fp32"], ["sm_89"], "1:1:8", 0), "workspace 0 MB is not a positive number"),
    ],
)
def test_what_does_not_go_together(arguments, said):
    with pytest.raises(BuildError, match=said):
        variants(*arguments)


def test_batch_profiles():
    assert batch_profile("1:1:8") == (1, 1, 8)
    assert batch_profile("4") == (4, 4, 4)
    assert batch_profile(f"1:2:{LARGEST_BATCH}") == (1, 2, LARGEST_BATCH)
    for text in ("", "1:2", "1:2:3:4", "a", "1:b:3", "-1", "1.5", "٣", " 1"):
        with pytest.raises(BuildError, match="is not LEAST:USUAL:LARGEST, such as 1:1:8"):
            batch_profile(text)
    for text in ("0", "2:1:3", "1:3:2", f"1:1:{LARGEST_BATCH + 1}"):
        with pytest.raises(BuildError, match="does not rise within"):
            batch_profile(text)
