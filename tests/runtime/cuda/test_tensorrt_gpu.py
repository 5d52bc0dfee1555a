"""The real libraries on a real GPU: y [N, 2] = x [N, 3] @ w [2, 3].T."""

import lzma

import numpy as np
import pytest

from anycost.runtime.backends import BINDINGS_NAME, PlanBindings
from anycost.runtime.binding import Binding
from anycost.runtime.bundle import as_bfloat16
from anycost.runtime.cuda.arrays import as_device_array
from anycost.runtime.cuda.devices import devices
from anycost.runtime.cuda.driver import cuda
from anycost.runtime.cuda.tensorrt_engine import PLAN_NAME, Library, TensorRtEngine
from anycost.runtime.cuda.weights import DeviceWeights

WEIGHTS = np.array([[1, 2, 3], [-1, 0.5, 0.25]], np.float32)
X = np.arange(33, dtype=np.float32).reshape(11, 3) / 8
TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}


def bind(binding):
    return as_bfloat16(WEIGHTS) if binding.dtype == "bfloat16" else WEIGHTS.astype(binding.dtype)


def build(trt, delivery, dtype, capability=None):
    """capability: (major, minor) to build for, without which there has to be a GPU."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    kind = getattr(trt.DataType, TYPES[dtype])
    x = network.add_input("x", trt.DataType.FLOAT, (-1, 3))
    stored = np.zeros_like(bind(binding_of(dtype)))
    if delivery == "inputs":
        w = network.add_input("w", kind, (2, 3))
    else:
        weights = trt.Weights(kind, stored.ctypes.data, stored.size)
        w = network.add_constant((2, 3), weights).get_output(0)
        network.set_weights_name(weights, "w")
    if dtype != "float32":
        w = network.add_cast(w, trt.DataType.FLOAT).get_output(0)
    none, transposed = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
    y = network.add_matrix_multiply(x, none, w, transposed).get_output(0)
    y.name = "y"
    network.mark_output(y)
    config = builder.create_builder_config()
    # Sums in float32 throughout, to compare with NumPy.
    config.clear_flag(trt.BuilderFlag.TF32)
    if delivery == "refit":
        config.set_flag(trt.BuilderFlag.REFIT)
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability(10 * capability[0] + capability[1]), 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 3), (2, 3), (4, 3))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return bytes(plan)


def binding_of(dtype):
    return Binding(source="w", take=(2, 3), shape=(2, 3), dtype=dtype)


def load(folder, name, delivery, dtype, weights):
    trt = pytest.importorskip(name)
    folder.mkdir()
    (folder / PLAN_NAME).write_bytes(lzma.compress(build(trt, delivery, dtype)))
    bindings = PlanBindings(delivery=delivery, weights={"w": binding_of(dtype)})
    (folder / BINDINGS_NAME).write_text(bindings.model_dump_json())
    library = Library(name, trt, compiles_here=name == "tensorrt_rtx")
    return TensorRtEngine(library, folder, bind, 2, cuda(0), weights)


@pytest.fixture(params=["tensorrt_rtx", "tensorrt"])
def library(request):
    if not devices():
        pytest.skip("needs a GPU")
    return request.param


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize("delivery", ["inputs", "refit"])
def test_runs_match_numpy(tmp_path, library, delivery, dtype):
    engine = load(tmp_path / "engine", library, delivery, dtype, DeviceWeights(cuda(0)))
    # Plain, captured and replayed; then in pieces.
    for n in (2, 2, 2, 11, 11, 1):
        np.testing.assert_allclose(engine.run({"x": X[:n]})["y"], X[:n] @ WEIGHTS.T, rtol=1e-6)
    assert engine._staged[2].graph is not None
    assert engine.max_batch == 4


@pytest.mark.gpu
def test_weights_are_shared_and_freed(tmp_path, library):
    weights = DeviceWeights(cuda(0))
    engines = [load(tmp_path / str(i), library, "inputs", "float32", weights) for i in range(2)]
    assert weights.bytes == 24
    for engine in engines:
        engine.run({"x": X[:1]})
    del engine, engines
    assert weights.bytes == 0


@pytest.mark.gpu
def test_kernels_are_found_again(tmp_path):
    if not devices():
        pytest.skip("needs a GPU")
    weights = DeviceWeights(cuda(0))
    load(tmp_path / "first", "tensorrt_rtx", "inputs", "float32", weights).run({"x": X[:2]})
    (stored,) = (tmp_path / "cache" / "kernels").iterdir()
    second = load(tmp_path / "second", "tensorrt_rtx", "inputs", "float32", weights)
    assert second._kernels._stored == stored.read_bytes()


@pytest.mark.gpu
@pytest.mark.parametrize("own_stream", [True, False])
def test_arrays_of_torch_are_not_copied(tmp_path, library, own_stream):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs PyTorch with CUDA")
    engine = load(tmp_path / "engine", library, "inputs", "float32", DeviceWeights(cuda(0)))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x = torch.tensor(X[:4], device="cuda")
        y = torch.empty(4, 2, device="cuda")
        found = engine.run_device({"x": x}, stream=None if own_stream else stream, outputs={"y": y})["y"]
        assert found.pointer == y.data_ptr()
        own = torch.from_dlpack(engine.run_device({"x": x}, stream=None if own_stream else stream)["y"])
        if own_stream:
            cuda(0).synchronize(engine._handle)
        expected = torch.tensor(X[:4] @ WEIGHTS.T)
        assert torch.allclose(y.cpu(), expected)
        assert torch.allclose(own.cpu(), expected)
        # An address that is no multiple of 256.
        part = engine.run_device({"x": x[1:3]}, stream=None if own_stream else stream)["y"]
        assert torch.allclose(torch.from_dlpack(part).cpu(), expected[1:3])


@pytest.mark.gpu
def test_other_libraries_arrays_are_taken():
    if not devices():
        pytest.skip("needs a GPU")
    cupy = pytest.importorskip("cupy")
    given = cupy.ones((2, 3), cupy.float32)
    taken = as_device_array(given)
    assert (taken.pointer, taken.shape, taken.device) == (given.data.ptr, (2, 3), 0)
    assert cupy.asarray(taken).sum() == 6


@pytest.mark.gpu
def test_memory_comes_back():
    if not devices():
        pytest.skip("needs a GPU")
    free, total = cuda(0).memory_info()
    held = cuda(0).allocate(256 << 20)
    assert cuda(0).memory_info()[0] <= free - (255 << 20)
    assert held.pointer % 256 == 0
    del held
    assert abs(cuda(0).memory_info()[0] - free) < 32 << 20
    assert total == devices()[0].memory_bytes or total > 0


def test_the_network_of_these_tests_can_be_built():
    """Without a GPU, for one that is named."""
    trt = pytest.importorskip("tensorrt_rtx")
    assert build(trt, "inputs", "bfloat16", (8, 9))
