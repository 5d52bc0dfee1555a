import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anycost.benchmarks.latency_report import markdown, ratios

ROOT = Path(__file__).parents[2]


def test_ratios_are_against_our_best():
    times = {"eager": 100.0, "torch.compile": 40.0, "paper -> onnxruntime": 50.0, "paper -> openvino": 30.0}
    assert ratios(times | {"ours -> onnxruntime": 20.0, "ours -> openvino": 10.0}) == {
        "eager": 10.0,
        "torch.compile": 4.0,
        "best export": 3.0,
    }
    assert ratios({"paper -> openvino bf16": 9.0, "ours -> openvino bf16": 6.0})["best export in bf16"] == 1.5
    assert ratios({"eager": 5.0}) == {"eager": None, "torch.compile": None, "best export": None}


def test_a_small_run_writes_json_table_and_chart(tmp_path):
    """Without torch.compile, which needs a C++ compiler. Contenders whose image differs fail inside the run."""
    contenders = "eager,paper -> onnxruntime,paper -> openvino,ours -> onnxruntime,ours -> openvino"
    contenders += ",paper -> openvino bf16,ours -> openvino bf16"
    command = [sys.executable, "-m", "benchmarks.latency", "--random-init", "tiny", "--subnets", "0.25@8"]
    command += ["--contenders", contenders, "--output", str(tmp_path)]
    # pytest-benchmark measures nothing where it takes itself for one of several test processes.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=alone)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "latency.json").read_text())
    assert [row["contender"] for row in result["rows"]] == contenders.split(",")
    assert all(row["median_ms"] > 0 for row in result["rows"]) and result["gemm_gflops"]["0.25@8"] > 1
    assert "0.25@8" in (tmp_path / "latency.md").read_text() == markdown(result)
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("wrong", [("--contenders", "magic"), ("--subnets", "9@9"), ("nothing-of-that-name",)])
def test_wrong_arguments_are_one_line(wrong):
    command = [sys.executable, "-m", "benchmarks.latency", *wrong]
    if len(wrong) == 2:
        command += ["--random-init", "tiny"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("latency: ") and len(done.stderr.splitlines()) == 1
