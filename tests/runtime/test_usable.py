"""What can run on a machine, told before anything is loaded."""

import pytest

from anycost.runtime import backends, usable
from anycost.runtime.cuda.devices import CudaDevice
from anycost.runtime.manifest import EngineRecord, ParityRecord


def engine(backend, precision="fp16", targets=("sm_86", "sm_89"), version="1.7"):
    return EngineRecord(
        network="1@32",
        backend=backend,
        precision=precision,
        targets=targets,
        inputs={},
        outputs={},
        folder="engines/1@32/x",
        key="0" * 64,
        versions={backend: version},
        files={"x": {"sha256": "0" * 64, "size": 1}},
        weights_bytes=0,
        parity=ParityRecord(max_abs=0, psnr_db=90, ssim=1),
    )


def gpu(major=8, minor=9):
    return CudaDevice(0, "A card", (major, minor), 8 << 30, (13, 0))


@pytest.fixture
def machine(monkeypatch):
    """A machine with the packages and GPUs that a test says."""

    def make(versions, gpus=()):
        monkeypatch.setattr(backends, "installed", lambda backend: versions.get(backend))
        monkeypatch.setattr(usable, "devices", lambda: tuple(gpus))

    return make


def test_an_engine_for_this_gpu_and_version(machine):
    machine({"tensorrt_rtx": "1.7"}, [gpu()])
    assert usable.unusable(engine("tensorrt_rtx")) == ""


def test_each_reason_says_what_to_do(machine):
    machine({}, [gpu()])
    assert "pip install 'anycost-runtime[tensorrt-rtx]'" in usable.unusable(engine("tensorrt_rtx"))
    machine({"tensorrt_rtx": "1.7"})
    assert "no driver or device" in usable.unusable(engine("tensorrt_rtx"))
    machine({"tensorrt_rtx": "1.7"}, [gpu(12, 0)])
    assert "A card is sm_120: build again with --target sm_120" in usable.unusable(engine("tensorrt_rtx"))
    machine({"tensorrt_rtx": "1.8"}, [gpu()])
    assert "built by tensorrt_rtx 1.7 and 1.8 is installed: build again with --refresh" in usable.unusable(
        engine("tensorrt_rtx")
    )


def test_machine_code_needs_a_compatible_gpu_and_no_version(machine):
    machine({"cuda": "1.2"}, [gpu(8, 9)])
    assert usable.unusable(engine("cuda", targets=("sm_86", "sm_90"), version="1.0")) == ""
    said = usable.unusable(engine("cuda", targets=("sm_90", "sm_120")))
    assert "built for sm_90, sm_120 and A card is sm_89: build again with --target sm_89" in said
    machine({"cuda": "1.2"}, [gpu(12, 1)])
    assert "is sm_121" in usable.unusable(engine("cuda", targets=("sm_120",)))
    machine({}, [gpu()])
    assert "pip install 'anycost-runtime[gpu]'" in usable.unusable(engine("cuda"))
    machine({"cuda": "1.2"})
    assert "no driver or device" in usable.unusable(engine("cuda"))


def test_cpu_engines_need_their_package_only(machine):
    machine({"onnxruntime": "9"})
    assert usable.unusable(engine("onnxruntime", "fp32", ("cpu-x86_64",))) == ""
    assert "not installed" in usable.unusable(engine("openvino", "fp32", ("cpu-x86_64",)))


def test_where_nothing_was_measured_a_gpu_comes_first_then_the_most_exact():
    engines = [
        engine("openvino", "fp16"),
        engine("onnxruntime", "int8"),
        engine("openvino", "fp32"),
        engine("tensorrt_rtx", "fp16"),
        engine("cuda", "fp16"),
        engine("onnxruntime", "fp32"),
    ]
    found = [one.variant for one in sorted(engines, key=usable.preference)]
    assert found == ["cuda-fp16", "tensorrt_rtx-fp16", "onnxruntime", "openvino", "openvino-fp16", "onnxruntime-int8"]
