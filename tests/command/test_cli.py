import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image


def refused(result) -> str:
    code, out, err = result
    assert code == 2 and out == "" and len(err.strip().splitlines()) == 1 and err.startswith("anycost: ")
    return err


@pytest.mark.parametrize("command", ["build", "inspect", "verify", "profile", "generate", "explain"])
def test_help_shows_examples(anycost, command):
    code, out, _ = anycost(command, "--help")
    assert code == 0 and "Examples" in out and f"anycost {command}" in out


def test_the_way_from_build_to_images(anycost, tmp_path):
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    code, printed, err = anycost("build", "--random-init", "tiny", "-o", bundle, "--subnets", "0.25@16,1@32")
    assert code == 0 and "6 engines for 2 sub-networks" in printed and "building" in err
    assert anycost("verify", bundle)[0] == 0
    code, printed, _ = anycost("profile", bundle, "--json")
    assert code == 0 and len(json.loads(printed)["engines"]) == 4
    code, printed, err = anycost("explain", bundle, "--budget", "1000s", "--json")
    assert code == 0 and json.loads(printed)["chosen"].startswith("1@32/") and err == ""
    code, printed, _ = anycost("generate", bundle, "--seed", "0-2,7", "--budget", "1000s", "-o", out)
    assert code == 0 and "1@32" in printed
    assert sorted(path.name for path in out.iterdir()) == [f"seed{seed:04d}.png" for seed in (0, 1, 2, 7)]
    code, printed, _ = anycost(
        "generate", bundle, "--seed", "0-8", "--subnet", "0.25@16", "--sheet", "-o", out, "--json"
    )
    assert json.loads(printed)["files"] == [str(out / "sheet.png")]
    assert np.asarray(Image.open(out / "sheet.png")).shape == (48, 48, 3)
    code, printed, _ = anycost("inspect", bundle, "--json")
    assert code == 0 and json.loads(printed)["generator"]["architecture"]["resolution"] == 32
    assert "0.25@16/openvino" in anycost("inspect", bundle)[1]


def test_a_floor_of_quality_and_predictions_instead_of_measurements(anycost, tiny_bundle):
    code, printed, err = anycost("explain", tiny_bundle, "--budget", "1000s", "--no-measure", "--json")
    found = json.loads(printed)
    assert code == 0 and err == "" and found["chosen"].startswith("1@32/")
    assert all(row["predicted"]["p95_ms"] > 0 and row["measured"] is None for row in found["engines"])
    code, printed, _ = anycost("explain", tiny_bundle, "--max-distance", "0", "--max-resolution", "16")
    assert code == 0 and "distance <= 0" in printed and "nearest" in printed


def test_flexible_subnets_from_json(anycost, tmp_path):
    channels = tmp_path / "flexible.json"
    channels.write_text(
        json.dumps({"6M": {"channels": [32, 16, 24, 64, 8, 16, 8, 4], "res": 16, "dist": 0.1, "macs": 1}})
    )
    build = ("build", "--random-init", "tiny", "-o", tmp_path / "b", "--backend", "onnxruntime", "--channels", channels)
    assert anycost(*build)[0] == 0
    assert anycost("generate", tmp_path / "b", "--subnet", "6M", "-o", tmp_path / "o")[0] == 0
    for text in (
        "",
        "[]",
        "{}",
        '{"a": 1}',
        '{"a": {"channels": [1], "res": 16}}',
        '{"../a": {"channels": [9, 9, 9, 9, 9, 9], "res": 16}}',
    ):
        channels.write_text(text)
        code, _, err = anycost(*build)
        assert code == 2 and "Traceback" not in err and "flexible.json" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--budget", "0ms"), "0ms"),
        (("--budget", "-5ms"), "-5ms"),
        (("--budget", "soon"), "soon"),
        (("--memory", "0"), "positive"),
        (("--max-distance", "-1"), "from 0 on"),
        (("--max-distance", "near"), "a distance such as 25"),
        (("--seed", ""), "no seeds"),
        (("--seed", "0-999999999"), "1000000000"),
        (("--seed", "5-1"), "1-5"),
        (("--seed", "99999999999"), "99999999999"),
        (("--psi", "9"), "psi 9"),
        (("--psi", "nan"), "psi nan"),
        (("--batch", "0"), "batch 0"),
        (("--noise", "loud"), "loud"),
        (("--subnet", "3@64"), "0.25@16"),
        (("--backend", "abacus"), "abacus"),
        (("--min-resolution", "64"), "nearest"),
    ],
)
def test_bad_arguments_are_one_line(anycost, tiny_bundle, tmp_path, arguments, said):
    assert said in refused(anycost("generate", tiny_bundle, "-o", tmp_path / "out", *arguments))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("build", "nothing-of-that-name", "-o", "{tmp}/b"),
        ("build", "-o", "{tmp}/b"),
        ("build", "avatars"),
        ("build", "x", "--random-init", "tiny", "-o", "{tmp}/b"),
        ("build", "--random-init", "huge", "-o", "{tmp}/b"),
        ("build", "--random-init", "tiny", "-o", "{tmp}/b", "--subnets", "0.5@4096"),
        ("build", "--random-init", "tiny", "-o", "{tmp}/b", "--subnets", ","),
        ("build", "--random-init", "tiny", "-o", "{tmp}/b", "--backend", "abacus"),
        ("build", "--random-init", "tiny", "-o", "{tmp}/b", "--backend", ","),
        ("build", "--random-init", "tiny", "-o", "{tmp}/b", "--noise", "loud"),
        ("build", "{tmp}", "-o", "{tmp}/b"),
        ("inspect", "{tmp}/absent"),
        ("inspect", "{tmp}"),
        ("verify", "{tmp}"),
        ("profile", "{tmp}"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(anycost, tmp_path, arguments):
    code, _, err = anycost(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert code == 2 and "Traceback" not in err and err.strip().splitlines()[-1].startswith("anycost: ")
    assert not (tmp_path / "b").exists()


def test_an_output_folder_that_cannot_be_written(anycost, tiny_bundle, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in refused(anycost("generate", tiny_bundle, "-o", tmp_path / "file" / "out"))
    if os.path.isdir("/proc"):
        assert "/proc" in refused(anycost("generate", tiny_bundle, "-o", "/proc/out"))


def test_a_damaged_checkpoint_leaves_no_bundle(anycost, tmp_path):
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04 not whole")
    assert "a.pt" in refused(anycost("build", tmp_path / "a.pt", "-o", tmp_path / "b"))
    assert not (tmp_path / "b").exists()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arguments=st.lists(
        st.sampled_from(
            ["--seed", "--budget", "--memory", "--psi", "--batch", "--json", "--sheet", "--subnet", "0", "1-3", "5ms"]
        )
        | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8),
        max_size=6,
    )
)
def test_any_arguments_end_without_a_traceback(anycost, tiny_bundle, tmp_path, arguments):
    """Measured beforehand, so that a budget costs nothing; output goes to a folder of the test."""
    import anycost as package
    from anycost.runtime.profile import Measurement, Profile, store_profile

    runtime = package.open(tiny_bundle)
    figures = {
        e.name: Measurement(p50_ms=1, p95_ms=1, load_ms=1, memory_mb=1, runs=1) for e in runtime.bundle.manifest.engines
    }
    store_profile(
        runtime.bundle,
        Profile(device="", threads=runtime.threads, bundle_sha256=runtime.bundle.manifest_sha256, engines=figures),
    )
    code, _, err = anycost("generate", tiny_bundle, *arguments, "-o", tmp_path / "out")
    assert code in (0, 2) and "Traceback" not in err
