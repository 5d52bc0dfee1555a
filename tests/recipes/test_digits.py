"""The digits recipe on a few digits, and the files that it shipped."""

import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from anycost.weights.checkpoint import read_any  # noqa: E402
from recipes.digits import gans, judge, ship  # noqa: E402
from recipes.digits.data import Digits, resized  # noqa: E402
from recipes.track import Track  # noqa: E402

RECIPE = ROOT / "recipes/digits"
SHAPES = {"dcgan": (1, 64, 64), "mlp": (1, 28, 28)}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten shapes that a classifier can tell apart: a bar at a height of its own for every class."""
    folder = tmp_path_factory.mktemp("digits")
    random = np.random.RandomState(0)
    for part, count in {"train": 120, "validation": 70}.items():
        labels = (np.arange(count) % 10).astype(np.uint8)
        digits = random.randint(0, 40, (count, 28, 28)).astype(np.uint8)
        for digit, label in zip(digits, labels, strict=True):
            digit[4 + 2 * label : 6 + 2 * label, 5:23] = 255
        (folder / part).mkdir()
        np.save(folder / part / "digits.npy", digits)
        np.save(folder / part / "labels.npy", labels)
    return folder


def weights_after(run, digits, steps):
    while run.step < steps:
        run.pace(run.step / steps)
        run.train_step(digits)
    return run.state()


@pytest.fixture
def small(monkeypatch):
    """Both kinds with batches of four, and batch-norm statistics of fewer samples."""
    monkeypatch.setattr(gans, "SETTLING", 2)
    for kind, setting in gans.SETTINGS.items():
        monkeypatch.setitem(gans.SETTINGS, kind, gans.Setting(**(vars(setting) | {"batch": 4})))


def test_digits_are_read_and_enlarged(data):
    digits = Digits.load(data, side=64)
    assert digits.images.shape == (120, 1, 64, 64) and digits.labels[:12].tolist() == [*range(10), 0, 1]
    assert digits.images.min() >= -1 and digits.images.max() == 1
    # An enlarged picture made smaller again is the first one, a little blurred: its mean stays within a part in a hundred.
    again = resized(digits.images, 28)
    assert torch.allclose(again.mean((2, 3)), Digits.load(data).images.mean((2, 3)), atol=0.01)


def test_a_folder_without_digits_says_what_to_do(tmp_path):
    with pytest.raises(SystemExit, match=r"export them with node recipes/digits/export\.mjs"):
        Digits.load(tmp_path)


@pytest.mark.parametrize("kind", SHAPES)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(kind, data, small):
    setting = gans.SETTINGS[kind]
    digits = Digits.load(data, side=setting.side)
    whole = weights_after(gans.Run(setting), digits, 2)
    first = gans.Run(setting)
    first.pace(0)
    first.train_step(digits)
    second = gans.Run(setting)
    second.load(first.state())
    again = weights_after(second, digits, 2)
    for network in ("generator", "discriminator", "ema"):
        assert all(torch.equal(value, again[network][name]) for name, value in whole[network].items()), network
    start = gans.Run(setting).state()["generator"]
    assert any(not torch.equal(value, again["generator"][name]) for name, value in start.items())


@pytest.mark.parametrize("kind", SHAPES)
def test_the_average_has_batch_norm_statistics_of_its_own(kind, data, small, monkeypatch):
    """Of the first such layer, whose input is linear in z, against the statistics of many z's."""
    monkeypatch.setattr(gans, "SETTLING", 8)
    setting = gans.SETTINGS[kind]
    run = gans.Run(setting)
    run.train_step(Digits.load(data, side=setting.side))
    network = run.settled()
    layers = list(network.modules())
    norm = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d))
    first = layers[2:norm]
    x = torch.randn(4000, 100, generator=torch.Generator().manual_seed(5))
    x = x[..., None, None] if kind == "dcgan" else x
    with torch.no_grad():
        for layer in first:
            x = layer(x)
    x = x.transpose(0, 1).flatten(1)
    # 2000 draws: a variance is known to about three parts in a hundred at one deviation.
    assert torch.allclose(layers[norm].running_var, x.var(1), rtol=0.2, atol=1e-4)
    assert (layers[norm].running_mean - x.mean(1)).abs().max() < 0.15 * x.std()
    assert not network.training and run.generator.training


