"""ONNX Runtime's GPU providers: over the real library, whose CPU stands in for the device, and memory of the host.

The stand-in replaces what needs a GPU (the providers, the memory's place) and records it; names of options, initializers, run
settings and bindings go through the library itself.
"""

import gc
import sys
import weakref
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent / "cuda"))
from fake_gpu import WEIGHTS, DeviceLike, FakeCuda, at

from anycost.errors import BackendError, InputError
from anycost.runtime import backends
from anycost.runtime.backends import BINDINGS_NAME, OnnxBindings, onnxruntime_gpu
from anycost.runtime.backends import onnxruntime as onnxruntime_cpu
from anycost.runtime.backends.onnxruntime import MODEL_NAME
from anycost.runtime.binding import Binding
from anycost.runtime.bundle import as_bfloat16
from anycost.runtime.cuda import onnxruntime_engine
from anycost.runtime.cuda.devices import CudaDevice, devices

X = np.arange(33, dtype=np.float32).reshape(11, 3) / 8
GPU = ("onnxruntime_cuda", "onnxruntime_tensorrt", "onnxruntime_tensorrt_rtx")
PROVIDERS = {
    "onnxruntime_cuda": "CUDAExecutionProvider",
    "onnxruntime_tensorrt": "TensorrtExecutionProvider",
    "onnxruntime_tensorrt_rtx": "NvTensorRTRTXExecutionProvider",
}


def bind(binding):
    return as_bfloat16(WEIGHTS) if binding.dtype == "bfloat16" else WEIGHTS.astype(binding.dtype)


def write_engine(folder, dtype="float32"):
    """y [N, 2] = x [N, 3] @ w [2, 3].T with w external."""
    kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[dtype]
    w = TensorProto(name="w", data_type=kind, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    size = WEIGHTS.nbytes // (1 if dtype == "float32" else 2)
    for key, value in (("location", "given-at-load"), ("offset", "0"), ("length", str(size))):
        w.external_data.add(key=key, value=value)
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["x", "wide"], ["y"], transB=1),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", k]) for name, k in (("x", 3), ("y", 2))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / MODEL_NAME)
    bindings = OnnxBindings(initializers={"w": Binding(source="w", take=(2, 3), shape=(2, 3), dtype=dtype)})
    (folder / BINDINGS_NAME).write_text(bindings.model_dump_json())
    return folder


