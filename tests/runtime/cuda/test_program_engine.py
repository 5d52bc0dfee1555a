import gc
import json
import logging
import weakref

import fake_program
import numpy as np
import pytest
from fake_gpu import DeviceLike, FakeCuda, at
from fake_program import N, expected

from anycost.errors import BackendError, InputError
from anycost.runtime.cuda.devices import CudaDevice
from anycost.runtime.cuda.program import KERNELS_NAME, PROGRAM_NAME
from anycost.runtime.cuda.program_engine import KEPT_BATCH_SIZES, KEPT_GRAPHS, ProgramEngine
from anycost.runtime.cuda.weights import DeviceWeights

X = np.random.default_rng(0).standard_normal((11, N)).astype(np.float32)


class Made:
    """An engine over the fake GPU, with all that it is made of."""

    def __init__(self, tmp_path, capability=(9, 0), load=True, times=None, **changes):
        self.cuda = FakeCuda()
        self.cuda.functions, self.cuda.times = fake_program.functions(), times or {}
        self.device = CudaDevice(0, "A card", capability, 24 << 30, (13, 0))
        self.folder = fake_program.write(tmp_path / "engine", **changes)
        self.weights = DeviceWeights(self.cuda)
        if load:
            self.engine = self.load()

    def load(self):
        return ProgramEngine(self.folder, fake_program.bind, self.device, self.cuda, self.weights)

    def run(self, n=2):
        np.testing.assert_allclose(self.engine.run({"x": X[:n]})["y"], expected(X[:n]), rtol=1e-5, atol=1e-6)

    def kernels(self):
        """What was started since the last call, with its batch."""
        found = [(name, grid[2]) for name, grid, *_ in self.cuda.started]
        self.cuda.started.clear()
        return found


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYCOST_TUNE", "0")
    return Made(tmp_path)


def test_results_are_right(made):
    assert made.kernels() == [("double", 1)]
    for n in (3, 3, 3, 1, 4):
        made.run(n)
    found = made.engine.run({"x": X[:2]})
    assert list(found) == ["y"] and found["y"].dtype == np.float32 and found["y"].flags.c_contiguous
    assert made.cuda.depth == 0


def test_launches_are_as_the_program_says(made):
    made.cuda.started.clear()
    made.run(3)
    (_, grid, threads, shared, arguments), _ = made.cuda.started
    assert (grid, threads, shared) == ((1, 1, 3), 128, 64)
    assert arguments[-1] == N and all(pointer % 16 == 0 for pointer in arguments[:-1])
    assert {call[1:] for call in made.cuda.calls if call[0] == "load"} == {
        (f"{name}-sm_90".encode(), name, 64) for name in ("double", "scale", "shift")
    }


def test_a_graph_is_captured_once_for_each_batch(made):
    for _ in range(4):
        made.run(2)
    assert made.cuda.count("capture") == 1 and made.cuda.count("launch") == 3
    for _ in range(2):
        made.run(3)
    made.run(2)
    assert made.cuda.count("capture") == 2 and made.cuda.count("launch") == 5


def test_no_graph_where_it_cannot_be_captured(made):
    made.cuda.no_capture = True
    for _ in range(4):
        made.run(2)
    assert made.cuda.count("capture") == 1 and made.cuda.count("launch") == 0


def test_a_large_batch_is_run_in_pieces(made):
    made.kernels()
    made.run(11)
    assert [n for name, n in made.kernels() if name == "scale"] == [4, 4, 3]
    assert made.engine.run({"x": X[:0]})["y"].shape == (0, N)


def test_memory_grows_with_the_batch_and_is_given_back(made):
    assert made.engine.device_bytes == 256 + 4 * (64 + N) + 4 + 4 * N
    made.run(1)
    first = made.engine.device_bytes
    for n in (4, 2, 9, 1):
        made.run(n)
    # All fit the least block and the least buffers.
    assert made.engine.device_bytes == first == sum(room.size for room in made.cuda.memory.values())
    made.engine = None
    gc.collect()
    assert made.cuda.memory == {} and made.weights.bytes == 0


