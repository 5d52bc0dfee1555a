"""Which backends the installed packages make: ONNX Runtime's distributions share one module, and a plugin needs a recent one."""

from types import SimpleNamespace

import pytest

from anycost.errors import BackendError
from anycost.runtime import backends, usable
from anycost.runtime.cuda.devices import CudaDevice

GPU = ("onnxruntime_cuda", "onnxruntime_tensorrt", "onnxruntime_tensorrt_rtx")


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """What is installed, by distribution, and whose files the module consists of."""
    state = SimpleNamespace(versions={}, in_place=None)

    def version(name):
        if name not in state.versions:
            raise backends.metadata.PackageNotFoundError(name)
        return state.versions[name]

    def find_spec(name):
        assert name == "onnxruntime"
        if state.in_place is None:
            return None
        capi = tmp_path / "onnxruntime" / "capi"
        capi.mkdir(parents=True, exist_ok=True)
        (capi / "build_and_package_info.py").write_text(f"package_name = '{state.in_place}'\n__version__ = '1'\n")
        return SimpleNamespace(submodule_search_locations=[str(capi.parent)])

    monkeypatch.setattr(backends.metadata, "version", version)
    monkeypatch.setattr(backends, "installed", backends.installed.__wrapped__)  # Packages come and go in a test.
    monkeypatch.setattr(backends.util, "find_spec", find_spec)
    return state


CPU_ONLY = {"onnxruntime": "1.31.1"}
GPU_ONLY = {"onnxruntime-gpu": "1.30.0"}
PLUGIN = {"onnxruntime-ep-nv-tensorrt-rtx-cu13": "0.5.0"}


@pytest.mark.parametrize(
    ("versions", "in_place", "expected"),
    [
        ({}, None, {}),
        (CPU_ONLY, "onnxruntime", {"onnxruntime": "1.31.1"}),
        # The package for GPUs runs on the CPU as well.
        (
            GPU_ONLY,
            "onnxruntime-gpu",
            dict.fromkeys(("onnxruntime", "onnxruntime_cuda", "onnxruntime_tensorrt"), "1.30.0"),
        ),
        # Both: the later one's files are there.
        (CPU_ONLY | GPU_ONLY, "onnxruntime", {"onnxruntime": "1.31.1"}),
        (
            CPU_ONLY | GPU_ONLY,
            "onnxruntime-gpu",
            {"onnxruntime": "1.31.1", "onnxruntime_cuda": "1.30.0", "onnxruntime_tensorrt": "1.30.0"},
        ),
        (CPU_ONLY | PLUGIN, "onnxruntime", {"onnxruntime": "1.31.1", "onnxruntime_tensorrt_rtx": "0.5.0"}),
        (PLUGIN, None, {}),
        ({"onnxruntime": "1.25.1"} | PLUGIN, "onnxruntime", {"onnxruntime": "1.25.1"}),
    ],
)
def test_what_is_installed(packages, versions, in_place, expected):
    packages.versions, packages.in_place = versions, in_place
    assert {name: version for name in backends.BACKENDS if (version := backends.installed(name))} == expected
    for name in (*GPU, "onnxruntime"):
        if name in expected:
            backends.require(name)
        else:
            with pytest.raises(BackendError, match=f"^backend {name} needs .*pip install"):
                backends.require(name)


@pytest.mark.parametrize("backend", GPU)
def test_any_gpu_and_any_version_will_do(packages, monkeypatch, backend):
    packages.versions, packages.in_place = GPU_ONLY | PLUGIN, "onnxruntime-gpu"
    engine = SimpleNamespace(backend=backend, targets=("cuda",), versions={backend: "1.2"}, precision="fp16")
    for target in ((7, 5), (9, 0)):
        monkeypatch.setattr(
            "anycost.runtime.usable.devices", lambda target=target: [CudaDevice(0, "A", target, 1, (13, 0))]
        )
        assert usable.unusable(engine) == ""
    monkeypatch.setattr("anycost.runtime.usable.devices", tuple)
    assert "needs an NVIDIA GPU" in usable.unusable(engine)
    packages.versions = CPU_ONLY
    assert "pip install" in usable.unusable(engine)
    assert usable.preference(engine) < usable.preference(SimpleNamespace(backend="onnxruntime", precision="fp32"))


def test_what_to_install_is_said(packages):
    for name, extra in (
        ("onnxruntime_cuda", "onnxruntime-gpu"),
        ("onnxruntime_tensorrt", "onnxruntime-gpu"),
        ("onnxruntime_tensorrt_rtx", "onnxruntime-tensorrt-rtx"),
    ):
        assert backends.missing(name).endswith(f"which is not installed: pip install 'anycost-runtime[{extra}]'")
    packages.versions, packages.in_place = CPU_ONLY | GPU_ONLY, "onnxruntime"
    assert backends.missing("onnxruntime_cuda").endswith("pip install --force-reinstall --no-deps onnxruntime-gpu")
    packages.versions = {"onnxruntime": "1.25.1"} | PLUGIN
    said = backends.missing("onnxruntime_tensorrt_rtx")
    assert "needs onnxruntime 1.26 or newer, and 1.25.1 is installed: pip install -U onnxruntime" in said


def test_the_real_package_says_whose_files_it_is():
    assert backends._ort_in_place() in ("onnxruntime", "onnxruntime-gpu")