class Recorder:
    """The library as the engines see it."""

    OrtValue, get_ep_devices = onnxruntime.OrtValue, None
    __version__ = onnxruntime.__version__

    def __init__(self, cuda):
        self.cuda = cuda
        self.sessions, self.runs, self.plugins, self.preloaded = [], [], [], 0
        # What goes wrong.
        self.left_out = self.idle = self.no_libraries = self.no_capture = self.fail_runs = False
        self.capture_fails_at_run = False
        self.plugin_devices = [SimpleNamespace(ep_name="CPUExecutionProvider")]
        self.plugin_devices += [SimpleNamespace(ep_name=PROVIDERS["onnxruntime_tensorrt_rtx"], n=n) for n in (0, 1)]
        recorder = self

        class RunOptions(onnxruntime.RunOptions):
            def __init__(self):
                super().__init__()
                self.entries = {}

            def add_run_config_entry(self, key, value):
                self.entries[key] = value
                super().add_run_config_entry(key, value)

        class SessionOptions(onnxruntime.SessionOptions):
            def __init__(self):
                super().__init__()
                self.plugged = None

            def add_provider_for_devices(self, found, options):
                assert all(isinstance(value, str) for value in options.values())
                self.plugged = (found, dict(options))

        class Session:
            def __init__(self, path, options, providers=None, enable_fallback=1):
                self.given = providers or [(PROVIDERS["onnxruntime_tensorrt_rtx"], options.plugged[1])]
                self.options, self.fallback = options, bool(enable_fallback)
                if recorder.no_libraries:
                    raise RuntimeError("Please install TensorRT libraries as mentioned in the GPU requirements page")
                if recorder.no_capture and self.given[0][1].get("enable_cuda_graph") == "1":
                    raise RuntimeError("not all nodes are on the device")
                self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
                self.get_inputs, self.get_outputs = self.session.get_inputs, self.session.get_outputs
                recorder.sessions.append(self)

            def disable_fallback(self):
                self.fallback_of_runs = False

            def get_providers(self):
                names = [entry if isinstance(entry, str) else entry[0] for entry in self.given]
                return (names[1:] or ["CPUExecutionProvider"]) if recorder.left_out else names

            def get_provider_graph_assignment_info(self):
                parts = self.session.get_provider_graph_assignment_info()
                assert [part.ep_name for part in parts] == ["CPUExecutionProvider"]
                return parts if recorder.idle else [SimpleNamespace(ep_name=self.get_providers()[0])]

            def io_binding(self):
                return IoBinding(self.session)

            def run_with_iobinding(self, binding, options):
                assert recorder.cuda.depth
                if recorder.fail_runs or (recorder.capture_fails_at_run and options.entries["gpu_graph_id"] != "-1"):
                    raise RuntimeError("the device\nis gone")
                recorder.runs.append((dict(binding.bound), options.entries))
                recorder.cuda.calls.append(("run",))
                self.session.run_with_iobinding(binding.binding, options)

        class IoBinding:
            def __init__(self, session):
                self.binding, self.bound = session.io_binding(), {}

            def bind_input(self, name, place, ordinal, dtype, shape, pointer):
                assert (place, ordinal) == ("cuda", 0)
                self.bound[name] = (tuple(shape), pointer)
                self.binding.bind_input(name, "cpu", 0, dtype, shape, pointer)

            def bind_output(self, name, place, ordinal, dtype, shape, pointer):
                assert (place, ordinal) == ("cuda", 0)
                self.bound[name] = (tuple(shape), pointer)
                self.binding.bind_output(name, "cpu", 0, dtype, shape, pointer)

        self.RunOptions, self.SessionOptions, self.InferenceSession = RunOptions, SessionOptions, Session

    def preload_dlls(self):
        self.preloaded += 1
        print("not found")

    def register_execution_provider_library(self, name, path):
        self.plugins.append((name, path))
        self.get_ep_devices = lambda: self.plugin_devices


class Made:
    def __init__(self, tmp_path, monkeypatch, backend, dtype="float32"):
        self.backend, self.cuda = backend, FakeCuda()
        self.folder = write_engine(tmp_path / "engine", dtype)
        self.ort = Recorder(self.cuda)
        self.module = import_module(f"anycost.runtime.backends.{backend}")
        rtx = import_module("anycost.runtime.backends.onnxruntime_tensorrt_rtx")
        for module in (onnxruntime_gpu, onnxruntime_cpu, onnxruntime_engine, rtx):
            monkeypatch.setattr(module, "ort", self.ort)
        monkeypatch.setattr(onnxruntime_gpu, "cuda", lambda ordinal: self.cuda)
        monkeypatch.setattr("anycost.runtime.cuda.arrays.device_of", lambda pointer: 0)
        monkeypatch.setattr(rtx, "devices", lambda: [CudaDevice(0, "A GPU", (9, 0), 1, (13, 0))])
        plugin = SimpleNamespace(get_library_path=lambda: "/plugin.so")
        monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", plugin)
        rtx._register.cache_clear()

    def load(self, bind=bind):
        return self.module.load(self.folder, bind, 2)

    @property
    def options(self):
        """Of the first provider of the last session."""
        return self.ort.sessions[-1].given[0][1]


@pytest.fixture(params=GPU)
def made(request, tmp_path, monkeypatch):
    return Made(tmp_path, monkeypatch, request.param)


@pytest.fixture
def cuda_made(tmp_path, monkeypatch):
    return Made(tmp_path, monkeypatch, "onnxruntime_cuda")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("backend", GPU)
def test_results_are_right(tmp_path, monkeypatch, backend, dtype):
    made = Made(tmp_path, monkeypatch, backend, dtype)
    engine = made.load()
    for n in (1, 3, 3, 11):
        found = engine.run({"x": X[:n]})
        assert list(found) == ["y"] and found["y"].dtype == np.float32
        np.testing.assert_allclose(found["y"], X[:n] @ WEIGHTS.T, rtol=1e-6)
    assert engine.run({"x": X[:0]})["y"].shape == (0, 2)
    assert made.cuda.depth == 0
    precision = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[dtype]
    cuda, tensorrt = "onnxruntime_cuda", "onnxruntime_tensorrt"
    if backend == cuda:
        assert made.options["use_tf32"] == ("0" if precision == "fp32" else "1")
    if backend == tensorrt:
        assert made.options["trt_fp16_enable"] == ("1" if precision == "fp16" else "0")
        assert made.options["trt_bf16_enable"] == ("1" if precision == "bf16" else "0")


