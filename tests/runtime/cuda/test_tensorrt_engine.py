import ast
import gc
import inspect
import re
import weakref
from importlib import import_module, util
from pathlib import Path

import fake_gpu
import numpy as np
import pytest
from fake_gpu import WEIGHTS, DeviceLike, FakeCuda, FakeTrt, at, write_engine

from anycost.errors import BackendError, InputError
from anycost.runtime.binding import Binding
from anycost.runtime.bundle import as_bfloat16
from anycost.runtime.cuda.tensorrt_engine import KEPT_BATCH_SIZES, PLAN_NAME, Library, TensorRtEngine
from anycost.runtime.cuda.weights import DeviceWeights

X = np.arange(33, dtype=np.float32).reshape(11, 3) / 7


def bind(binding):
    if binding.dtype == "bfloat16":
        return as_bfloat16(WEIGHTS)
    return WEIGHTS.astype(binding.dtype)


class Made:
    """An engine over fakes, with all that it is made of."""

    def __init__(self, tmp_path, delivery="inputs", rtx=True, dtype="float32", load=True, **settings):
        self.cuda = FakeCuda()
        kinds = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
        self.trt = FakeTrt(self.cuda, delivery, kinds[dtype])
        for name, value in settings.items():
            setattr(self.trt, name, value)
        self.folder = write_engine(tmp_path / "engine", delivery, dtype=dtype)
        self.weights = DeviceWeights(self.cuda)
        self.library = Library("tensorrt_rtx" if rtx else "tensorrt", self.trt, compiles_here=rtx)
        if load:
            self.engine = self.load()

    def load(self, bind=bind):
        return TensorRtEngine(self.library, self.folder, bind, 2, self.cuda, self.weights)


@pytest.fixture(params=[("inputs", True), ("inputs", False), ("refit", True), ("refit", False)], ids=str)
def made(request, tmp_path):
    return Made(tmp_path, *request.param)


def test_results_are_right(made):
    for _ in range(3):
        found = made.engine.run({"x": X[:3]})
        assert list(found) == ["y"]
        assert found["y"].dtype == np.float32
        np.testing.assert_allclose(found["y"], X[:3] @ WEIGHTS.T, rtol=1e-6)
    assert made.trt.runtime.max_threads == 2
    assert made.cuda.depth == 0


