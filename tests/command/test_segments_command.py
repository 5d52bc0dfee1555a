import json


def test_build_inspect_explain_and_verify_segments(anycost, tmp_path):
    folder = tmp_path / "b"
    options = ["--subnets", "1@8,1@16", "--backend", "onnxruntime", "--segments", "--json"]
    code, out, _ = anycost("build", "--random-init", "tiny", "-o", folder, *options)
    assert code == 0 and json.loads(out)["engines"][-2:] == ["1@4-8/onnxruntime", "1@8-16/onnxruntime"]
    shown = json.loads(anycost("inspect", folder, "--json")[1])
    assert [segment["name"] for segment in shown["generator"]["segments"]] == ["1@4-8", "1@8-16"]
    last = shown["engines"][-1]
    assert last["engine"] == "1@8-16/onnxruntime" and last["below"] == "1@8" and last["parity"]["psnr_db"] > 100
    assert "segments to 1@16/onnxruntime (8, 16 px): not measured here" in anycost("inspect", folder)[1]
    (line,) = json.loads(anycost("explain", folder, "--json")[1])["segments"]
    assert line.startswith("segments to 1@16/onnxruntime") and line in anycost("explain", folder)[1]
    code, out, _ = anycost("verify", folder)
    assert code == 0 and "1@8-16/onnxruntime" in out


def test_segments_that_cannot_be_are_one_line(anycost, tmp_path):
    build = ("build", "--random-init", "tiny", "-o", tmp_path / "b", "--segments")
    code, _, err = anycost(*build, "--subnets", "1@16", "--json")
    assert code == 2 and "two or more resolutions (here: 16)" in err and err.count("\n") == 1
