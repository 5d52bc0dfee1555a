"""The inpainting recipe on a handful of pictures, and the file that it shipped."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from anycost.networks.context_encoder import ContextEncoder  # noqa: E402
from anycost.runtime.masks import box, central_box  # noqa: E402
from anycost.weights.checkpoint import read_any  # noqa: E402
from recipes.avatars import inpainting  # noqa: E402
from recipes.avatars.data import Pictures  # noqa: E402

EMBEDDED = ROOT / "weights/embedded/avatars-inpainting.safetensors"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Faces of three colours: a plain background, a disc on it, a smaller disc on that."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.RandomState(0)
    y, x = np.mgrid[:128, :128]
    distance = np.hypot(y - 64, x - 64)[..., None]
    for part, count in {"train": 12, "validation": 4}.items():
        colours = random.randint(0, 256, (3, count, 1, 1, 3))
        images = np.where(distance < 20, colours[0], np.where(distance < 50, colours[1], colours[2]))
        (folder / part).mkdir()
        np.save(folder / part / "images.npy", images.astype(np.uint8))
        np.save(folder / part / "labels.npy", np.zeros((count, 1), np.uint8))
    return folder


def weights_after(run, pictures, steps):
    while run.step < steps:
        run.train_step(pictures, steps=3, batch=2)
    return run.state()


def test_the_network_sees_what_the_runtime_shows_it(data, monkeypatch):
    """The inputs of a training step and of the runtime for the same picture and mask."""
    pictures = Pictures.load([data])
    run = inpainting.Run(features=4)
    seen = []
    run.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().float()))
    mask = box(128, 128, (10, 70, 40, 33))
    monkeypatch.setattr(inpainting, "mask_of", lambda *_: mask)
    rows = np.random.RandomState(1).randint(len(pictures), size=2)  # What step 0 draws.
    run.train_step(pictures, 1000, batch=2)

    class Spy(inpainting.Loaded):
        def run(self, part, inputs):
            seen.append(torch.from_numpy(inputs["image"]))
            return super().run(part, inputs)

    inpainting.inpaint(Spy(ContextEncoder(4).eval()), pictures.pixels(rows)[0], mask)
    assert torch.equal(seen[0][:1], seen[1])
    assert (seen[0][0, :, 70:103, 10:50] == 0).all()


def test_a_perfect_patch_fills_the_hole():
    """The target of training, given to the runtime as the network's answer, brings the picture back where it is smooth."""
    ramp = np.linspace(0, 255, 128)
    picture = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], 128.0), axis=-1).round().astype(np.uint8)
    mask = box(128, 128, (20, 30, 48, 80))
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    loaded = inpainting.Loaded(ContextEncoder(4))
    loaded.run = lambda part, inputs: {"patch": inpainting.cut(x, mask[None]).numpy()}
    filled = inpainting.inpaint(loaded, picture, mask)
    # Enlarging to 64 px and back bends a ramp at the hole's border by a pixel's rise, 2; rounding adds 1.
    assert np.abs(filled.astype(int) - picture)[mask].max() <= 3
    assert np.abs(filled.astype(int) - picture)[40:100, 28:60].max() <= 1