@pytest.mark.parametrize("delivery", ["inputs", "refit"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_weights(tmp_path, delivery, dtype):
    made = Made(tmp_path, delivery, dtype=dtype)
    # These weights are the same in every type.
    expected = X[:2] @ WEIGHTS.T
    if made.trt.refittable and dtype == "bfloat16":
        assert made.trt.refitted.dtype == np.uint16
    np.testing.assert_allclose(made.engine.run({"x": X[:2]})["y"], expected, rtol=1e-6)


def test_everything_is_allocated_once(made):
    made.engine.run({"x": X[:1]})
    held = made.cuda.count("allocate")
    for n in (4, 2, 9):
        made.engine.run({"x": X[:n]})
    made.engine.run_device({"x": DeviceLike(X[:2])})
    assert made.cuda.count("allocate") == held
    # For the profile's largest batch of 4.
    sizes = [256 if size < 256 else size for size in (4 * 4 * 3, 4 * 4 * 2)]
    weights = 0 if made.trt.refittable else 24
    assert made.engine.device_bytes == 1000 + sum(sizes) + 24
    assert sum(call[1] for call in made.cuda.calls if call[0] == "allocate") == 1000 + sum(sizes) + weights


def test_a_large_batch_is_run_in_pieces(made):
    found = made.engine.run({"x": X})["y"]
    np.testing.assert_allclose(found, X @ WEIGHTS.T, rtol=1e-6)
    assert [run[0] for run in made.trt.runs] == [4, 3]
    # The second piece of 4 is a replay.
    assert made.cuda.count("launch") == 1
    assert made.cuda.count("synchronize") == (1 if made.trt.refittable else 2)
    assert made.engine.run({"x": X[:0]})["y"].shape == (0, 2)


def test_a_graph_is_captured_once_for_each_batch(made):
    for _ in range(4):
        made.engine.run({"x": X[:2]})
    assert made.cuda.count("capture") == 1
    assert made.cuda.count("launch") == 3
    for _ in range(2):
        made.engine.run({"x": X[:3]})
    assert made.cuda.count("capture") == 2
    made.engine.run({"x": X[:2]})
    assert made.cuda.count("capture") == 2
    assert len(made.trt.runs) == 2
    assert made.trt.contexts == 2


def test_no_graph_where_it_cannot_be_captured(tmp_path):
    made = Made(tmp_path)
    made.cuda.no_capture = True
    for _ in range(4):
        found = made.engine.run({"x": X[:2]})["y"]
    np.testing.assert_allclose(found, X[:2] @ WEIGHTS.T, rtol=1e-6)
    assert made.cuda.count("capture") == 1
    assert len(made.trt.runs) == 4
    refused = Made(tmp_path, capturable=False)
    for _ in range(3):
        refused.engine.run({"x": X[:2]})
    assert refused.cuda.count("capture") == 0


def test_the_last_batch_sizes_are_kept(tmp_path):
    made = Made(tmp_path, largest=KEPT_BATCH_SIZES + 2)
    for n in range(1, KEPT_BATCH_SIZES + 2):
        made.engine.run({"x": X[:n]})
    contexts = made.trt.contexts
    made.engine.run({"x": X[:KEPT_BATCH_SIZES]})
    assert made.trt.contexts == contexts
    made.engine.run({"x": X[:1]})
    assert made.trt.contexts == contexts + 1


def test_two_engines_share_the_weights(tmp_path):
    made = Made(tmp_path)
    second = made.load()
    assert made.weights.bytes == 24
    assert second.device_bytes == made.engine.device_bytes
    made.engine.run({"x": X[:1]})
    second.run({"x": X[:1]})
    first, other = (run[2] for run in made.trt.runs)
    assert first["w"] == other["w"]
    assert first["x"] != other["x"]
    del made.engine
    gc.collect()
    assert made.weights.bytes == 24
    np.testing.assert_allclose(second.run({"x": X[:1]})["y"], X[:1] @ WEIGHTS.T, rtol=1e-6)
    del second
    gc.collect()
    assert made.weights.bytes == 0
    assert made.cuda.memory == {}


def test_run_device_uses_the_callers_memory(made):
    x, y = DeviceLike(X[:3]), DeviceLike(np.zeros((3, 2), np.float32))
    found = made.engine.run_device({"x": x}, stream=42, outputs={"y": y})
    np.testing.assert_allclose(y.values, X[:3] @ WEIGHTS.T, rtol=1e-6)
    assert found["y"].pointer == y.pointer
    batch, stream, addresses = made.trt.runs[-1]
    assert (batch, stream) == (3, 42)
    assert (addresses["x"], addresses["y"]) == (x.pointer, y.pointer)
    assert made.cuda.count("copy") == made.cuda.count("download") == made.cuda.count("capture") == 0


def test_run_device_writes_to_its_own_memory_where_none_is_given(made):
    found = made.engine.run_device({"x": DeviceLike(X[:2])})["y"]
    np.testing.assert_allclose(at(found.pointer, (2, 2)), X[:2] @ WEIGHTS.T, rtol=1e-6)
    assert (found.shape, found.device, found.stream) == ((2, 2), 0, 7)
    # The memory is there as long as the array is.
    pointer = found.pointer
    made.engine = None
    gc.collect()
    assert pointer in made.cuda.memory
    del found
    gc.collect()
    assert pointer not in made.cuda.memory


def test_what_is_not_aligned_is_copied(made):
    x, y = DeviceLike(X[:3], offset=4), DeviceLike(np.zeros((3, 2), np.float32), offset=8)
    found = made.engine.run_device({"x": x}, stream=42, outputs={"y": y})
    np.testing.assert_allclose(y.values, X[:3] @ WEIGHTS.T, rtol=1e-6)
    assert found["y"].pointer == y.pointer
    assert [call for call in made.cuda.calls if call[0] == "copy"] == [("copy", 36, 42), ("copy", 24, 42)]


def test_runs_on_several_streams_follow_each_other(made):
    made.engine.run_device({"x": DeviceLike(X[:2])}, stream=41)
    made.engine.run_device({"x": DeviceLike(X[:2])}, stream=42)
    assert ("wait", 42, 41) in made.cuda.calls
    made.engine.run({"x": X[:1]})
    assert ("wait", 7, 42) in made.cuda.calls
    waits = made.cuda.count("wait")
    made.engine.run({"x": X[:1]})
    assert made.cuda.count("wait") == waits


def test_the_producers_stream_is_waited_for(made):
    made.engine.run_device({"x": DeviceLike(X[:2], stream=5)}, stream=42)
    made.engine.run_device({"x": DeviceLike(X[:2], stream=42)}, stream=42)
    assert [call for call in made.cuda.calls if call[0] == "order"] == [("order", 5, 42)]


def test_arrays_stay_until_the_run_is_over(made):
    def run():
        x = DeviceLike(X[:2])
        made.engine.run_device({"x": x}, stream=42)
        return weakref.ref(x)

    first = run()
    gc.collect()
    assert first() is not None
    event = made.engine._last
    second = run()
    assert first() is not None
    made.cuda.finished.add(event)
    run()
    gc.collect()
    assert first() is None
    assert second() is not None
    made.engine.run({"x": X[:1]})
    gc.collect()
    assert second() is None


def test_one_engine_feeds_another_on_the_device(made, tmp_path):
    mapped = made.engine.run_device({"x": DeviceLike(X[:2])}, stream=42)["y"]
    following = Made(tmp_path / "next", tensors={"x": (-1, 2), "w": (2, 3), "y": (-1, 2)}).engine
    following._library.trt.fail_runs = True
    with pytest.raises(BackendError, match="a run could not be started"):
        following.run_device({"x": mapped}, stream=43)
    # The address is the first engine's, and its stream was waited for.
    assert following._direct._addresses["x"] == mapped.pointer
    assert ("order", 42, 43) in following._cuda.calls


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "takes the inputs x; none were given"),
        ({"x": X[:1], "z": X[:1]}, "takes the inputs x; x, z were given"),
        ({"x": X[:1, :2]}, r"x has shape \[1, 2\]: \['N', 3\] was expected"),
        ({"x": X[0]}, r"x has shape \[3\]"),
    ],
)
def test_wrong_inputs_are_refused(tmp_path, inputs, said):
    made = Made(tmp_path)
    with pytest.raises(InputError, match=said):
        made.engine.run(inputs)
    with pytest.raises(InputError, match=said):
        made.engine.run_device({name: DeviceLike(array) for name, array in inputs.items()})
    assert made.trt.runs == []


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"image": DeviceLike(X)}, "no output image: it has y"),
        ({"y": DeviceLike(X[:2])}, r"output y is \[2, 3\]: a writable array of \[2, 2\] was expected"),
        ({"y": DeviceLike(X[:2, :2], data=(4096, True))}, "is read-only"),
        ({"y": X[:2, :2]}, "output y is a numpy.ndarray"),
    ],
)
def test_wrong_outputs_are_refused(tmp_path, outputs, said):
    with pytest.raises(InputError, match=said):
        Made(tmp_path).engine.run_device({"x": DeviceLike(X[:2])}, outputs=outputs)


