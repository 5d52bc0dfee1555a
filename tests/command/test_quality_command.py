"""bench quality and verify --quality as a shell sees them."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anycost.benchmarks.quality.sources import Source
from anycost.runtime.bundle import open_bundle

PICTURES = Path(__file__).parents[2] / "weights" / "embedded"  # cards and sheets, which are only counted
FEW = ("--images", 24, "--processes", 1, "--threads", 1)


@pytest.fixture
def folder(small_bundle, tmp_path):
    return shutil.copytree(small_bundle, tmp_path / "bundle")


@pytest.fixture
def features(predictor_file):
    return ("--features", predictor_file)


def refused(result) -> str:
    code, out, err = result
    assert code == 2 and out == "" and len(err.strip().splitlines()) == 1 and err.startswith("anycost: ")
    return err


def test_help_shows_examples_and_that_fd_is_not_fid(anycost):
    code, out, _ = anycost("bench", "quality", "--help")
    assert code == 0 and "Examples" in out and "anycost bench quality" in out and "--ray" in out
    assert "quality" in anycost("bench")[1]


def test_measured_stored_reported_and_ranked_by(anycost, folder, features, tmp_path):
    report = tmp_path / "report"
    code, out, err = anycost(
        "bench", "quality", folder, *FEW, *features, "--pairs", 4, "-o", report, "--budget", "1000s"
    )
    assert code == 0 and "FD-small" in out and "stored in" in out and "measuring quality" in err
    assert "FID" not in out
    found = open_bundle(folder).quality
    assert set(found.subnets) == {"0.25@16", "1@32"} and len(found.engines) == 2 and found.images == 24
    assert sorted(path.name for path in report.iterdir()) == [
        "pareto.png",
        "quality.html",
        "quality.json",
        "quality.md",
        "sheet.png",
    ]
    assert (report / "quality.json").read_bytes() == (folder / "quality.json").read_bytes()
    assert Image.open(report / "pareto.png").width == 1200
    assert (
        "0.25@16" in (report / "quality.md").read_text() and "data:image/png" in (report / "quality.html").read_text()
    )
    out = anycost("explain", folder)[1]
    assert "smallest FD-small to the full network" in out and "FD-small 0" in out
    # All of the bundle is still what its manifest says.
    assert anycost("verify", folder)[0] == 0


def test_json_for_machines_and_nothing_stored(anycost, folder, features, tmp_path):
    pictures = np.random.RandomState(0).randint(0, 256, (9, 32, 32, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", pictures)
    more = ("--no-ppl", "--no-store", "--data", tmp_path, "--work", tmp_path / "work", "--json")
    code, out, err = anycost("bench", "quality", folder, *FEW, *features, *more)
    found = json.loads(out)
    assert code == 0 and err == "" and found["data_count"] == 9 and str(tmp_path) in found["data"]
    assert found["subnets"]["0.25@16"]["ppl"] is None and found["engines"]["1@32/onnxruntime"]["parity"]["passed"]
    assert not (folder / "quality.json").exists() and len(found["sha256"]) == 64
    assert sorted(path.name[:5] for path in (tmp_path / "work").iterdir()) == ["data-", "shard"]


def test_verify_quality_passes(anycost, folder, features):
    code, out, _ = anycost("verify", folder, "--quality", *FEW, *features)
    assert code == 0 and "FD-small engine" in out and "seeds 24 to 47, which stand in for data" in out
    assert not (folder / "quality.json").exists()


def test_verify_quality_finds_a_worse_engine(anycost, folder, features, monkeypatch):
    original = Source.engine
    monkeypatch.setattr(
        Source, "engine", lambda self, name, w: original(self, name, w) // (1 + name.startswith("1@32"))
    )
    code, out, err = anycost("verify", folder, "--quality", *FEW, *features)
    assert code == 2 and err.splitlines()[-1].startswith("anycost: 1 engines") and "1@32/onnxruntime" in err
    assert len([line for line in out.splitlines() if line.rstrip().endswith("failed")]) == 1
    code, out, err = anycost("verify", folder, "--quality", *FEW, *features, "--json")
    found = json.loads(out)
    assert code == 2 and not found["passed"] and all(row["passed"] for row in found["engines"])
    assert [row["passed"] for row in found["quality"]["engines"]] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("verify", "--images", 20), "--images means nothing without --quality"),
        (("verify", "--ray", "local"), "--ray means nothing without --quality"),
        (("bench", "quality", "--resize", "clean-fid"), "--resize is the way"),
        (("bench", "quality", "--fid", "nowhere.pth"), "nowhere.pth is not a file"),
        (("bench", "quality", "--lpips", "a.pth", "b.pth"), "a.pth is not a file"),
        (("bench", "quality", "--psi", 9), "psi 9"),
        (("bench", "quality", "--data", "nowhere"), "nowhere is not a folder"),
        (("bench", "quality", "--ray", "1.2.3.4:5", "--processes", 3), "leave it out with --ray"),
        (("bench", "quality", "--budget", "soon"), "soon"),
        (("bench", "quality", "--no-ppl", "--pairs", 9), "--pairs are of the path lengths"),
        (("bench", "quality", "--target", "nowhere"), "nowhere is not a folder"),
        (("bench", "quality", "--target", PICTURES), "no translator in many styles"),
        (("bench", "quality", "-o", __file__ + "/report"), "report cannot be written"),
    ],
)
def test_what_means_nothing_is_refused_at_once(anycost, small_bundle, predictor_file, arguments, said):
    count = 2 if arguments[0] == "bench" else 1
    more = ("--features", predictor_file) if count == 2 and "--fid" not in arguments else ()
    assert said in refused(anycost(*arguments[:count], small_bundle, *arguments[count:], *more))


def test_an_interrupt_says_what_is_kept_and_the_same_command_goes_on(anycost, folder, features, tmp_path, monkeypatch):
    from anycost.benchmarks.quality import shards

    command = ("bench", "quality", folder, *FEW, *features, "--no-ppl", "--no-store")
    monkeypatch.setenv("ANYCOST_CACHE", str(tmp_path / "cache"))
    original, done = shards.perform, []

    def interrupted(task):
        raise KeyboardInterrupt

    def counted(task):
        done.append(str(task))
        return original(task)

    monkeypatch.setattr(shards, "perform", interrupted)
    code, out, err = anycost(*command, "--json")
    assert code == 130 and out == "" and err == "anycost: stopped; no part was finished yet\n"
    monkeypatch.setattr(shards, "perform", counted)
    with monkeypatch.context() as patch:
        patch.setattr("anycost.benchmarks.quality.reduce.figures", interrupted)
        code, out, err = anycost(*command)
    kept = next((tmp_path / "cache").rglob("shard-000000.npz"))
    assert code == 130 and out == "" and len(done) == 1 and "Traceback" not in err
    assert err.splitlines()[-1] == (
        f"anycost: stopped; finished parts (1) are kept in {kept.parent}, and the same command goes on from there"
    )
    assert anycost(*command)[0] == 0 and len(done) == 1


@pytest.mark.parametrize("package", ["torch", "torchmetrics"])
def test_a_missing_package_is_named_with_the_remedy(anycost, small_bundle, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    err = refused(anycost("bench", "quality", small_bundle))
    assert package in err and "anycost-runtime[export,bench]" in err
    code, _, err = anycost("verify", small_bundle, "--quality")
    assert code == 2 and package in err.splitlines()[-1] and "anycost-runtime[export,bench]" in err


def test_the_embedded_models_figures_go_into_its_bundle(anycost, small_bundle, tmp_path, monkeypatch):
    """By a stand-in for the embedded model: the tiny generator under its name."""
    from anycost.building import BuildArguments, _quality
    from anycost.runtime.quality import Interval, Pair, Quality, SubnetQuality, write
    from anycost.weights import catalogue

    assert catalogue.quality_of("tiny") is None
    exact = Interval(value=1.0, low=1.0, high=1.0)
    net = SubnetQuality(full=Pair(psnr_db=9, ssim=0.5, distance=0.2), fd_full=exact)
    given = Quality(images=5, psi=1, measure="FD-x", distance="d", source_sha256="0" * 64, subnets={"1@32": net})
    write(tmp_path / "avatars.quality.json", given)
    monkeypatch.setattr(catalogue, "files", lambda package: tmp_path)
    monkeypatch.setattr(catalogue, "as_file", lambda path: _Opened(path))
    assert _quality(BuildArguments(["avatars"])).images == 5
    assert _quality(BuildArguments(["other.pt"])) is None


class _Opened:
    def __init__(self, path):
        self.path = path

    def __enter__(self):
        return self.path

    def __exit__(self, *_):
        pass