def test_a_session_without_fallbacks_on_the_engines_stream(made, tmp_path):
    made.load()
    session = made.ort.sessions[-1]
    names = [entry if isinstance(entry, str) else entry[0] for entry in session.given]
    assert names[0] == PROVIDERS[made.backend]
    assert session.fallback is False and session.fallback_of_runs is False
    assert session.options.intra_op_num_threads == 2
    assert session.options.get_session_config_entry("session.force_spinning_stop") == "1"
    for name, options in (entry for entry in session.given if not isinstance(entry, str)):
        assert (options["has_user_compute_stream"], options["user_compute_stream"]) == ("1", "7")
        # The plugin refuses what it does not know.
        assert options.get("device_id") == (None if name.startswith("Nv") else "0")
    if made.backend == "onnxruntime_cuda":
        assert names[1:] == ["CPUExecutionProvider"]
        assert made.options["cudnn_conv_algo_search"] == "HEURISTIC" and made.options["enable_cuda_graph"] == "1"
    elif made.backend == "onnxruntime_tensorrt":
        assert names[1:] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
        assert session.given[1][1]["enable_cuda_graph"] == "0"
        assert made.options["trt_engine_cache_path"].startswith(str(tmp_path / "cache" / "ort"))
        assert Path(made.options["trt_engine_cache_path"]).parent == Path(made.options["trt_timing_cache_path"])
    else:
        assert made.ort.plugins == [(PROVIDERS[made.backend], "/plugin.so")]
        (device,), _ = session.options.plugged
        assert device.n == 0
        assert Path(made.options["nv_runtime_cache_path"]).is_dir()
        made.load()
        assert len(made.ort.plugins) == 1


@pytest.mark.parametrize("backend", ["onnxruntime_tensorrt", "onnxruntime_tensorrt_rtx"])
def test_networks_of_one_structure_share_nothing_compiled(tmp_path, monkeypatch, backend):
    made = Made(tmp_path, monkeypatch, backend)
    key = "trt_engine_cache_path" if backend == "onnxruntime_tensorrt" else "nv_runtime_cache_path"
    made.load()
    first = made.options[key]
    made.load(lambda binding: bind(binding) + 1)
    assert made.options[key] != first
    made.load()
    assert made.options[key] == first


def test_a_cache_that_cannot_be_made_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    Made(tmp_path, monkeypatch, "onnxruntime_tensorrt").load().run({"x": X[:1]})


def test_a_provider_that_is_left_out_is_an_error(made):
    made.ort.left_out = True
    with pytest.raises(BackendError, match=rf"^{made.backend}: ONNX Runtime fell back to C\w+: .*pip install"):
        made.load()
    assert len(made.ort.sessions) == 1


def test_libraries_that_the_session_misses_are_said(tmp_path, monkeypatch):
    made = Made(tmp_path, monkeypatch, "onnxruntime_tensorrt")
    made.ort.no_libraries = True
    with pytest.raises(
        BackendError, match="TensorRT 10, CUDA and cuDNN could not be loaded: pip install 'tensorrt>=10,<11'"
    ):
        made.load()


def test_a_provider_that_takes_nothing_is_an_error(made):
    made.ort.idle = True
    with pytest.raises(BackendError, match=f"{PROVIDERS[made.backend]} took no part of the graph, which went to CPUEx"):
        made.load()


def test_a_gpu_that_the_plugin_does_not_take(tmp_path, monkeypatch):
    made = Made(tmp_path, monkeypatch, "onnxruntime_tensorrt_rtx")
    made.ort.plugin_devices = made.ort.plugin_devices[:1]
    with pytest.raises(BackendError, match=r"does not take A GPU \(sm_90\): use onnxruntime_cuda"):
        made.load()