def test_training_lowers_the_loss(data, monkeypatch):
    """On one batch over and over, so that what is drawn does not matter."""
    draw = inpainting.drawn
    monkeypatch.setattr(
        inpainting, "drawn", lambda pictures, state, batch: draw(pictures, np.random.RandomState(1), batch)
    )
    pictures = Pictures.load([data])
    run = inpainting.Run(features=8)
    losses = [run.train_step(pictures, steps=1000, batch=4)["l1"] for _ in range(40)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(data, monkeypatch):
    monkeypatch.setattr(inpainting, "ADVERSARIAL_FROM", 0.5)
    pictures = Pictures.load([data])
    whole = weights_after(inpainting.Run(features=4), pictures, 3)
    first = inpainting.Run(features=4)
    weights_after(first, pictures, 1)
    # The last of three steps is adversarial: the discriminator and its optimizer go on as well.
    second = inpainting.Run(features=4)
    second.load(first.state())
    again = weights_after(second, pictures, 3)
    for network in ("network", "judge", "ema"):
        assert all(torch.equal(value, again[network][name]) for name, value in whole[network].items()), network
    start = inpainting.Run(features=4).state()["judge"]
    assert not torch.equal(start["layer5.weight"], again["judge"]["layer5.weight"])


def test_the_border_fill_is_the_mean_of_the_pixels_around():
    picture = np.random.RandomState(0).randint(0, 256, (128, 128, 3)).astype(np.uint8)
    mask = box(128, 128, (0, 50, 3, 2))  # At the left border: neighbours on three sides.
    ring = [picture[y, x] for y in range(49, 53) for x in range(4) if not mask[y, x]]
    assert len(ring) == 10
    filled = inpainting.border_fill(picture, mask)
    assert (filled[mask] == np.round(np.mean(ring, axis=0))).all()
    assert (filled[~mask] == picture[~mask]).all()


def test_figures_agree_with_scikit_image():
    random = np.random.RandomState(0)
    pictures = random.randint(0, 256, (3, 128, 128, 3)).astype(np.uint8)
    masks = np.stack([central_box(128, 128)] * 3)
    filled = np.where(masks[..., None], random.randint(0, 256, pictures.shape).astype(np.uint8), pictures)
    found = inpainting.measured(filled, pictures, masks)
    structure = [
        structural_similarity(a, b, channel_axis=-1, data_range=255) for a, b in zip(filled, pictures, strict=True)
    ]
    # Half of the last digit that is kept, and a little for the order of sums.
    assert found["ssim"] == pytest.approx(np.mean(structure), abs=6e-5)
    assert found["psnr_db"] == pytest.approx(peak_signal_noise_ratio(pictures, filled, data_range=255), abs=6e-3)
    error = np.abs(filled.astype(float) - pictures) / 255
    assert found["mae"] == pytest.approx(error.mean(), abs=6e-5)
    assert found["rmse"] == pytest.approx(np.sqrt((error**2).mean()), abs=6e-5)
    assert found["mae_in_hole"] == pytest.approx(error[:, 32:96, 32:96].mean(), abs=6e-5)


def test_ship_writes_what_reads_back(data, tmp_path, monkeypatch):
    pictures, held_out = Pictures.load([data]), Pictures.load([data], "validation")
    run = inpainting.Run(features=4)
    weights_after(run, pictures, 2)
    monkeypatch.setattr(inpainting, "SETTLING", 2)
    inpainting.ship(run, pictures, held_out, tmp_path, count=2)
    checkpoint = read_any(tmp_path / "avatars-inpainting.safetensors")
    assert checkpoint.network == "context-encoder" and checkpoint.arguments == {"features": 4}
    assert "Pablo Stanley" in checkpoint.metadata["credit"]
    trained = run.ema.state_dict()["dec5.0.weight"]
    # fp16 keeps 11 bits.
    assert torch.allclose(checkpoint.tensors["dec5.0.weight"].float(), trained, rtol=2**-11, atol=1e-7)
    with Image.open(tmp_path / "avatars-inpainting.png") as sheet:
        assert sheet.size == (4 * 128, 9 * 128)
    assert "| free form | border fill |" in (tmp_path / "avatars-inpainting.md").read_text()


def test_the_shipped_model_beats_its_baseline():
    """Of flat pictures only the colour is asked: a face that is one colour all over is filled with nearly that colour."""
    checkpoint = read_any(EMBEDDED)
    assert checkpoint.network == "context-encoder" and checkpoint.arguments == {"features": 16}
    loaded = inpainting.Loaded(checkpoint.module())
    with Image.open(EMBEDDED.with_suffix(".png")) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.shape == (9 * 128, 10 * 128, 3)
    # The third row of the sheet has originals, which no figure and no training counted.
    originals = pixels[256:384].reshape(128, 10, 128, 3).swapaxes(0, 1)
    masks = np.stack([inpainting.mask_of("central box", 0)] * 10)
    filled = np.stack([inpainting.inpaint(loaded, *pair) for pair in zip(originals, masks, strict=True)])
    flat = np.stack([inpainting.border_fill(*pair) for pair in zip(originals, masks, strict=True)])
    network, baseline = (inpainting.measured(each, originals, masks)["psnr_db"] for each in (filled, flat))
    assert network > baseline + 1