def test_a_larger_block_replaces_what_was_made_for_the_smaller(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYCOST_TUNE", "0")
    made = Made(tmp_path, max_batch=32)
    x = np.random.default_rng(1).standard_normal((32, N)).astype(np.float32)
    for n in (2, 2, 2, 32, 32, 2, 2, 2):
        np.testing.assert_allclose(made.engine.run({"x": x[:n]})["y"], expected(x[:n]), rtol=1e-5, atol=1e-6)
    assert made.cuda.count("capture") == 3
    block = made.engine._block
    assert block.size == 768 == 256 * 3 and block.pointer in made.cuda.memory


def test_the_last_batch_sizes_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYCOST_TUNE", "0")
    made = Made(tmp_path, max_batch=KEPT_BATCH_SIZES + 2)
    for n in range(1, KEPT_BATCH_SIZES + 2):
        made.run(n)
    assert list(made.engine._batches) == list(range(2, KEPT_BATCH_SIZES + 2))
    made.run(1)
    made.run(1)


def test_two_engines_share_weights(made):
    second = made.load()
    assert made.weights.bytes == 4 * (64 + N) + 4
    made.engine = None
    gc.collect()
    np.testing.assert_allclose(second.run({"x": X[:1]})["y"], expected(X[:1]), rtol=1e-5, atol=1e-6)


def test_run_device_uses_the_callers_memory(made):
    x, y = DeviceLike(X[:3]), DeviceLike(np.zeros((3, N), np.float32))
    for run in range(4):
        x.values[:] = X[run : run + 3]
        found = made.engine.run_device({"x": x}, stream=42, outputs={"y": y})
        np.testing.assert_allclose(y.values, expected(X[run : run + 3]), rtol=1e-5, atol=1e-6)
        assert found["y"].pointer == y.pointer
    # The second run of the same addresses makes a graph.
    assert made.cuda.count("capture") == 1 and made.cuda.count("launch") == 3
    assert made.cuda.count("copy") == made.cuda.count("download") == 0
    assert [call for call in made.cuda.calls if call[0] == "kernel"][-2:] == [
        ("kernel", n, 42) for n in ("scale", "shift")
    ]
    # None of its own memory was needed.
    assert made.engine._buffers == {}


def test_changing_addresses_make_no_graphs(made):
    for i in range(8):
        x, y = DeviceLike(X[i : i + 2]), DeviceLike(np.zeros((2, N), np.float32))
        made.engine.run_device({"x": x}, stream=42, outputs={"y": y})
        np.testing.assert_allclose(y.values, expected(X[i : i + 2]), rtol=1e-5, atol=1e-6)
    assert made.cuda.count("capture") == 0
    assert len(made.engine._batches[2].seen) == KEPT_GRAPHS


def test_old_graphs_stay_until_they_are_over(made):
    arrays = [(DeviceLike(X[:2] + i), DeviceLike(np.zeros((2, N), np.float32))) for i in range(KEPT_GRAPHS + 1)]
    for x, y in arrays:
        for _ in range(2):
            made.engine.run_device({"x": x}, stream=42, outputs={"y": y})
            np.testing.assert_allclose(y.values, expected(x.values), rtol=1e-5, atol=1e-6)
    assert len(made.engine._batches[2].graphs) == KEPT_GRAPHS
    assert any(isinstance(held, list) for _, held in made.engine._in_flight)
    # The first has no graph any more, and still runs.
    x, y = arrays[0]
    y.values[:] = 0
    made.engine.run_device({"x": x}, stream=42, outputs={"y": y})
    np.testing.assert_allclose(y.values, expected(x.values), rtol=1e-5, atol=1e-6)


def test_run_device_writes_to_its_own_memory_where_none_is_given(made):
    found = made.engine.run_device({"x": DeviceLike(X[:2])})["y"]
    np.testing.assert_allclose(at(found.pointer, (2, N)), expected(X[:2]), rtol=1e-5, atol=1e-6)
    assert (found.shape, found.device, found.stream) == ((2, N), 0, 7)
    pointer = found.pointer
    made.engine = None
    gc.collect()
    assert pointer in made.cuda.memory
    del found
    gc.collect()
    assert pointer not in made.cuda.memory


def test_what_is_not_aligned_is_copied(made):
    x, y = DeviceLike(X[:3], offset=4), DeviceLike(np.zeros((3, N), np.float32), offset=8)
    found = made.engine.run_device({"x": x}, stream=42, outputs={"y": y})
    np.testing.assert_allclose(y.values, expected(X[:3]), rtol=1e-5, atol=1e-6)
    assert found["y"].pointer == y.pointer
    assert [call for call in made.cuda.calls if call[0] == "copy"] == [("copy", 72, 42)] * 2


def test_runs_on_several_streams_follow_each_other(made):
    made.engine.run_device({"x": DeviceLike(X[:2])}, stream=41)
    made.engine.run_device({"x": DeviceLike(X[:2], stream=5)}, stream=42)
    assert ("wait", 42, 41) in made.cuda.calls and ("order", 5, 42) in made.cuda.calls
    made.run(1)
    assert ("wait", 7, 42) in made.cuda.calls


def test_arrays_stay_until_the_run_is_over(made):
    x = DeviceLike(X[:2])
    gone = weakref.ref(x)
    made.engine.run_device({"x": x}, stream=42)
    del x
    gc.collect()
    assert gone() is not None
    made.run(2)
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "takes the inputs x; none were given"),
        ({"x": X[:1, :2]}, r"x has shape \[1, 2\]: \['N', 6\] was expected"),
    ],
)
def test_wrong_inputs_are_refused(made, inputs, said):
    with pytest.raises(InputError, match=said):
        made.engine.run(inputs)
    with pytest.raises(InputError, match=said):
        made.engine.run_device({name: DeviceLike(array) for name, array in inputs.items()})