def test_device_runs_have_a_smallest_and_a_largest_batch(tmp_path):
    made = Made(tmp_path, least=2)
    for n, said in ((0, "takes 2 to 4$"), (1, "takes 2 to 4$"), (5, "takes 2 to 4: split it$")):
        with pytest.raises(InputError, match=said):
            made.engine.run_device({"x": DeviceLike(X[:n])})
    with pytest.raises(InputError, match="smaller than the 2"):
        made.engine.run({"x": X[:1]})


def test_an_array_on_another_device_is_refused(tmp_path, monkeypatch):
    made = Made(tmp_path)
    monkeypatch.setattr("anycost.runtime.cuda.arrays.device_of", lambda pointer: 1)
    with pytest.raises(InputError, match="x lies on CUDA device 1, and the engine on 0"):
        made.engine.run_device({"x": DeviceLike(X[:2])})


def test_a_refused_plan_is_said(tmp_path):
    made = Made(tmp_path, load=False)
    write_engine(made.folder, plan=b"of another version")
    with pytest.raises(BackendError, match=r"was refused: Serialization assertion failed; rebuild the bundle"):
        made.load()
    assert made.cuda.depth == 0


def test_a_damaged_plan_is_said(tmp_path):
    made = Made(tmp_path, load=False)
    (made.folder / PLAN_NAME).write_bytes(b"no xz")
    with pytest.raises(BackendError, match="cannot be read"):
        made.load()


def test_a_failed_run_is_said(tmp_path):
    made = Made(tmp_path, fail_runs=True)
    with pytest.raises(
        BackendError, match="tensorrt_rtx: a run could not be started: the device is gone; run it again"
    ):
        made.engine.run({"x": X[:1]})


def test_weights_that_a_plan_asks_for_in_vain(tmp_path):
    made = Made(tmp_path, "refit", load=False)
    write_engine(made.folder, "refit", weights={})
    with pytest.raises(BackendError, match=r"asks for weights that bindings.json has not: w"):
        made.load()
    with pytest.raises(BackendError, match="no value for the weights bias"):
        Made(tmp_path / "missing", "refit", also_missing=["bias"])
    with pytest.raises(BackendError, match="the weights w were refused"):
        Made(tmp_path / "refused", "refit", refuse_weights=True)


def test_bindings_of_another_plan(tmp_path):
    made = Made(tmp_path, load=False)
    binding = Binding(source="w", take=(2, 3), shape=(2, 3))
    write_engine(made.folder, weights={"w": binding, "v": binding})
    with pytest.raises(BackendError, match="no inputs for the weights v"):
        made.load()
    write_engine(made.folder, weights={"w": binding.model_copy(update={"dtype": "float16"})})
    with pytest.raises(BackendError, match=r"makes them float16 \[2, 3\]"):
        made.load()
    with pytest.raises(BackendError, match="only the batch dynamic"):
        Made(tmp_path / "dynamic", tensors={"x": (-1, -1), "w": (2, 3), "y": (-1, 2)})


