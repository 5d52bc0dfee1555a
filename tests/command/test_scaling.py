import json
import subprocess
import sys


def test_export_triton(anycost, small_bundle, tmp_path):
    folder = tmp_path / "repo"
    code, out, _ = anycost("export-triton", small_bundle, "-o", folder, "--max-batch", 4, "--threads", 2)
    assert code == 0 and "3 engines, 2 steps between them, 2 ensembles" in out
    assert "left out: ensembles for edits" in out
    assert (folder / "generate_1_at_32" / "config.pbtxt").is_file()
    code, out, _ = anycost("export-triton", small_bundle, "-o", folder, "--json")
    found = json.loads(out)
    assert found["models"]["1_at_32"] == {"kind": "engine", "engine": "1@32/onnxruntime"}


def test_mistakes_are_one_line(anycost, small_bundle, tmp_path):
    code, _, err = anycost("export-triton", small_bundle)
    assert code == 2 and err == "anycost: no output folder was given: add -o FOLDER\n"
    code, _, err = anycost("export-triton", small_bundle, "-o", tmp_path / "repo", "--delay-us", -1)
    assert code == 2 and err.count("\n") == 1 and "delay-us -1 is outside" in err


def test_what_is_for_a_cluster_needs_one(anycost, small_bundle):
    code, _, err = anycost("serve", small_bundle, "--replicas", "2")
    assert code == 2 and err.count("\n") == 1 and "are for --ray" in err
    code, _, err = anycost("serve", small_bundle, "--ray", "--replicas", "3:1")
    assert code == 2 and err == "anycost: replicas 3:1 do not rise within 1..1000\n"


def test_it_needs_no_pytorch(small_bundle, tmp_path):
    script = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['anycost', 'export-triton', *sys.argv[1:]]\n"
        "from anycost.cli import main; main()"
    )
    command = [sys.executable, "-c", script, small_bundle, "-o", tmp_path / "repo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
