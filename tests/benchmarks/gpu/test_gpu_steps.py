"""Its steps as on a GPU, with processes that only pretend."""

import argparse
import json

import pytest
from pretended_gpu import GPU, figures, job, kernels_found, trial

from anycost.benchmarks.gpu import bench, gpu_tests, report
from anycost.benchmarks.gpu.bench import Bench
from anycost.benchmarks.gpu.contenders import CONTENDERS
from anycost.benchmarks.gpu.processes import Outcome
from anycost.errors import InputError
from anycost.runtime import backends


@pytest.fixture
def made(tmp_path, monkeypatch):
    """make(*options, **outcomes by name of the contender) -> code and result; make.jobs: what was run since."""
    monkeypatch.setattr(bench, "describe", lambda dry: dict(GPU))
    monkeypatch.setattr(backends, "installed", lambda backend: "1.0")

    def make(*options, probes=None, **outcomes):
        make.jobs = []

        def run(job, limit_s):
            make.jobs.append((job.kind, job.name, job.target))
            make.limits[job.name] = limit_s
            if job.kind == "device":
                return Outcome([{"kind": "device", "rates": {"matmul_tflops": 100.0, "copy_gbps": 1000.0}}], "", 1.0)
            if job.kind == "reference":
                return Outcome([{"kind": "reference"}], "", 1.0)
            if job.kind == "kernels":
                return outcomes.get("kernels") or kernels_found()
            if job.kind == "probe":
                return (probes or {}).get(job.name) or Outcome([trial(job.target)], "", 1.0)
            return outcomes.get(job.name.replace("-", "_")) or figures(job)

        monkeypatch.setattr(bench, "run", run)
        arguments = {"model": None, "random_init": "tiny", "subnets": "0.25@8,0.5@16", "batches": "1,8"}
        arguments |= {
            "precision": "fp16",
            "contenders": None,
            "kernels": None,
            "minutes": 60.0,
            "limit": 15.0,
            "seconds": 2.0,
        }
        arguments |= {"threads": 2, "output": tmp_path / "out", "work": tmp_path / "work", "tests": False}
        arguments |= {"retry": "retry" in options, "refresh": "refresh" in options, "dry_run": False}
        arguments |= {key: value for option in options if isinstance(option, dict) for key, value in option.items()}
        made = Bench(argparse.Namespace(**arguments))
        code = made.run()
        return code, json.loads(made.results.path.read_text())

    make.limits = {}
    return make


def test_every_contender_is_measured_or_has_a_reason(made):
    crashed = Outcome([], "its process was ended by SIGSEGV", 1.0, log=["the end"])
    code, result = made(compiled=crashed)
    assert code == 1
    expected = {name for name, kind in CONTENDERS.items() if kind.place != "dry"}
    assert set(result["contenders"]) == expected
    for name, entry in result["contenders"].items():
        assert entry["state"] == ("failed" if name == "compiled" else "measured")
    assert result["contenders"]["compiled"]["reason"].endswith("SIGSEGV")
    assert result["contenders"]["compiled"]["log"] == ["the end"]
    row = result["contenders"]["tensorrt"]["figures"][1]
    # 8 images in 2 ms on a device of 100 TFLOP/s and 1000 GB/s.
    least = result["effort"]["0.25@8"]
    assert row["of_matmul"] == pytest.approx(2 * least["macs"] * 8 / 2e-3 / 100e12, rel=1e-3)
    assert row["of_copy"] == pytest.approx((least["weights"] + 8 * least["image"]) / 2e-3 / 1e12, rel=1e-3)
    table = report.markdown(result)
    assert "NVIDIA Card 9000 (PCIe) (compute capability 8.9, 24 GiB)" in table and "Driver 580.1, CUDA 13.0" in table
    assert "- compiled (failed): its process was ended by SIGSEGV" in table
    assert "| 0.5@16 | 8 | tensorrt_rtx | 2 / 3 | 2 / 3 | 2 / 3 | 1.0 x |" in table
    assert "| tensorrt_rtx | 3 | 2 | 1 |" in table


def test_a_run_goes_on_where_it_was(made):
    late = Outcome([], "", 1.0, late=True)
    made({"contenders": "eager,static"}, static=Outcome([], "broken", 1.0))
    assert [one for one in made.jobs if one[0] == "contender"] == [
        ("contender", "eager", "sm_89"),
        ("contender", "static", "sm_89"),
    ]
    # What failed is not tried again, unless that is asked for; what was measured never is.
    code, _ = made({"contenders": "eager,static"})
    assert code == 1 and not made.jobs
    code, _ = made("retry", {"contenders": "eager,static"})
    assert code == 0 and [one[1] for one in made.jobs] == ["all", "static"]
    # More contenders join the same file; those that ran out of the whole run's time are measured in the next.
    code, result = made({"contenders": "compiled", "minutes": 1.0}, compiled=late)
    assert code == 1 and result["contenders"]["compiled"]["state"] == "unfinished"
    assert set(result["contenders"]) == {"eager", "static", "compiled"}
    code, result = made({"contenders": "compiled"})
    assert code == 0 and result["contenders"]["compiled"]["state"] == "measured"
    # Other settings, or being told so, begin anew.
    _, result = made({"contenders": "eager", "batches": "2"})
    assert set(result["contenders"]) == {"eager"} and ("device", "all", "sm_89") in made.jobs
    made("refresh", {"contenders": "eager", "batches": "2"})
    assert ("contender", "eager", "sm_89") in made.jobs


