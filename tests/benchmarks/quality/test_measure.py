"""Measuring: figures against the paper's formulation, scipy and NumPy; the same by any processes; a worse engine fails."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from quality_bundles import DIM, build_small

from anycost.benchmarks.quality import measure as machinery
from anycost.benchmarks.quality.data import Pictures
from anycost.benchmarks.quality.features import avatar_features
from anycost.benchmarks.quality.measure import Settings, measure
from anycost.benchmarks.quality.pools import LocalPool, RayPool
from anycost.benchmarks.quality.sources import Source
from anycost.benchmarks.quality.tools import Tools
from anycost.errors import BackendError, InputError
from anycost.runtime.bundle import open_bundle
from anycost.weights.random_init import random_network

IMAGES = 24


@pytest.fixture(scope="module")
def bundle(small_bundle):
    return open_bundle(small_bundle)


@pytest.fixture(scope="module")
def settings(predictor_file):
    return {"images": IMAGES, "shard": 9, "tools": Tools(features=predictor_file), "path_pairs": 4, "rounds": 40}


@pytest.fixture(scope="module")
def measured(bundle, settings):
    return measure(bundle, Settings(**settings, stand_in=True), LocalPool(1, 1))


@pytest.fixture(scope="module")
def images(tiny_checkpoint):
    """By the paper's formulation: a function of the sub-network and the seeds."""
    generator = tiny_checkpoint.generator()

    @torch.no_grad()
    def made(net, seeds):
        z = np.stack([np.random.RandomState(seed).standard_normal(64) for seed in seeds]).astype(np.float32)
        w_plus = generator.mapping(torch.from_numpy(z))[:, None].expand(-1, 8, -1)
        floats = torch.cat([generator.synthesis(row[None], net=net) for row in w_plus])
        return (floats * 127.5 + 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()

    arch = tiny_checkpoint.arch
    small, full = made(arch.subnet(16, 0.25), range(IMAGES)), made(arch.full(), range(2 * IMAGES))
    return small, full[:IMAGES], full[IMAGES:]


def distance_by_scipy(a, b):
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(scipy.linalg.eigvals(first @ second).real.clip(0))
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(first) + np.trace(second) - 2 * roots.sum()


def test_figures_are_those_of_the_papers_formulation(measured, images, predictor_file):
    small, full, others = images
    net = measured.subnets["0.25@16"]
    enlarged = np.stack(
        [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)) for image in small]
    )
    errors = np.square(enlarged.astype(float) - full).mean(axis=(1, 2, 3))
    # Pillow rounds after each axis, PyTorch once.
    assert net.full.psnr_db == pytest.approx(np.mean(10 * np.log10(255**2 / errors)), abs=0.05)
    extract = avatar_features(predictor_file)
    features = [extract(x).astype(np.float64) for x in (small, full, others)]
    # A pixel in a thousand may be one level off.
    assert net.fd_full.value == pytest.approx(distance_by_scipy(features[0], features[1]), rel=1e-3)
    assert net.fd_data.value == pytest.approx(distance_by_scipy(features[0], features[2]), rel=1e-3)
    yes = [(extract.logits(x)[..., 1] - extract.logits(x)[..., 0]) for x in features[:2]]
    sure = np.abs(yes[1]) > np.log(4)
    assert sure.mean() > 0.5
    assert net.consistency == pytest.approx(((yes[0] > 0) == (yes[1] > 0))[sure].mean(), abs=1 / sure.sum())


def test_what_the_record_says(measured, bundle):
    assert measured.source_sha256 == bundle.generator.source_sha256
    assert measured.measure == "FD-small" and measured.images == IMAGES and measured.data_count == IMAGES
    assert "seeds 24 to 47" in measured.data and "stand in" in measured.data
    full = measured.subnets["1@32"]
    assert full.full.psnr_db == 100 and full.full.distance == 0 and full.consistency == 1
    assert full.fd_full.value == pytest.approx(0, abs=1e-9)
    assert {net.ppl is not None and net.ppl > 0 for net in measured.subnets.values()} == {True}
    assert list(measured.engines) == ["0.25@16/onnxruntime", "1@32/onnxruntime"]
    for name, engine in measured.engines.items():
        assert engine.key == next(e.key for e in bundle.manifest.engines if e.name == name)
        assert engine.own.psnr_db > 80 and engine.parity.passed and engine.parity.difference < 1e-4
        assert engine.fd_own.value < 1e-4


@pytest.mark.parametrize("pool", [LocalPool(2, 1), RayPool("local", 1, 1)], ids=["two processes", "ray"])
def test_the_figures_do_not_depend_on_who_measures(bundle, settings, measured, pool):
    """Bit for bit, at the same number of threads."""
    if isinstance(pool, RayPool):
        pytest.importorskip("ray")
    assert measure(bundle, Settings(**settings, stand_in=True), pool) == measured


