"""The whole benchmark of a GPU on the CPU, and what it says of wrong arguments."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from anycost.benchmarks.gpu import __main__

ROOT = Path(__file__).parents[3]


def test_the_command_is_there():
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--dry-run" in done.stdout


def test_a_dry_run_goes_through_every_step(tmp_path, capsys):
    """And the second time finds everything done. One thread: processes that wait for each other's cores take minutes."""
    arguments = ["--dry-run", "--output", tmp_path, "--work", tmp_path / "work", "--seconds", 0.01, "--threads", 1]
    arguments = [str(one) for one in (*arguments, "--contenders", "eager,static,onnxruntime,tensorrt_rtx,compiled")]
    arguments += ["--kernels", "with"]
    code, said = __main__.main(arguments), capsys.readouterr()
    assert code == 0, said
    result = json.loads((tmp_path / "gpu-dry-run.json").read_text())
    states = {name: entry["state"] for name, entry in result["contenders"].items()}
    gone = "unavailable"
    assert states == {
        "eager": "measured",
        "static": "measured",
        "onnxruntime": "measured",
        "tensorrt_rtx": gone,
        "compiled": gone,
    }
    assert all(result["contenders"][name]["reason"] for name, state in states.items() if state == gone)
    for name in ("eager", "static", "onnxruntime"):
        entry = result["contenders"][name]
        assert [(row["subnet"], row["batch"]) for row in entry["figures"]] == [("0.25@8", 1), ("0.25@8", 8)]
        for row in entry["figures"]:
            for kind in ("device", "wall", "host"):
                assert 0 < row[kind]["p50"] <= row[kind]["p95"] and row[kind]["runs"] >= 3
            assert row["of_matmul"] > 0 and row["of_copy"] > 0
        assert entry["subnets"]["0.25@8"]["parity"]["psnr_db"] > 45 and entry["failed"] == {}
    verified = result["contenders"]["onnxruntime"]["notes"]["verify"]
    assert set(verified) == {"mapping/onnxruntime-fp16", "0.25@8/onnxruntime-fp16"}
    assert all(check["passed"] for check in verified.values())
    (tried,) = result["backends"]["onnxruntime"]
    assert tried["built"] and tried["runs"] and not tried["reason"] and tried["parity"]["psnr_db"] > 45
    assert result["rates"]["matmul_tflops"] > 0 and result["settings"]["software"]["torch"]
    assert result["kernels"]["state"] == "measured" and result["kernels"]["rows"]
    assert all(row["candidates"] and not row["failed"] for row in result["kernels"]["rows"].values())
    table = (tmp_path / "gpu-dry-run.md").read_text()
    assert "Which form of a layer wins" in table
    assert said.out.strip() == table.strip() and "| 0.25@8 | 8 | onnxruntime |" in table
    code, said = __main__.main(arguments), capsys.readouterr()
    assert code == 0 and "going on" in said.err and "contender" not in said.err
    assert json.loads((tmp_path / "gpu-dry-run.json").read_text()) == result


def test_without_a_gpu_it_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(__main__, "devices", lambda: ())
    assert __main__.main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gpu: no NVIDIA GPU") and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        ("--contenders", "magic"),
        ("--contenders", ","),
        ("--subnets", "9@9"),
        ("--batches", "0"),
        ("--batches", "1,x"),
        ("--model", "nothing-of-that-name"),
        ("--model", "a", "--random-init", "tiny"),
        ("--random-init", "nothing"),
        ("--minutes", "0"),
        ("--threads", "0"),
    ],
)
def test_wrong_arguments_are_one_line(wrong, tmp_path, capsys):
    model = [] if "--model" in wrong or "--random-init" in wrong else ["--random-init", "tiny"]
    assert __main__.main(["--dry-run", "--output", str(tmp_path), "--work", str(tmp_path), *model, *wrong]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gpu: ") and len(said.splitlines()) == 1


def test_folders_that_cannot_be_made_are_said(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for option in ("--output", "--work"):
        folders = {"--output": tmp_path / "out", "--work": tmp_path / "work"} | {option: tmp_path / "file" / "in"}
        given = [str(part) for pair in folders.items() for part in pair]
        assert __main__.main(["--dry-run", "--random-init", "tiny", *given]) == 2
        assert option in capsys.readouterr().err
