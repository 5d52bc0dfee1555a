"""The kernels one by one: problems, bounds, times and what is said of them; Triton's interpreter in place of a GPU."""

from dataclasses import replace

import pytest
import torch
from pretended_gpu import GPU, job

from anycost.benchmarks.gpu import fused_operators, kernel_step, kernels, launch_times, report
from anycost.benchmarks.gpu.contenders import CONTENDERS
from anycost.benchmarks.gpu.engine_contender import engine_variant
from anycost.benchmarks.gpu.goals import goals
from anycost.benchmarks.gpu.kernel_step import flawed_kernels, measure_kernels
from anycost.benchmarks.gpu.launch_check import expected
from anycost.benchmarks.gpu.launch_times import Timer
from anycost.benchmarks.gpu.machine import Dry
from anycost.benchmarks.gpu.operands import bound, copied, total_bytes
from anycost.benchmarks.gpu.processes import Outcome
from anycost.benchmarks.gpu.results import Results, Settings
from anycost.benchmarks.kernel_cases import collect
from anycost.errors import BackendError
from anycost.kernels.call import run
from anycost.networks import stylegan2
from anycost.networks.channels import Architecture, macs, parse_subnets
from anycost.networks.stylegan2 import Generator

ARCH = Architecture(8, 0.0625, 16, 16, 1)
RATES = {"matmul_tflops": 600.0, "copy_gbps": 4000.0, "vector_tflops": 50.0}


@pytest.fixture(scope="module")
def cases():
    return collect(ARCH, [ARCH.full()], "fp16")


def of(cases, operator, words=""):
    return next(one for one in cases.problems if one.operator == operator and words in one.title)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize(
    "operator",
    ["conv3x3", "conv3x3 up", "conv_transpose3x3", "finish", "to_rgb", "styles", "linear", "fuse_filter", "bias_act"],
)
def test_what_an_operator_gives_is_within_its_bound_and_what_is_wrong_is_not(operator, precision):
    cases = collect(ARCH, [ARCH.full()], precision)
    problem = of(cases, operator)
    (call,) = bound(next(iter(problem.candidates.values())), cases.tables[problem.key], "cpu")
    (wanted, *_) = expected(call)
    assert not wanted.check(call).passed, "nothing was written yet"
    run(call)
    assert all(one.check(call).passed for one in expected(call)), operator
    result = call.arguments[wanted.name].view(-1)
    result[3] += 4e-3 * result.abs().max()
    assert not wanted.check(call).passed


@pytest.mark.parametrize("words", ["9x9x16 -> 8x8", "4x4x3 -> 8x8"])
def test_upfirdn2d_alone(cases, words):
    problem = of(cases, "upfirdn2d", words)
    (call,) = bound(next(iter(problem.candidates.values())), {}, "cpu")
    (wanted,) = expected(call)
    run(call)
    assert wanted.check(call).passed


def test_parts_are_added_before_they_are_compared():
    found = collect(Architecture(1024), parse_subnets("0.25@256", Architecture(1024)), "fp16")
    problem = of(found, "conv3x3", "4x4x512 -> 512, 8 parts")
    (call,) = bound(next(iter(problem.candidates.values())), {}, "cpu")
    (wanted,) = expected(call)
    out = call.arguments["out"]
    assert out.shape == (1, 8, 4, 4, 512) and wanted.value.shape == (1, 4, 4, 512)
    out.zero_()[:, 3] = wanted.value.float()
    assert wanted.check(call).passed


def test_slots_become_tensors(cases):
    layer = of(cases, "layer")
    first, second = bound(next(iter(layer.candidates.values())), {}, "cpu")
    assert first.arguments["out"] is second.arguments["y"], "a sequence hands its results on"
    assert first.arguments["out"].isnan().all()
    assert first.arguments["style"].abs().max() <= 1 and first.arguments["style"].shape == (1, 16)
    other = copied([first, second])
    assert other[0].arguments["out"] is other[1].arguments["y"]
    memory = [{x.data_ptr() for c in calls for x in c.arguments.values() if isinstance(x, torch.Tensor)} for calls in
              ([first, second], other)]  # fmt: skip
    assert not memory[0] & memory[1]
    assert total_bytes(other) == total_bytes([first, second])


