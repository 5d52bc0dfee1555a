"""Its parts: effort, rates, processes, tests, and what only a GPU has, pretended."""

import sys
import time
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from pretended_gpu import PARITY, job

from anycost.benchmarks.gpu import gpu_tests, measure, processes, worker
from anycost.benchmarks.gpu.bench import default_subnets, file_name
from anycost.benchmarks.gpu.case import Case
from anycost.benchmarks.gpu.contenders import CONTENDERS, Kind
from anycost.benchmarks.gpu.device import plain
from anycost.benchmarks.gpu.effort import Effort, effort
from anycost.benchmarks.gpu.engine_contender import EngineLoaded
from anycost.benchmarks.gpu.job import Job
from anycost.benchmarks.gpu.machine import Dry, Gpu, Rates, rates, runs_for
from anycost.benchmarks.gpu.torch_contender import TorchLoaded
from anycost.networks.channels import Architecture


def test_defaults():
    assert [net.name for net in default_subnets(Architecture(1024), False)] == [
        "0.25@256",
        "0.5@512",
        "0.75@1024",
        "1@1024",
    ]
    assert [net.name for net in default_subnets(Architecture(128), False)] == ["0.25@16", "1@16", "0.25@128", "1@128"]
    assert [net.name for net in default_subnets(Architecture(128), True)] == ["0.25@8"]
    assert plain("NVIDIA GeForce RTX 4090") == "nvidia-geforce-rtx-4090" and plain("//") == "device"
    assert file_name("NVIDIA H200", "avatars", None, "fp16") == "gpu-nvidia-h200"
    assert file_name("NVIDIA H200", None, "config-f", "bf16") == "gpu-nvidia-h200-config-f-bf16"
    assert file_name("A", "x/some model.pt", None, "fp16") == "gpu-a-some-model"


def test_effort_by_hand():
    """conv1 and to_rgb1 at 4 px, then one block at 8 px, of 4 channels each."""
    arch = Architecture(8, 1.0, 4, 16, 2)
    found = effort(arch.full(), arch.style_dim, "fp16")
    convolutions = 2 * ((4 + 4) * 16 + (4 * 16 + 4 * 64) + (4 + 4) * 64)
    pictures = 2 * 4 * 16 + 4 * 3 * 16 + 2 * 4 * 64 + 4 * 3 * (64 + 16)
    assert found.image == convolutions + pictures
    noise = 2 * (16 + 64 + 64)
    weights = 4 * 16 + 3 * (4 * 4 * 9 + 4 * 17 + 4 + 1) + 2 * (4 * 3 + 4 * 17 + 3)
    assert found.weights == 2 * weights + noise
    assert effort(arch.full(), arch.style_dim, "fp32").weights == 2 * found.weights
    shares = Effort(10**9, 10**6, 10**6).shares(4, 8.0, Rates(10.0, 100.0))
    assert shares == pytest.approx((0.1, 5e6 / 8e-3 / 1e11))


def test_rates_and_runs_of_a_dry_run():
    found = rates(Dry())
    assert found.matmul_tflops > 0 and found.copy_gbps > 0
    calls = []
    assert runs_for(Dry(), lambda: calls.append(time.sleep(0.001)), 0.004) in range(3, 5)
    assert len(calls) >= 3


def pretend(monkeypatch, script):
    monkeypatch.setattr(processes, "_COMMAND", (sys.executable, "-c", script))


def test_processes(tmp_path, monkeypatch):
    tell = 'import sys, time, os; f = open(sys.argv[2], \'a\'); f.write(\'{"kind": "figures", "x": 1}\\n{"ki\'); f.flush(); '
    pretend(monkeypatch, tell + "print('noise')")
    done = processes.run(job(tmp_path / "a"), 60)
    assert done.of("figures") == [{"x": 1}] and not done.reason and not done.log and not done.late
    pretend(monkeypatch, tell + "print('first'); sys.exit('the reason')")
    done = processes.run(job(tmp_path / "a"), 60)
    assert done.of("figures") == [{"x": 1}] and done.reason == "the reason" and done.log == ["first", "the reason"]
    pretend(monkeypatch, tell + "os.kill(os.getpid(), 11)")
    assert processes.run(job(tmp_path / "a"), 60).reason == "its process was ended by SIGSEGV"
    pretend(monkeypatch, tell + "os.fork(); time.sleep(600)")
    done = processes.run(job(tmp_path / "a"), 1)
    assert done.late and done.reason.startswith("it was not done within") and done.of("figures") == [{"x": 1}]


def test_a_job_comes_through(tmp_path):
    one = job(tmp_path, subnets=("0.25@8", "0.5@8"), batches=(1, 8))
    assert Job.parse(one.json()) == one