def test_wrong_device_runs_are_refused(made):
    with pytest.raises(InputError, match="takes 1 to 4: split it"):
        made.engine.run_device({"x": DeviceLike(X[:5])})
    with pytest.raises(InputError, match="no output image: it has y"):
        made.engine.run_device({"x": DeviceLike(X[:1])}, outputs={"image": DeviceLike(X[:1])})


def test_a_failed_launch_is_said(made):
    def gone(grid, *arguments):
        raise BackendError("CUDA_ERROR_ILLEGAL_ADDRESS from cuLaunchKernel on device 0")

    made.cuda.functions["shift"] = gone
    with pytest.raises(BackendError, match=r"cuda: a run could not be started: CUDA_ERROR_ILLEGAL_ADDRESS .*; run it"):
        made.engine.run({"x": X[:1]})
    assert made.cuda.depth == 0


# Devices and files


def test_a_card_takes_the_newest_code_it_runs(tmp_path):
    for capability, target in (((8, 9), "sm_86"), ((8, 6), "sm_86"), ((8, 0), "sm_80"), ((9, 0), "sm_90")):
        made = Made(tmp_path / target, capability)
        assert ("load", f"double-{target}".encode(), "double", 64) in made.cuda.calls
    with pytest.raises(
        BackendError, match=r"built for sm_80, sm_86, sm_90 and A card is sm_120: build again with --target"
    ):
        Made(tmp_path, (12, 0))


def test_choices_that_a_card_has_no_room_for_are_left_out(tmp_path):
    labels = {}
    for capability in ((8, 0), (8, 6), (8, 9), (9, 0)):
        made = Made(tmp_path, capability)
        labels[capability] = [choice.label for choice in made.engine._available[0]]
    both, one = ["prepared", "parts", "wrong"], ["prepared", "wrong"]
    assert labels == {(8, 0): both, (8, 6): one, (8, 9): one, (9, 0): both}


def test_damaged_files_are_said(tmp_path):
    made = Made(tmp_path, load=False)
    (made.folder / KERNELS_NAME).write_bytes(b"no xz")
    with pytest.raises(BackendError, match="cannot be read"):
        made.load()
    (made.folder / PROGRAM_NAME).write_text("{}")
    with pytest.raises(BackendError, match=r"cannot be used: .*; rebuild the bundle"):
        made.load()


def test_weights_of_another_shape_are_said(tmp_path, monkeypatch):
    made = Made(tmp_path, load=False)
    monkeypatch.setitem(fake_program.WEIGHTS, "w", np.zeros((5, 2), np.float32))
    with pytest.raises(BackendError, match=r"w is float32 \[5, 2\], and the program takes float32 \[5\]: rebuild"):
        made.load()