def test_libraries_of_packages_are_loaded_in_silence(cuda_made, capsys):
    cuda_made.load()
    assert cuda_made.ort.preloaded == 1
    assert capsys.readouterr().out == ""


def test_each_batch_size_has_its_own_graph(cuda_made):
    engine, ids = cuda_made.load(), []
    for n in (1, 2, 2, 3, 4, 5, 6, 5, 1):
        engine.run({"x": X[:n]})
        bound, entries = cuda_made.ort.runs[-1]
        assert bound["x"][0] == (n, 3) and bound["y"][0] == (n, 2)
        assert entries["disable_synchronize_execution_providers"] == "1"
        ids.append(int(entries["gpu_graph_id"]))
    # Those that find no place run without one: their buffers come and go.
    assert ids == [0, 1, 1, 2, 3, -1, -1, -1, 0]
    assert len(cuda_made.ort.sessions) == 1
    # Two buffers for each of five sizes are held, and the weights are the session's.
    assert len(cuda_made.cuda.memory) == 10


def test_a_graphs_addresses_never_change(cuda_made):
    engine = cuda_made.load()
    seen = {}
    for n in (1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4):
        engine.run({"x": X[:n]})
        bound, entries = cuda_made.ort.runs[-1]
        if entries["gpu_graph_id"] != "-1":
            assert seen.setdefault(entries["gpu_graph_id"], bound) == bound
    assert len(seen) == 4


@pytest.mark.parametrize("trouble", ["no_capture", "capture_fails_at_run"])
def test_without_graphs_where_they_cannot_be_had(cuda_made, trouble):
    setattr(cuda_made.ort, trouble, True)
    engine = cuda_made.load()
    np.testing.assert_allclose(engine.run({"x": X[:2]})["y"], X[:2] @ WEIGHTS.T, rtol=1e-6)
    assert cuda_made.options["enable_cuda_graph"] == "0"
    assert cuda_made.ort.runs[-1][1]["gpu_graph_id"] == "-1"


def test_the_stream_goes_last(cuda_made):
    engine = cuda_made.load()
    engine.run({"x": X[:2]})
    assert list(vars(engine))[-1] == "_stream"


def test_copies_and_the_run_are_on_one_stream(made):
    engine = made.load()
    made.cuda.calls.clear()
    engine.run({"x": X[:2]})
    steps = [call for call in made.cuda.calls if call[0] != "allocate"]
    assert steps == [("upload", 24, 7), ("run",), ("download", 16, 7), ("synchronize", 7)]


def test_run_device_uses_the_callers_memory(made):
    engine = made.load()
    made.cuda.calls.clear()
    x, y = DeviceLike(X[:3], offset=4), DeviceLike(np.zeros((3, 2), np.float32))
    found = engine.run_device({"x": x}, stream=42, outputs={"y": y})
    np.testing.assert_allclose(y.values, X[:3] @ WEIGHTS.T, rtol=1e-6)
    assert found["y"].pointer == y.pointer
    bound, entries = made.ort.runs[-1]
    assert bound == {"x": ((3, 3), x.pointer), "y": ((3, 2), y.pointer)}
    assert entries == {"disable_synchronize_execution_providers": "1", "gpu_graph_id": "-1"}
    # After the caller's stream and before what comes on it later, without waiting.
    assert made.cuda.calls == [("order", 42, 7), ("run",), ("order", 7, 42), ("record", 7)]


def test_run_device_on_the_engines_own_stream_and_memory(made):
    engine = made.load()
    found = engine.run_device({"x": DeviceLike(X[:2])})["y"]
    assert made.cuda.count("order") == 0
    np.testing.assert_allclose(at(found.pointer, (2, 2)), X[:2] @ WEIGHTS.T, rtol=1e-6)
    assert (found.shape, found.device, found.stream) == ((2, 2), 0, 7)
    held = made.cuda.count("allocate")
    again = engine.run_device({"x": DeviceLike(X[:1])})["y"]
    assert again.pointer == found.pointer and made.cuda.count("allocate") == held
    # A larger batch gets other memory; the first is there as long as its array is.
    larger = engine.run_device({"x": DeviceLike(np.tile(X, (4, 1)))})["y"]
    assert larger.pointer != found.pointer
    np.testing.assert_allclose(at(found.pointer, (1, 2)), X[:1] @ WEIGHTS.T, rtol=1e-6)
    pointer = found.pointer
    del found, again
    engine._in_flight = []
    gc.collect()
    assert pointer not in made.cuda.memory