def test_sets_of_operands_exceed_the_cache(cases):
    timer = Timer(Dry(), 0.001)
    assert timer._sets(1000) == 1
    timer._cache = 50 << 20
    assert timer._sets(1 << 20) == 150 and timer._sets(1 << 30) == 2
    assert timer._sets(100) == 256 and timer._sets(16 << 30) == 1


def test_a_kernel_that_differs_is_not_timed(cases, monkeypatch):
    found = []
    monkeypatch.setattr(kernels, "run", lambda call: call.arguments["out"].zero_())
    monkeypatch.setattr(kernels, "kernel_cases", lambda job: replace(cases, problems=[of(cases, "to_rgb")]))
    kernels.measure_kernels(job("x", "kernels"), lambda kind, **values: found.append((kind, values)))
    assert [kind for kind, _ in found] == ["cases", "begun", "kernel"]
    row = found[-1][1]
    assert not row["candidates"] and "differs from the reference" in next(iter(row["failed"].values()))


def test_what_a_device_has_no_room_for_is_left_out_and_other_faults_are_said(cases, monkeypatch):
    found = []
    faults = [type("OutOfResources", (Exception,), {})("shared memory"), ValueError("of this\nlaunch")]

    def fault(call):
        raise faults.pop(0)

    problem = of(cases, "to_rgb")
    monkeypatch.setattr(kernels, "run", fault)
    monkeypatch.setattr(kernels, "kernel_cases", lambda job: replace(cases, problems=[problem]))
    for _ in range(2):
        kernels.measure_kernels(job("x", "kernels"), lambda kind, **values: found.append(values))
    (label,) = found[2]["left_out"]
    assert label == next(iter(problem.candidates)) and not found[2]["failed"]
    assert found[5]["failed"] == {label: "ValueError: of this launch"} and not found[5]["left_out"]

    def no_reference(call):
        raise MemoryError("of the reference")

    monkeypatch.setattr(kernels, "expected", no_reference)
    kernels.measure_kernels(job("x", "kernels"), lambda kind, **values: found.append(values))
    assert found[-1]["failed"] == {"reference": "MemoryError: of the reference"}


def test_a_device_that_is_lost_ends_the_process(cases, monkeypatch):
    class Lost(Dry):
        def wait(self):
            raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(kernels, "open_machine", lambda dry: Lost())
    monkeypatch.setattr(kernels, "kernel_cases", lambda job: replace(cases, problems=[of(cases, "to_rgb")]))
    with pytest.raises(BackendError, match=r"to_rgb.*illegal memory access"):
        kernels.measure_kernels(job("x", "kernels"), lambda kind, **values: None)
    with pytest.raises(BackendError, match="bfloat16"):
        kernels.measure_kernels(job("x", "kernels", precision="bf16"), lambda kind, **values: None)


# The step of a run


def row(key, operator="finish", us=10.0, bytes_=20_000_000, flops=1000, **more):
    work = {"read": bytes_, "written": 0, "flops": flops, "tensor_cores": operator.startswith("conv"), "half": True}
    found = {"key": key, "operator": operator, "title": f"sizes of {key}", "used": ["1@1024 convs.0"], "works": [work]}
    candidates = {
        "a": {"us": us, "sets": 2, "error": 1e-4, "of_bound": 0.5},
        "b": {"us": 99.0, "sets": 2, "error": 0.0},
    }
    return {"kind": "kernel"} | found | {"candidates": candidates, "failed": {}} | more


def begun(key):
    return {"kind": "begun", "key": key, "operator": "finish", "title": f"sizes of {key}", "used": ["x"]}