def test_a_failed_preparation_is_not_taken_for_done(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYCOST_TUNE", "0")
    made = Made(tmp_path)
    constants = made.engine._constants
    constants.keep([])
    good = made.cuda.functions["double"]

    def fail(grid, *arguments):
        raise BackendError("gone")

    made.cuda.functions["double"] = fail
    with pytest.raises(BackendError, match="gone"):
        made.engine.run({"x": X[:1]})
    made.cuda.functions["double"] = good
    made.run(1)


# Tuning


def chosen(made, batch=2):
    return [choice.label for choice in made.engine._batches[batch].chosen]


def records(tmp_path):
    return sorted((tmp_path / "cache" / "tuning").rglob("*.json"))


def test_the_fastest_choice_is_kept_for_its_batch(tmp_path):
    made = Made(tmp_path, times={"scale": 3.0})
    made.run(2)
    assert chosen(made) == ["parts", ""]
    # What only the other choice needs went, after it was tried.
    assert "w2" not in made.engine._constants._held
    for _ in range(3):
        made.run(2)
    made.kernels()
    made.run(2)
    assert made.kernels() == [("scale_parts", 2), ("sum_parts", 2), ("shift", 2)]
    (path,) = records(tmp_path)
    record = json.loads(path.read_text())
    assert path.name == "2.json" and record["chosen"] == {"scale": "parts", "shift": ""}
    assert record["times_ms"] == {"scale": {"prepared": 3.0, "parts": 2.0}}
    assert record["device"] == "A card (sm_90), driver 13.0"
    # Another batch size is timed for itself, with what it needs bound again.
    made.cuda.times = {"sum_parts": 9.0}
    made.run(3)
    assert chosen(made, 3) == ["prepared", ""]
    made.run(2)
    made.run(3)
    assert set(made.engine._constants._held) == {"two", "w2", "weights"}


def test_what_was_chosen_is_found_again(tmp_path):
    Made(tmp_path, times={"scale": 3.0}).run(1)
    again = Made(tmp_path)
    assert again.kernels() == []
    again.run(1)
    assert chosen(again, 1) == ["parts", ""]
    assert again.kernels() == [("scale_parts", 1), ("sum_parts", 1), ("shift", 1)]


def test_a_choice_that_differs_is_left_out(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        made = Made(tmp_path, times={"scale_wrong": 0.1})
        made.run(2)
    assert chosen(made) == ["prepared", ""]
    assert "choice wrong of step scale is left out: it differs by 1 of the largest value" in caplog.text


def test_a_choice_that_cannot_be_started_is_left_out(tmp_path, caplog):
    made = Made(tmp_path, load=False)

    def fail(grid, *arguments):
        raise BackendError("CUDA_ERROR_INVALID_VALUE")

    made.cuda.functions["scale_parts"] = fail
    made.engine = made.load()
    made.run(2)
    assert chosen(made) == ["prepared", ""] and "CUDA_ERROR_INVALID_VALUE" in caplog.text


def test_tuning_can_be_turned_off(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYCOST_TUNE", "0")
    made = Made(tmp_path, times={"scale": 3.0})
    made.run(2)
    assert chosen(made) == ["prepared", ""] and records(tmp_path) == []


def test_tuning_works_on_arrays_of_the_device(tmp_path):
    made = Made(tmp_path, times={"scale": 3.0})
    x, y = DeviceLike(X[:3]), DeviceLike(np.zeros((3, N), np.float32))
    for _ in range(3):
        y.values[:] = 0
        made.engine.run_device({"x": x}, stream=42, outputs={"y": y})
        np.testing.assert_allclose(y.values, expected(X[:3]), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(x.values, X[:3])
    assert chosen(made, 3) == ["parts", ""]


def test_tuning_without_graphs(tmp_path):
    made = Made(tmp_path, times={"scale": 3.0}, load=False)
    made.cuda.no_capture = True
    made.engine = made.load()
    made.run(2)
    assert chosen(made) == ["parts", ""]


@pytest.mark.parametrize("content", ["no json", '{"device": "other"}', None])
def test_a_damaged_record_is_measured_again(tmp_path, content):
    Made(tmp_path, times={"scale": 3.0}).run(2)
    (path,) = records(tmp_path)
    changed = json.loads(path.read_text()) | {"chosen": {"scale": "gone", "shift": ""}}
    path.write_text(json.dumps(changed) if content is None else content)
    made = Made(tmp_path, times={"scale": 3.0})
    made.run(2)
    assert chosen(made) == ["parts", ""]
    assert json.loads(path.read_text())["chosen"]["scale"] == "parts"


def test_another_driver_or_card_is_measured_for_itself(tmp_path):
    Made(tmp_path).run(2)
    other = Made(tmp_path, (8, 0))
    other.run(2)
    assert len(records(tmp_path)) == 2


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path):
    (tmp_path / "cache").write_text("a file")
    Made(tmp_path).run(2)


# Programs made of real kernels, which Triton's interpreter runs in the fake GPU's memory


@pytest.mark.parametrize("tune", ["0", "1"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_kernels_of_triton(tmp_path, monkeypatch, dtype, tune):
    pytest.importorskip("triton")
    import small_kernels
    from triton_on_host import as_function

    from anycost.kernels.simulate import simulate, uncompiled

    monkeypatch.setenv("ANYCOST_TUNE", tune)
    lowered = uncompiled(small_kernels.draft(dtype), 3)
    lowered.write(tmp_path)
    cuda = FakeCuda()
    kernels = zip(lowered.program.kernels, lowered.calls, strict=True)
    cuda.functions = {lowered.images[kernel.images["sm_90"]]: as_function(call) for kernel, call in kernels}
    device = CudaDevice(0, "A card", (9, 0), 24 << 30, (13, 0))
    engine = ProgramEngine(tmp_path, small_kernels.bind, device, cuda, DeviceWeights(cuda))
    x = np.random.default_rng(2).standard_normal((4, small_kernels.ENTERING)).astype(np.float32)
    for n in (3, 1, 4, 3, 3):
        found = engine.run({"x": x[:n]})["y"]
        # The same bits as launch by launch.
        labels = {"product": engine._batches[min(n, 3)].chosen[0].label}
        np.testing.assert_array_equal(
            found[:3], simulate(lowered, {"x": x[: min(n, 3)]}, small_kernels.bind, labels)["y"]
        )