def test_the_producers_stream_is_waited_for(made):
    engine = made.load()
    engine.run_device({"x": DeviceLike(X[:2], stream=5)}, stream=42)
    assert ("order", 5, 42) in made.cuda.calls
    mapped = engine.run_device({"x": DeviceLike(X[:2])}, stream=42)["y"]
    assert mapped.stream == 42


def test_arrays_stay_until_the_run_is_over(made):
    engine = made.load()

    def run():
        x = DeviceLike(X[:2])
        engine.run_device({"x": x}, stream=42)
        return weakref.ref(x)

    first = run()
    gc.collect()
    assert first() is not None
    made.cuda.finished.add(engine._in_flight[0][0])
    second = run()
    gc.collect()
    assert first() is None and second() is not None
    engine.run({"x": X[:1]})
    gc.collect()
    assert second() is None


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "takes the inputs x; none were given"),
        ({"x": X[:1], "z": X[:1]}, "takes the inputs x; x, z were given"),
        ({"x": X[:1, :2]}, r"x has shape \[1, 2\]: \['N', 3\] was expected"),
    ],
)
def test_wrong_inputs_are_refused(cuda_made, inputs, said):
    engine = cuda_made.load()
    with pytest.raises(InputError, match=said):
        engine.run(inputs)
    with pytest.raises(InputError, match=said):
        engine.run_device({name: DeviceLike(array) for name, array in inputs.items()})


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"image": DeviceLike(X)}, "no output image: it has y"),
        ({"y": DeviceLike(X[:2])}, r"output y is \[2, 3\]: a writable array of \[2, 2\] was expected"),
        ({"y": DeviceLike(X[:2, :2], data=(4096, True))}, "is read-only"),
        ({"y": X[:2, :2]}, "output y is a numpy.ndarray"),
    ],
)
def test_wrong_outputs_are_refused(cuda_made, outputs, said):
    with pytest.raises(InputError, match=said):
        cuda_made.load().run_device({"x": DeviceLike(X[:2])}, outputs=outputs)


def test_nothing_and_another_device_are_refused(cuda_made, monkeypatch):
    engine = cuda_made.load()
    with pytest.raises(InputError, match="a batch of 0"):
        engine.run_device({"x": DeviceLike(X[:0])})
    monkeypatch.setattr("anycost.runtime.cuda.arrays.device_of", lambda pointer: 1)
    with pytest.raises(InputError, match="x lies on CUDA device 1, and the engine on 0"):
        engine.run_device({"x": DeviceLike(X[:2])})


def test_a_failed_run_is_said(made):
    engine = made.load()
    made.ort.fail_runs = True
    for run in (lambda: engine.run({"x": X[:1]}), lambda: engine.run_device({"x": DeviceLike(X[:1])})):
        with pytest.raises(BackendError, match=f"{made.backend}: a run failed: the device is gone; run it again"):
            run()
    assert made.cuda.depth == 0


# A real GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("backend", GPU)
def test_on_a_gpu(tmp_path, backend, dtype):
    if not devices() or backends.installed(backend) is None:
        pytest.skip(f"no GPU, or no {backend}")
    engine = import_module(f"anycost.runtime.backends.{backend}").load(write_engine(tmp_path, dtype), bind, 2)
    for _ in range(4):
        for n in (1, 3, 11):
            np.testing.assert_allclose(engine.run({"x": X[:n]})["y"], X[:n] @ WEIGHTS.T, rtol=1e-3)
    torch = pytest.importorskip("torch")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x = torch.from_numpy(X).cuda(non_blocking=True)
        y = torch.empty(len(X), 2, device="cuda")
        engine.run_device({"x": x}, stream=stream, outputs={"y": y})
        own = torch.from_dlpack(engine.run_device({"x": x}, stream=stream)["y"]) + 0
    stream.synchronize()
    for found in (y, own):
        np.testing.assert_allclose(found.cpu().numpy(), X @ WEIGHTS.T, rtol=1e-3)
