import json

from anycost.benchmarks import footprint
from anycost.runtime.bundle import open_bundle


def test_every_byte_is_counted_once(tiny_bundle, tmp_path, capsys):
    assert footprint.main([str(tiny_bundle), "-o", str(tmp_path), "--threads", "1"]) == 0
    found = json.loads((tmp_path / "footprint.json").read_text())
    disk = found["disk"]
    parts = disk["weights"] + disk["references"] + disk["others"] + sum(v["bytes"] for v in disk["variants"].values())
    files = [
        path for path in tiny_bundle.rglob("*") if path.is_file() and path.name not in ("manifest.json", "engine.json")
    ]
    notes = sum(path.stat().st_size for path in tiny_bundle.rglob("engine.json"))
    assert parts == disk["total"] == sum(path.stat().st_size for path in files) + notes
    tensors = open_bundle(tiny_bundle).tensors("weights/generator.safetensors")
    assert disk["full_half"] == 2 * sum(tensor.size for tensor in tensors.values())
    # A process with NumPy and a runtime in it holds tens of megabytes; more engines hold more.
    for variant in ("onnxruntime", "openvino"):
        assert 30 < found["memory"][variant]["one"] < found["memory"][variant]["all"] < 2000
    assert "times the full generator's weights" in capsys.readouterr().out


def test_a_folder_that_is_no_bundle_is_one_line(tmp_path, capsys):
    assert footprint.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("footprint: ")