def test_a_worker_that_cannot_is_one_line(tmp_path, capsys):
    given = tmp_path / "job.json"
    given.write_text(job(tmp_path, random_init="nothing").json())
    assert worker.main([str(given), str(tmp_path / "found")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_gpu_tests_are_found_and_counted(tmp_path):
    folder = tmp_path / "tests"
    folder.mkdir()
    assert "no tests" in gpu_tests.run_tests(folder, 60)["reason"]
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\naddopts = -m 'not gpu' -p no:cacheprovider\n")
    (folder / "test_other.py").write_text("import nothing_of_that_name\n")
    (folder / "test_one.py").write_text(
        "import pytest\n"
        "@pytest.mark.gpu\ndef test_good(): pass\n"
        "@pytest.mark.gpu\ndef test_bad(): assert False, 'wrong'\n"
        "@pytest.mark.gpu\ndef test_none(): pytest.skip('no device')\n"
        "def test_cpu(): assert False\n"
    )
    (folder / "test_two.py").write_text("import nothing_of_that_name  # mark.gpu\n")
    found = gpu_tests.run_tests(folder, 120)
    assert [found[kind] for kind in ("passed", "failed", "errors", "skipped")] == [1, 1, 1, 1] and not found["reason"]
    assert "wrong" in found["problems"]["tests.test_one::test_bad"]
    assert found["skips"] == {"tests.test_one::test_none": "no device"}


class Engine:
    def __init__(self):
        self.given = []

    def run_device(self, inputs, *, stream=None):
        self.given.append((tuple(inputs["w_plus"].shape), stream))


class Card(Dry):
    """Not called "cpu", so that it is treated as a GPU."""

    device = "cpu:0"
    stream = "a stream"


def test_engines_run_on_the_stream_of_the_clock(tmp_path):
    codes = SimpleNamespace(codes=np.arange(12, dtype=np.float32).reshape(2, 2, 3))
    case = Case(job(tmp_path), None, Card(), codes, ())
    engine = Engine()
    EngineLoaded(case, engine).on_device(5)()
    assert engine.given == [((5, 2, 3), "a stream")]
    assert case.codes(3)[2].tolist() == codes.codes[0].tolist()
    assert EngineLoaded(case, object()).on_device(5) is None


def test_events_stand_around_every_run(monkeypatch):
    """And the stream is waited for now and then, and at the end."""
    clock = [0.0]
    waits = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            assert stream == "a stream"
            self.at = clock[0]

        def elapsed_time(self, end):
            assert waits
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(clock[0]))
    gpu = Gpu.__new__(Gpu)
    gpu.stream = "a stream"

    def call():
        clock[0] += 2.0

    assert gpu.device_times(call, 45) == [2.0] * 45
    assert waits == [40.0, 80.0, 90.0]


def test_memory_counts_engines_and_what_they_share(monkeypatch):
    from anycost.runtime.cuda import weights

    class Used(Dry):
        device = "cuda"

        def used_bytes(self):
            return 1000

    monkeypatch.setattr(weights, "device_weights", lambda: SimpleNamespace(bytes=30))
    loaded = [SimpleNamespace(sizes=lambda: {"engine": 50}), SimpleNamespace(sizes=lambda: {"engine": 60})]
    assert measure._memory(Used(), 400, loaded) == {"used": 600, "allocated": 0, "engine": 110, "shared": 30}


def test_what_one_sub_network_fails_at_stops_no_other(tmp_path, monkeypatch):
    told = []
    nets = tuple(SimpleNamespace(name=name) for name in ("a", "b", "c"))

    class Contender:
        failed: ClassVar = {"a": "not built"}

        def load(self, net):
            if net.name == "b":
                raise RuntimeError("out of\nmemory")
            return TorchLoaded(case, lambda x: x, 5)

        def load_all(self, nets):
            return [self.load(net) for net in nets]

        def notes(self):
            raise ValueError("nothing to say")

    expected = SimpleNamespace(codes=np.zeros((2, 2, 3), np.float32), parity=lambda name, run: (PARITY, ""))
    case = Case(job(tmp_path), None, Dry(), expected, nets)
    monkeypatch.setattr(measure, "Case", lambda *parts: case)
    monkeypatch.setattr(measure, "Expected", lambda job: expected)
    monkeypatch.setattr(measure, "parse_subnets", lambda text, arch: nets)
    monkeypatch.setitem(CONTENDERS, "eager", Kind("", lambda case: Contender()))
    measure.measure(
        job(tmp_path), lambda kind, **values: told.append((kind, values.get("subnet"), values.get("reason")))
    )
    assert told == [
        ("failed", "a", "not built"),
        ("failed", "b", "RuntimeError: out of memory"),
        ("figures", "c", None),
        ("subnet", "c", None),
        ("all", None, None),
        ("failed", "notes", "ValueError: nothing to say"),
    ]


def test_other_pictures_are_no_figures(tmp_path):
    expected = SimpleNamespace(codes=np.zeros((1, 2, 3), np.float32), parity=lambda name, run: (PARITY, "PSNR 3 dB"))
    case = Case(job(tmp_path), None, Dry(), expected, ())
    loaded = SimpleNamespace(load=lambda net: TorchLoaded(case, lambda x: x, 5))
    with pytest.raises(ValueError, match="PSNR 3 dB"):
        measure._figures(case, loaded, SimpleNamespace(name="a"), lambda *a, **b: pytest.fail("told"))