def test_frechet_agrees_with_scipy():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(300, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    b = torch.randn(200, 8, generator=generator) @ torch.randn(8, 8, generator=generator) + 1
    x, y = a.double().numpy(), b.double().numpy()
    s_x, s_y = np.cov(x.T), np.cov(y.T)
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s_x + s_y - 2 * sqrtm(s_x @ s_y).real)
    assert judge.frechet(a, b) == pytest.approx(wanted, rel=1e-8)
    assert judge.frechet(a, a) == pytest.approx(0, abs=1e-8)


def test_entropy_counts_the_likeliest_classes():
    even = torch.eye(10).repeat(3, 1)
    assert judge.entropy_bits(even) == pytest.approx(math.log2(10))
    assert judge.entropy_bits(torch.eye(10)[[4, 4, 4]]) == 0
    assert judge.entropy_bits(torch.eye(10)[[1, 1, 2, 2]]) == pytest.approx(1)


def test_the_judge_learns_and_tells_digits_from_noise(data):
    digits, held_out = Digits.load(data), Digits.load(data, "validation")
    torch.manual_seed(0)
    untrained = judge.accuracy(judge.Judge().eval(), held_out)
    # Shifts of up to two pixels make neighbouring bars alike, so not all can be right.
    trained = judge.train(digits, epochs=60)
    assert judge.accuracy(trained, held_out) > max(0.4, untrained + 0.2)
    real = judge.figures(trained, digits.images[:70], held_out.images)
    noise = judge.figures(trained, torch.rand(70, 1, 28, 28) * 2 - 1, held_out.images)
    assert real["fd_digits"] < 0.2 * noise["fd_digits"]
    assert real["entropy_bits"] > 2


@pytest.mark.parametrize("kind", SHAPES)
def test_train_and_ship_from_the_command_line(kind, data, tmp_path, small, monkeypatch):
    gans.main([kind, "--data", str(data), "--out", str(tmp_path / "run"), "--steps", "1"])
    assert "fd_digits" in (tmp_path / "run/log.jsonl").read_text()
    run = gans.Run(gans.SETTINGS[kind])
    run.load(Track(tmp_path / "run").load())
    assert run.step == 1
    ship.ship(kind, data, run, tmp_path)
    checkpoint = read_any(tmp_path / f"digits-{kind}.safetensors")
    assert checkpoint.network == gans.SETTINGS[kind].network
    assert "Yann LeCun" in checkpoint.metadata["credit"]
    side = SHAPES[kind][1]
    with Image.open(tmp_path / f"digits-{kind}.png") as sheet:
        assert sheet.mode == "L" and sheet.width == 16 * max(side, 56)
    assert "| real, trained on |" in (tmp_path / f"digits-{kind}.md").read_text()


@pytest.mark.parametrize("kind", SHAPES)
def test_shipped_files_give_digits(kind):
    checkpoint = read_any(ROOT / f"weights/embedded/digits-{kind}.safetensors")
    network = checkpoint.module()
    images = gans.samples(network, 64, 100)
    assert images.shape == (64, *SHAPES[kind])
    assert images.min() >= -1 and images.max() <= 1
    # Real digits: 13 % of the area is ink on a background of exactly -1; the border of 2 pixels in 28 is empty.
    ink = (images > 0).float()
    assert 0.07 < ink.mean() < 0.22
    edge = images.shape[-1] // 14
    assert (images[..., :edge, :] > 0).float().mean() < 0.02
    assert images.std(0).mean() > 0.2  # and they differ


@pytest.mark.skipif(
    not (shutil.which("node") and (RECIPE / "node_modules").exists()),
    reason="needs Node.js and npm ci in recipes/digits",
)
def test_export_splits_all_digits_and_repeats_itself(tmp_path):
    def export(name, seed):
        out = tmp_path / name
        command = ["node", str(RECIPE / "export.mjs"), "--validation", "1500", "--seed", str(seed), "--out", str(out)]
        subprocess.run(command, check=True)
        return {f.relative_to(out).as_posix(): f.read_bytes() for f in out.rglob("*.npy")}

    first, again, other = export("a", 3), export("b", 3), export("c", 4)
    assert first == again and first["train/digits.npy"] != other["train/digits.npy"]
    train, held_out = Digits.load(tmp_path / "a"), Digits.load(tmp_path / "a", "validation")
    assert (len(train), len(held_out)) == (8500, 1500)
    assert torch.bincount(torch.cat([train.labels, held_out.labels])).min() > 800
    assert train.images.min() == -1 and train.images.max() == 1


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js")
def test_export_refuses_what_it_cannot_do(tmp_path):
    command = ["node", str(RECIPE / "export.mjs"), "--seed", "x", "--out", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2 and "--seed x is not a whole number" in found.stderr
