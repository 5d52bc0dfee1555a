"""quality.json: sealed, of this checkpoint, without what a later build replaced; what a build does with it."""

import json
import shutil
import subprocess
import sys

import pytest

from anycost.errors import BundleError
from anycost.export.build import Plan, build
from anycost.export.figures import keep_quality
from anycost.runtime.bundle import open_bundle
from anycost.runtime.quality import (
    QUALITY_NAME,
    EngineQuality,
    FdParity,
    Interval,
    NetworkQuality,
    Pair,
    Quality,
    SubnetQuality,
    read,
    write,
)

PAIR = Pair(psnr_db=30.0, ssim=0.9, distance=0.1)


def interval(value: float) -> Interval:
    return Interval(value=value, low=value / 2, high=value * 2)


@pytest.fixture
def folder(small_bundle, tmp_path):
    return shutil.copytree(small_bundle, tmp_path / "bundle")


@pytest.fixture
def bundle(folder):
    return open_bundle(folder)


@pytest.fixture
def quality(bundle):
    parity = FdParity(difference=0.1, bound=0.2, passed=True)
    return Quality(
        images=10,
        psi=1.0,
        measure="FD-x",
        distance="d",
        source_sha256=bundle.generator.source_sha256,
        subnets={
            net.name: SubnetQuality(channels=net.channels, full=PAIR, fd_full=interval(1.0))
            for net in bundle.generator.subnets
        },
        engines={
            engine.name: EngineQuality(key=engine.key, own=PAIR, full=PAIR, fd_own=interval(0.0), parity=parity)
            for engine in bundle.manifest.engines
            if engine.network != "mapping"
        },
    )


def test_what_was_written_is_read_and_none_where_nothing_was(bundle, folder, quality):
    assert bundle.quality is None
    write(folder / QUALITY_NAME, quality)
    assert bundle.quality is None  # looked for once
    found = open_bundle(folder).quality
    assert found.model_dump(exclude={"sha256"}) == quality.model_dump(exclude={"sha256"})
    assert len(found.engines) == 2 and len(found.sha256) == 64


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace('"images": 10', '"images": 11'), "was changed"),
        (lambda text: text[:100], "cannot be read"),
        (lambda text: "[]", "not 'anycost-quality'"),
        (lambda text: text.replace('"format_version": 1', '"format_version": 2'), "upgrade anycost-runtime"),
        (lambda text: text.replace('"ssim": 0.9', '"ssim": "much"'), "damaged at subnets"),
        (lambda text: text.replace('"passed": true', '"passed": false'), "damaged at engines"),
        (lambda text: text.replace('"low": 0.5', '"low": 1.5'), "outside its interval"),
    ],
)
def test_a_damaged_file_is_refused_with_a_remedy(bundle, folder, quality, change, said):
    path = folder / QUALITY_NAME
    write(path, quality)
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    with pytest.raises(BundleError, match=said) as error:
        _ = bundle.quality
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert "measure again" in str(error.value) or "upgrade" in str(error.value)


def test_figures_of_another_checkpoint_are_refused(bundle, folder, quality):
    write(folder / QUALITY_NAME, quality.model_copy(update={"source_sha256": "0" * 64}))
    with pytest.raises(BundleError, match=r"another checkpoint.*anycost bench quality"):
        _ = bundle.quality


def test_what_a_later_build_replaced_is_left_out(bundle, quality):
    first, second = quality.subnets
    engines = dict(quality.engines)
    changed = next(iter(engines))
    engines[changed] = engines[changed].model_copy(update={"key": "0" * 64})
    engines["gone/onnxruntime"] = engines[changed]
    subnets = quality.subnets | {
        first: quality.subnets[first].model_copy(update={"channels": (1, 2, 3)}),
        second: quality.subnets[second].model_copy(update={"channels": None}),
        "gone": quality.subnets[first],
    }
    networks = {"encoder": NetworkQuality(kind="encoder", figures={"psnr_db": 3.0})}
    found = bundle.with_quality(
        quality.model_copy(update={"engines": engines, "subnets": subnets, "networks": networks})
    ).quality
    assert set(found.engines) == set(quality.engines) - {changed}
    assert set(found.subnets) == {second} and found.networks == {}
    assert bundle.quality is None


class TestBuild:
    def test_a_rebuild_of_the_same_leaves_it_and_of_another_checkpoint_removes_it(self, tiny_checkpoint, tmp_path):
        from anycost.weights.random_init import random_checkpoint

        def plan(checkpoint, **more):
            return Plan("b", [checkpoint.arch.subnet(16, 0.25)], ["onnxruntime"], **more)

        build(tiny_checkpoint, plan(tiny_checkpoint), tmp_path / "b")
        bundle = open_bundle(tmp_path / "b")
        path = tmp_path / "b" / QUALITY_NAME
        assert not path.exists()
        mine = Quality(
            images=10,
            psi=1.0,
            measure="FD-x",
            distance="d",
            source_sha256=bundle.generator.source_sha256,
            subnets={"0.25@16": SubnetQuality(full=PAIR, fd_full=interval(1.0))},
        )
        write(path, mine)
        before = path.read_bytes()
        # What the plan brings does not replace what was measured here.
        given = mine.model_copy(update={"images": 99})
        build(tiny_checkpoint, plan(tiny_checkpoint, quality=given), tmp_path / "b")
        assert path.read_bytes() == before and open_bundle(tmp_path / "b").quality.images == 10
        other = random_checkpoint("tiny", 1)
        build(other, plan(other, quality=given), tmp_path / "b")
        assert not path.exists() and open_bundle(tmp_path / "b").quality is None

    def test_given_figures_fill_in_what_is_missing(self, bundle, folder, quality):
        path = folder / QUALITY_NAME
        given = quality.model_copy(
            update={"subnets": quality.subnets | {"9@999": next(iter(quality.subnets.values()))}, "images": 99}
        )
        keep_quality(folder, bundle.manifest, given.model_copy(update={"source_sha256": "0" * 64}))
        assert not path.exists()
        keep_quality(folder, bundle.manifest, given)
        found = read(path)
        # Engines are of the machine that built them.
        assert set(found.subnets) == set(quality.subnets) and found.engines == {} and found.images == 99
        for mine in ({}, dict(list(quality.subnets.items())[:1])):
            write(path, quality.model_copy(update={"subnets": mine}))
            keep_quality(folder, bundle.manifest, given)
            assert read(path).images == 99
        write(path, quality)
        keep_quality(folder, bundle.manifest, given)
        assert read(path).images == 10
        path.write_text("damaged")
        keep_quality(folder, bundle.manifest, None)
        assert not path.exists()


def test_reading_it_needs_neither_pytorch_nor_numpy():
    code = "import sys, anycost.runtime.quality; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