def told(*keys):
    ways = [{"label": f"{form} a", "problem": key, "candidate": "a", "form": form} for form, key in
            zip(("polyphase", "fused"), keys, strict=False)]  # fmt: skip
    return {"kind": "cases", "keys": list(keys), "layers": [
        {"subnet": "1@1024", "name": "convs.0", "title": "4x4", "ways": ways}]}  # fmt: skip


@pytest.fixture
def step(tmp_path):
    settings = Settings("random config-f", "0", ("1@1024",), (1,), "fp16", 1.0, GPU["name"], {})
    results = Results(tmp_path / "gpu.json", settings, False, ("eager", "cuda", "compiled"))
    results.keep(rates=RATES, device=GPU)

    def measured(*outcomes, retry=False):
        measured.known, queue = [], list(outcomes)

        def fake(job, limit_s):
            measured.known.append(set(job.known))
            return queue.pop(0)

        measure_kernels(job(tmp_path), results, fake, 60.0, retry)
        assert not queue
        return results.values["kernels"]

    measured.results = results
    return measured


def test_a_problem_that_ends_its_process_is_left_out(step):
    crash = Outcome([told("k1", "k2", "k3"), begun("k1"), row("k1"), begun("k2")], "ended by SIGSEGV", 1.0)
    rest = Outcome([told("k1", "k2", "k3"), begun("k3"), row("k3")], "", 1.0)
    entry = step(crash, rest)
    assert step.known == [set(), {"k1", "k2"}]
    assert entry["state"] == "measured" and entry["rows"]["k2"]["failed"] == {"any": "ended by SIGSEGV"}
    assert flawed_kernels(entry)
    assert "- finish sizes of k2, any: ended by SIGSEGV" in report.markdown(step.results.values)
    # What failed is tried again when that is asked for.
    entry = step(Outcome([told("k1", "k2", "k3"), begun("k2"), row("k2")], "", 1.0), retry=True)
    assert step.known == [{"k1", "k3"}] and not flawed_kernels(entry)
    # And of another source nothing counts.
    entry = step(Outcome([told("n1"), begun("n1"), row("n1")], "", 1.0))
    assert list(entry["rows"]) == ["n1"]


def test_a_limit_leaves_the_rest_to_the_next_run(step):
    late = Outcome([told("k1", "k2"), begun("k1"), row("k1"), begun("k2")], "it was not done", 9.0, late=True)
    entry = step(late)
    assert entry["state"] == "unfinished" and list(entry["rows"]) == ["k1"] and flawed_kernels(entry)
    entry = step(Outcome([told("k1", "k2"), begun("k2"), row("k2")], "", 1.0))
    assert step.known == [{"k1"}] and entry["state"] == "measured"


def test_a_process_that_tells_nothing_has_failed(step, monkeypatch):
    entry = step(Outcome([], "no module", 1.0))
    assert entry["state"] == "failed" and entry["reason"] == "no module" and flawed_kernels(entry)
    monkeypatch.setattr(kernel_step, "find_spec", lambda name: None)
    entry = step()
    assert entry["state"] == "unavailable" and "pip install" in entry["reason"] and not flawed_kernels(entry)
    assert "- all (unavailable): Triton" in report.markdown(step.results.values)


def test_the_report_of_kernels(step):
    """20 MB at 4000 GB/s are 5 us; 6 GFLOP at 600 TFLOP/s are 10."""
    fused = row("k2", "conv3x3 up", us=20.0, bytes_=1000, flops=6_000_000_000)
    step(Outcome([told("k1", "k2"), begun("k1"), row("k1"), begun("k2"), fused], "", 1.0))
    text = report.markdown(step.results.values)
    assert "| finish | sizes of k1 | 1@1024 convs.0 | memory | 5.0 | 10.0 | 50% | a | 1e-04 |" in text
    assert "| conv3x3 up | sizes of k2 | 1@1024 convs.0 | arithmetic | 10.0 | 20.0 | 50% | a | 1e-04 |" in text
    assert "| 1@1024 | convs.0 | 4x4 | polyphase 10.0 (5.0); fused 20.0 (10.0) | polyphase |" in text
    assert "| 1@1024 | 1 | 5 | 10 | 50% |" in text
    assert "5 us and longer: 0 of 1, the least 50% (finish sizes of k1), **missed**" in text