def test_nor_on_the_size_of_a_shard_beyond_rounding(bundle, settings, measured):
    other = measure(bundle, Settings(**(settings | {"shard": 24, "path_pairs": 0}), stand_in=True), LocalPool(1, 1))
    for name, net in measured.subnets.items():
        # Other batches differ in the last bits of float32, which turn a pixel here and there by a level.
        assert other.subnets[name].full.psnr_db == pytest.approx(net.full.psnr_db, abs=1e-3)
        assert other.subnets[name].fd_full.value == pytest.approx(net.fd_full.value, rel=1e-3, abs=1e-6)


def test_without_data_there_is_no_distance_to_data(bundle, settings):
    found = measure(bundle, Settings(**(settings | {"path_pairs": 0})), LocalPool(1, 1))
    assert found.data == "" and found.data_count == 0
    assert all(net.fd_data is None and net.ppl is None for net in found.subnets.values())
    assert all(engine.fd_data is None and engine.parity is None for engine in found.engines.values())


@pytest.mark.parametrize("name", ["0.25@16/onnxruntime", "1@32/onnxruntime"])
def test_an_engine_whose_images_are_darker_fails(bundle, settings, monkeypatch, name):
    original = Source.engine
    monkeypatch.setattr(Source, "engine", lambda self, one, w: original(self, one, w) // (2 if one == name else 1))
    found = measure(bundle, Settings(**(settings | {"path_pairs": 0}), stand_in=True), LocalPool(1, 1))
    assert {key for key, engine in found.engines.items() if not engine.parity.passed} == {name}
    assert found.engines[name].parity.difference > found.engines[name].parity.bound


def test_the_embedded_pictures_are_for_the_embedded_generator_alone(bundle, settings, monkeypatch):
    features = np.random.RandomState(0).standard_normal((50, DIM)).astype(np.float32)
    monkeypatch.setattr(machinery, "embedded_data", lambda extract: features)
    monkeypatch.setattr(machinery, "embedded", lambda name: settings["tools"].features)
    mine = settings["tools"].features
    monkeypatch.setattr(Tools, "extractor", lambda self: avatar_features(mine))
    few = settings | {"path_pairs": 0, "images": 2, "tools": Tools(), "engines": False}
    assert measure(bundle, Settings(**few)).data == ""
    monkeypatch.setattr(machinery, "_embedded_generator", lambda: bundle.generator.source_sha256)
    found = measure(bundle, Settings(**few))
    assert found.measure == "FD-avatar" and found.data_count == 50 and "embedded" in found.data
    # Its pictures are known by the embedded network's features only.
    assert measure(bundle, Settings(**(few | {"tools": Tools(features=mine)}))).data == ""


class TestNetworks:
    @pytest.fixture(scope="class")
    def everything(self, tmp_path_factory, tiny_checkpoint):
        roses = {"size": 64, "num_down": 2, "latent_dim": 6, "n_mlp": 3, "n_res": 2}
        roses["channels"] = {4: 24, 8: 20, 16: 16, 32: 12, 64: 8}
        networks = {
            "encoder": random_network("encoder", n_style=8, style_dim=64, stages=[(1, 8)], size=32),
            "roses": random_network("gans-n-roses", **roses),
            "fill": random_network("context-encoder", features=4),
            "digits": random_network("mlp-gan", nz=64),
        }
        return open_bundle(build_small(tmp_path_factory.mktemp("all") / "bundle", tiny_checkpoint, networks))

    @pytest.fixture(autouse=True)
    def _few(self, monkeypatch):
        for name, count in {"FILLED": 2, "ENCODED": 5, "TRANSLATED": 2, "STYLES": 4}.items():
            monkeypatch.setattr(machinery.networks, name, count)

    def test_on_generated_images_and_on_data(self, everything, settings, tmp_path):
        few = settings | {"images": 4, "path_pairs": 0, "engines": False}
        found = measure(everything, Settings(**few)).networks
        assert set(found) == {"encoder", "roses", "fill"}
        counts = {name: network.figures["generated pictures"] for name, network in found.items()}
        assert counts == {"encoder": 5, "roses": 2, "fill": 2}
        assert {"central.psnr_db", "free form.rmse", "random.border mean.ssim"} <= set(found["fill"].figures)
        assert found["roses"].figures["diversity"] > 0 and "DFD-small" not in found["roses"].figures
        # The encoder is random: what it makes of an image is far from it, and the figures are of that.
        assert found["encoder"].figures["psnr_db"] < 30 and 0 <= found["encoder"].figures["consistency"] <= 1
        pictures = np.random.RandomState(0).randint(0, 256, (6, 40, 40, 3)).astype(np.uint8)
        np.save(tmp_path / "images.npy", pictures)
        found = measure(everything, Settings(**few, data=tmp_path, target=tmp_path))
        assert found.data_count == 6 and found.networks["roses"].figures["DFD-small"] > 0
        counts = {name: network.figures["pictures"] for name, network in found.networks.items()}
        assert counts == {"encoder": 5, "roses": 2, "fill": 2}

    def test_a_bundle_without_generator(self, everything, settings, tmp_path):
        def alone(name):
            held = [record for record in everything.manifest.networks if record.name == name]
            return replace(
                everything, manifest=everything.manifest.model_copy(update={"generator": None, "networks": held})
            )

        few = Settings(**settings)
        with pytest.raises(InputError, match=r"no generator to make pictures with.*--data"):
            measure(alone("fill"), few)
        np.save(tmp_path / "images.npy", np.random.RandomState(0).randint(0, 256, (6, 40, 40, 3)).astype(np.uint8))
        found = measure(alone("fill"), Settings(**settings, data=tmp_path / "images.npy"))
        assert found.subnets == {} and list(found.networks) == ["fill"] and found.measure == ""
        with pytest.raises(InputError, match="nothing that there is a measure for: it has mlp-gan"):
            measure(alone("digits"), few)


class TestData:
    def test_a_folder_of_files_is_the_same_as_an_array(self, predictor_file, tmp_path, monkeypatch):
        pictures = np.random.RandomState(0).randint(0, 256, (5, 24, 24, 3)).astype(np.uint8)
        for folder in ("files/deep", "array/validation"):
            (tmp_path / folder).mkdir(parents=True)
        for i, picture in enumerate(pictures):
            Image.fromarray(picture).save(tmp_path / f"files/{'deep/' if i > 2 else ''}{i}.png")
        np.save(tmp_path / "array/validation/images.npy", pictures)
        extract = avatar_features(predictor_file)
        found = {name: Pictures.open(tmp_path / name) for name in ("files", "array")}
        features = {name: some.features(extract, tmp_path / "work") for name, some in found.items()}
        # By name: those of the folder "deep" come after the files.
        np.testing.assert_allclose(features["files"], features["array"], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found["array"].sample(3, 24), pictures[[0, 2, 4]])
        assert len(list((tmp_path / "work").iterdir())) == 2
        np.testing.assert_array_equal(found["files"].features(extract, tmp_path / "work"), features["files"])
        # What is kept is taken, unless a bit of it was turned.
        monkeypatch.setattr(type(extract), "__call__", lambda self, images: np.full((len(images), DIM), 7, np.float32))
        np.testing.assert_array_equal(found["files"].features(extract, tmp_path / "work"), features["files"])
        for kept in (tmp_path / "work").iterdir():
            whole = bytearray(kept.read_bytes())
            whole[len(whole) // 2] ^= 1
            kept.write_bytes(whole)
        assert (found["files"].features(extract, tmp_path / "work") == 7).all()

    def test_the_central_square_is_taken_and_sizes_may_differ(self, predictor_file, tmp_path):
        wide = np.zeros((24, 40, 3), np.uint8)
        wide[:, 8:32] = 200
        Image.fromarray(wide).save(tmp_path / "a.png")
        Image.fromarray(np.full((24, 24, 3), 200, np.uint8)).save(tmp_path / "b.png")
        Image.fromarray(np.full((50, 30, 3), 200, np.uint8)).save(tmp_path / "c.jpg", quality=100)
        found = Pictures.open(tmp_path).features(avatar_features(predictor_file), tmp_path / "work")
        np.testing.assert_allclose(found[1:], found[[0, 0]], rtol=1e-4, atol=1e-5)

    def test_what_cannot_be_used_is_named(self, predictor_file, tmp_path):
        with pytest.raises(InputError, match="nowhere is not a folder"):
            Pictures.open(tmp_path / "nowhere")
        with pytest.raises(InputError, match="holds 0 pictures"):
            Pictures.open(tmp_path)
        for name in "ab":
            (tmp_path / f"{name}.png").write_bytes(b"no picture")
        with pytest.raises(InputError, match=r"a\.png"):
            Pictures.open(tmp_path).features(avatar_features(predictor_file), tmp_path / "work")
        np.save(tmp_path / "images.npy", np.zeros((3, 8, 8), np.uint8))
        with pytest.raises(InputError, match="uint8"):
            Pictures.open(tmp_path)


def test_settings_out_of_range_are_refused(predictor_file):
    for values, said in (({"images": 1}, "images 1"), ({"psi": 9.0}, "psi 9"), ({"first_seed": -1}, "first seed -1")):
        with pytest.raises(InputError, match=said):
            Settings(**values)
    with pytest.raises(InputError, match="one network"):
        Tools(features=predictor_file, fid=predictor_file)


def test_without_ray_the_remedy_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendError, match=r"anycost-runtime\[ray\]"):
        list(RayPool("local").run(abs, [1]))