def test_kernels_go_with_all_contenders_or_alone(made):
    code, result = made({"kernels": "only"})
    assert code == 0 and made.jobs == [("device", "all", "sm_89"), ("kernels", "kernels", "sm_89")]
    assert result["kernels"]["state"] == "measured" and not result["contenders"]
    made()
    assert made.jobs[-1][0] == "kernels", "after all contenders"
    made({"kernels": "without"})
    assert not any(kind == "kernels" for kind, _, _ in made.jobs)
    made({"contenders": "eager"})
    assert not any(kind == "kernels" for kind, _, _ in made.jobs)
    wrong = kernels_found()
    wrong.findings[-1]["failed"] = {"blocks": "it differs"}
    code, result = made("refresh", {"kernels": "only"}, kernels=wrong)
    assert code == 1 and "blocks: it differs" in report.markdown(result)
    code, result = made("refresh", {"kernels": "only", "minutes": 0.1})
    assert code == 2 and result["kernels"]["state"] == "unfinished"


def test_limits(made):
    late = Outcome([], "it was not done within 2 minutes", 120.0, late=True)
    code, result = made({"contenders": "eager", "limit": 2.0}, eager=late)
    assert code == 2 and made.limits["eager"] == 120
    assert result["contenders"]["eager"]["state"] == "failed"
    code, result = made({"contenders": "static", "minutes": 0.2})
    assert code == 2 and result["contenders"]["static"]["state"] == "unfinished"
    assert "same command" in result["contenders"]["static"]["reason"]


def test_what_was_measured_before_a_contender_ended_is_kept(made):
    cut = figures(job("x", batches=(1, 8), subnets=("0.25@8",)), reason="its process was ended by SIGABRT")
    code, result = made({"contenders": "tensorrt"}, tensorrt=cut)
    entry = result["contenders"]["tensorrt"]
    assert code == 1 and entry["state"] == "measured" and len(entry["figures"]) == 2
    assert "tensorrt (measured): its process was ended by SIGABRT" in report.markdown(result)
    made({"contenders": "tensorrt"})
    assert not made.jobs
    code, _ = made("retry", {"contenders": "tensorrt"})
    assert code == 0 and ("contender", "tensorrt", "sm_89") in made.jobs


def test_a_backend_that_runs_nothing_is_not_measured(made):
    refused = trial("sm_89", built=False, runs=False, parity=None, reason="does not build for sm_89")
    both = Outcome([refused, trial("CURRENT", runs=False, parity=None, reason="no | kernels")], "", 1.0)
    code, result = made({"contenders": "eager,tensorrt_rtx"}, probes={"tensorrt_rtx": both})
    assert code == 0 and result["contenders"]["tensorrt_rtx"] == {
        "state": "unavailable",
        "reason": "does not build for sm_89",
    }
    assert "| tensorrt_rtx | CURRENT | yes | no | - | no \\| kernels |" in report.markdown(result)


def test_engines_are_built_for_the_target_that_ran(made):
    refused = trial("sm_89", built=False, runs=False, parity=None, reason="does not build for sm_89")
    made({"contenders": "tensorrt_rtx"}, probes={"tensorrt_rtx": Outcome([refused, trial("CURRENT")], "", 1.0)})
    assert ("contender", "tensorrt_rtx", "CURRENT") in made.jobs


def test_a_probe_that_the_time_ended_is_tried_again(made):
    late = Outcome([], "it was not done within 1 minutes", 60.0, late=True)
    _, result = made({"contenders": "tensorrt", "minutes": 1.0}, probes={"tensorrt": late})
    assert result["contenders"]["tensorrt"]["state"] == "unfinished"
    code, _ = made({"contenders": "tensorrt"})
    assert code == 0 and ("probe", "tensorrt", "sm_89") in made.jobs


def test_a_missing_package_is_a_reason(made, monkeypatch):
    monkeypatch.setattr(backends, "installed", lambda backend: None)
    code, result = made({"contenders": "eager,tensorrt"})
    assert code == 0 and "pip install" in result["contenders"]["tensorrt"]["reason"]
    assert not any(kind == "probe" for kind, _, _ in made.jobs)


def test_the_tests_outcome_is_recorded(made, monkeypatch):
    outcome = {"passed": 3, "failed": 1, "errors": 0, "skipped": 2, "problems": {"a": "b"}, "skips": {}, "reason": ""}
    monkeypatch.setattr(gpu_tests, "run_tests", lambda folder, limit_s: outcome)
    code, result = made({"contenders": "eager", "tests": True})
    assert code == 1 and result["tests"] == outcome
    assert "GPU tests: 3 passed, 1 failed, 0 errors, 2 skipped." in report.markdown(result)


def test_a_damaged_result_counts_as_none(made, tmp_path):
    made({"contenders": "eager"})
    (path,) = (tmp_path / "out").glob("*.json")
    for damage in ("{", "[]", "{}"):
        path.write_text(damage)
        code, _ = made({"contenders": "eager"})
        assert code == 0 and ("contender", "eager", "sm_89") in made.jobs


def test_an_unwritable_result_is_said(made, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="--output"):
        made({"contenders": "eager"})