def figure(subnet, ms):
    return {"figures": [{"subnet": subnet, "batch": 1, "device": {"p50": ms}}]}


@pytest.mark.parametrize(
    ("device", "own", "compiled", "said"),
    [
        ("NVIDIA H200", 0.9, 2.7, ["in at most 1 ms: 0.9 ms, **met**", "torch.compile: 3.00 times, **met**"]),
        ("NVIDIA H200", 1.2, 2.4, ["in at most 1 ms: 1.2 ms, **missed**", "torch.compile: 2.00 times, **missed**"]),
        ("NVIDIA L4", 3.0, 9.0, ["3 ms on another device", "torch.compile: 3.00 times, **met**"]),
    ],
)
def test_goals(device, own, compiled, said):
    arch = Architecture(1024)
    contenders = {"cuda": figure("1@1024", own), "compiled-paper": figure("1@1024", compiled)}
    values = {"settings": {"precision": "fp16"}, "device": {"name": device}, "contenders": contenders}
    values["effort"] = {"1@1024": {"macs": macs(arch.full(), 512)}}
    text = "\n".join(goals(values))
    assert all(one in text for one in said), text
    values["effort"]["1@1024"]["macs"] -= 1
    assert not list(goals(values)), "the goals are of FFHQ's shapes"


def test_a_time_is_the_graphs_by_its_runs(cases, monkeypatch):
    class Device(Dry):
        device = "cuda"

        def device_times(self, call, runs):
            call()
            return [6.4] * runs

    graphs, started = [], []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: type("P", (), {"L2_cache_size": 0}))
    monkeypatch.setattr(launch_times, "_graph", lambda machine, runs: (graphs.append(runs), runs)[1])
    monkeypatch.setattr(launch_times, "run", started.append)
    timer = Timer(Device(), 0.001)
    timer._cache = 1
    layer = of(cases, "layer")
    found = timer.times(bound(next(iter(layer.candidates.values())), {}, "cpu"))
    # Two sets of operands in turn, 16 times, make 32 runs of 6.4 ms in all, of two launches each.
    assert found == {"us": 200.0, "sets": 2} and len(graphs) == 1
    assert len(started) % 64 == 0 and started[0].arguments["x"] is not started[2].arguments["x"]


def test_eager_with_fused_operators_gives_the_same_images(monkeypatch):
    torch.manual_seed(0)
    generator = Generator(16, 0.0625, 16, 16, 1)
    w_plus = torch.randn(2, generator.arch.n_style, 16)
    with torch.inference_mode():
        plain = generator.synthesis(w_plus)
        monkeypatch.setattr(stylegan2, "fir", stylegan2.fir)
        monkeypatch.setattr(stylegan2.StyledConv, "forward", stylegan2.StyledConv.forward)
        monkeypatch.setattr(fused_operators, "TorchContender", lambda case, **form: (case, form))
        assert fused_operators.fused_eager("case") == ("case", {"static": False, "compiled": False})
        assert stylegan2.fir is fused_operators._fir
        fused = generator.synthesis(w_plus)
    assert (fused - plain).abs().max() < 1e-5 * plain.abs().max()


def test_engines_of_our_own_kernels_are_contenders_for_the_device_at_hand():
    kind = CONTENDERS["cuda"]
    assert (kind.backend, kind.place, kind.triton) == ("cuda", "gpu", True)
    variant = engine_variant(job("x", target="sm_90", batches=(1, 8)), "cuda")
    assert (variant.name, variant.targets, variant.batch) == ("cuda-fp16", ("sm_90",), (1, 1, 8))