def test_compiled_kernels_are_kept(tmp_path):
    path = tmp_path / "cache" / "kernels"
    first = Made(tmp_path)
    assert first.trt.read is None
    assert not path.exists()
    first.engine.run({"x": X[:1]})
    (stored,) = path.iterdir()
    assert stored.suffix == ".bin"
    assert len(stored.stem) == 16
    assert stored.read_bytes() == b"kernels 1"
    second = Made(tmp_path)
    assert second.trt.read == b"kernels 1"
    before = stored.stat().st_mtime_ns
    second.engine.run({"x": X[:1]})
    assert stored.stat().st_mtime_ns == before
    second.trt.kernels = b"kernels 1 2"
    second.engine.run_device({"x": DeviceLike(X[:2])})
    assert stored.read_bytes() == b"kernels 1 2"


@pytest.mark.parametrize("refuse", [True, False])
def test_damaged_kernels_are_ignored(tmp_path, refuse):
    Made(tmp_path).engine.run({"x": X[:1]})
    (stored,) = (tmp_path / "cache" / "kernels").iterdir()
    stored.write_bytes(b"damaged")
    made = Made(tmp_path, refuse_cache=refuse)
    np.testing.assert_allclose(made.engine.run({"x": X[:1]})["y"], X[:1] @ WEIGHTS.T, rtol=1e-6)
    assert stored.read_bytes() == b"kernels 1"


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path):
    (tmp_path / "cache").write_text("a file")
    Made(tmp_path).engine.run({"x": X[:1]})


def test_tensorrt_keeps_no_kernels(tmp_path):
    made = Made(tmp_path, rtx=False)
    made.engine.run({"x": X[:1]})
    assert not (tmp_path / "cache" / "kernels").exists()
    assert made.trt.config is None


def test_contexts_of_rtx_compile_at_once(tmp_path):
    made = Made(tmp_path)
    config = made.trt.config
    assert (
        config.dynamic_shapes_kernel_specialization_strategy is made.trt.DynamicShapesKernelSpecializationStrategy.EAGER
    )
    assert config._strategy is made.trt.ExecutionContextAllocationStrategy.USER_MANAGED


# The fakes offer what the engine uses: so much the real libraries must have.

RTX_ONLY = {
    "IRuntimeCache": None,
    "DynamicShapesKernelSpecializationStrategy": None,
    "IRuntimeConfig": {"create_runtime_cache", "set_runtime_cache", "dynamic_shapes_kernel_specialization_strategy"},
    "IExecutionContext": {"is_stream_capturable"},
}


def used_names():
    for name, kind in inspect.getmembers(fake_gpu, inspect.isclass):
        if kind.__module__ == "fake_gpu" and not name.startswith(("Fake", "DeviceLike")):
            members = getattr(kind, "__members__", None) or [key for key in vars(kind) if not key.startswith("_")]
            yield name, set(members)


def test_names_exist_in_tensorrt_rtx():
    trt = pytest.importorskip("tensorrt_rtx")
    used = dict(used_names())
    assert len(used) == 12
    for name, members in used.items():
        kind = getattr(trt, name)
        assert [member for member in members if not hasattr(kind, member)] == [], name


def test_names_exist_in_tensorrt():
    if util.find_spec("tensorrt_bindings") is None:
        pytest.skip("needs tensorrt-stubs")
    (folder,) = util.find_spec("tensorrt_bindings").submodule_search_locations
    # Not by ast: the file has signatures that Python itself refuses.
    blocks = re.split(r"^class (\w+).*:$", (Path(folder) / "tensorrt.pyi").read_text(), flags=re.MULTILINE)
    found = {
        name: set(re.findall(r"^    (?:def |class )?(\w+)", body.split("\n\n\n")[0], flags=re.MULTILINE))
        for name, body in zip(blocks[1::2], blocks[2::2], strict=True)
    }
    for name, members in used_names():
        excepted = RTX_ONLY.get(name, set())
        if excepted is None:
            continue
        assert members - excepted - found[name] == set(), name


def test_modules_import_without_packages():
    own = ("program", "targets", "arena", "constants", "launcher", "tuning", "program_engine")
    for name in ("devices", "dlpack", "arrays", "driver", "weights", "tensorrt_engine", *own):
        module = import_module(f"anycost.runtime.cuda.{name}")
        heavy = ("torch", "cuda.core", "cuda.bindings", "tensorrt", "tensorrt_rtx", "cupy", "triton")
        imports = [
            n for n in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        names = [alias.name for n in imports if isinstance(n, ast.Import) for alias in n.names]
        names += [n.module or "" for n in imports if isinstance(n, ast.ImportFrom)]
        assert not [found for found in names if found.startswith(heavy)]
