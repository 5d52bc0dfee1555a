"""Programs on a real GPU: run by hand where there is one (pytest -m gpu)."""

import json

import numpy as np
import pytest

from anycost.runtime.cuda.devices import devices
from anycost.runtime.cuda.driver import cuda
from anycost.runtime.cuda.program_engine import ProgramEngine
from anycost.runtime.cuda.weights import DeviceWeights

pytest.importorskip("triton", reason="compiling the kernels needs Triton")
from small_kernels import ENTERING, bind, draft, expected

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not devices(), reason="needs a GPU"),
]
X = np.random.default_rng(0).standard_normal((11, ENTERING)).astype(np.float32)
# Of the largest value: sums in another order; one rounding of the weights and of what lies between the steps.
BOUNDS = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}


def make(folder, dtype="float32", weights=None, max_batch=4):
    lower = pytest.importorskip("anycost.kernels.lower").lower
    folder.mkdir(parents=True, exist_ok=True)
    lower(draft(dtype), [devices()[0].target], max_batch).write(folder)
    return ProgramEngine(folder, bind, devices()[0], cuda(0), weights or DeviceWeights(cuda(0)))


def error(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("tune", ["0", "1"])
@pytest.mark.parametrize("dtype", list(BOUNDS))
def test_runs_match_numpy(tmp_path, monkeypatch, dtype, tune):
    monkeypatch.setenv("ANYCOST_TUNE", tune)
    engine = make(tmp_path / "engine", dtype)
    # Plain, captured and replayed; then in pieces.
    for n in (2, 2, 2, 11, 11, 1):
        assert error(engine.run({"x": X[:n]})["y"], expected(X[:n])) < BOUNDS[dtype]
    assert next(iter(engine._batches[2].graphs.values())) is not None


def test_runs_give_the_same_bits(tmp_path):
    engine = make(tmp_path / "engine", "float16")
    first = engine.run({"x": X[:3]})["y"]
    assert all(np.array_equal(engine.run({"x": X[:3]})["y"], first) for _ in range(4))
    again = make(tmp_path / "engine", "float16")
    assert np.array_equal(again.run({"x": X[:3]})["y"], first)


def test_alternatives_are_timed_once(tmp_path):
    make(tmp_path / "engine").run({"x": X[:2]})
    (path,) = (tmp_path / "cache" / "tuning").rglob("*.json")
    times = json.loads(path.read_text())["times_ms"]["product"]
    assert set(times) == {"one", "wide"} and all(0 < ms < 10 for ms in times.values())
    before = path.stat().st_mtime_ns
    make(tmp_path / "engine").run({"x": X[:2]})
    assert path.stat().st_mtime_ns == before


def test_memory_is_shared_and_freed(tmp_path):
    weights = DeviceWeights(cuda(0))
    engines = [make(tmp_path / str(i), weights=weights) for i in range(2)]
    for engine in engines:
        engine.run({"x": X[:1]})
    held = weights.bytes
    del engine, engines[0]
    assert weights.bytes == held > 0
    engines.clear()
    assert weights.bytes == 0


@pytest.mark.parametrize("own_stream", [True, False])
def test_arrays_of_torch_are_not_copied(tmp_path, own_stream):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs PyTorch with CUDA")
    engine = make(tmp_path / "engine")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x = torch.empty(4, ENTERING, device="cuda")
        y = torch.empty(4, 10, device="cuda")
        for run in range(4):
            x.copy_(torch.from_numpy(X[run : run + 4]))
            found = engine.run_device({"x": x}, stream=None if own_stream else stream, outputs={"y": y})["y"]
            assert found.pointer == y.data_ptr()
            if own_stream:
                cuda(0).synchronize(engine._handle)
            assert error(y.cpu().numpy(), expected(X[run : run + 4])) < 1e-5
        # Its own memory, and an address that is no multiple of 16.
        odd = torch.empty(4 * ENTERING + 1, device="cuda")[1:].view(4, ENTERING)
        odd.copy_(x)
        own = torch.from_dlpack(engine.run_device({"x": odd}, stream=None if own_stream else stream)["y"])
        if own_stream:
            cuda(0).synchronize(engine._handle)
        assert error(own.cpu().numpy(), expected(X[3:7])) < 1e-5


# Half precision: the parity of a whole network of 32 px, of the largest value of the image.
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("fp16", 1e-2), ("bf16", 1e-1)])
@pytest.mark.parametrize("stored", [False, True])
def test_a_generator_matches_its_reference(tmp_path, tiny_checkpoint, precision, bound, stored):
    """Every alternative of every step, one at a time: the kernels for tensor cores too, whose blocks take more than 48 KB."""
    import torch

    launches = pytest.importorskip("anycost.export.launches")
    from anycost.kernels.lower import lower
    from anycost.networks.stylegan2 import fir_kernel
    from anycost.runtime.bundle import as_bfloat16
    from anycost.runtime.cuda.tuning import Tuning

    arch, generator = tiny_checkpoint.arch, tiny_checkpoint.generator()
    state = {name: tensor.float().numpy() for name, tensor in generator.state_dict().items()}

    def bind(binding):
        times = None if binding.times is None else state[binding.times]
        array = np.ascontiguousarray(binding.apply(state[binding.source], times), dtype=np.float32)
        return as_bfloat16(array) if binding.dtype == "bfloat16" else array.astype(binding.dtype)

    net = arch.full()
    made = launches.synthesis_draft(arch, net, stored, precision)
    lower(made, [devices()[0].target], 2).write(tmp_path)
    engine = ProgramEngine(tmp_path, bind, devices()[0], cuda(0), DeviceWeights(cuda(0)))
    random = np.random.default_rng(0)
    inputs = {slot.name: random.standard_normal((2, *slot.shape[1:])).astype(np.float32) for slot in made.inputs}
    from anycost.export import deploy

    bindings = deploy.with_noise(deploy.synthesis_bindings(arch, net), net, stored)
    noise = None if stored else [torch.from_numpy(inputs[f"noise_{i}"]) for i in range(len(inputs) - 1)]
    tensors = deploy.bind(bindings, generator.state_dict())
    kernel = fir_kernel(4.0)[None, None]
    wanted = deploy.static_synthesis(net, tensors, torch.from_numpy(inputs["w_plus"]), noise, kernel)[-1].numpy()
    most = max(len(choices) for choices in engine._available)
    for i in range(most):
        chosen = [choices[min(i, len(choices) - 1)] for choices in engine._available]
        engine._tuning = Known(chosen)
        engine._batches.clear()
        for _ in range(3):
            assert error(engine.run(inputs)["image"], wanted) < bound, [choice.label for choice in chosen]
    # And as it chooses for itself.
    engine._batches.clear()
    names = [step.name for step in engine._program.steps]
    engine._tuning = Tuning(devices()[0], "0" * 64, precision, names, True)
    assert error(engine.run(inputs)["image"], wanted) < bound


class Known:
    """A tuning that is told what to choose."""

    def __init__(self, chosen):
        self.chosen = chosen

    def known(self, batch, available):
        return self.chosen
