"""The encoder's recipe on a handful of pictures and a small generator, and the file that it shipped."""

import json
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from anycost.networks.perceptual import PyramidDistance  # noqa: E402
from anycost.networks.resnet import AttributePredictor, Encoder  # noqa: E402
from anycost.networks.stylegan2 import Generator  # noqa: E402
from anycost.weights.checkpoint import read_any  # noqa: E402
from anycost.weights.save import save  # noqa: E402
from recipes.avatars import encoder, winner  # noqa: E402
from recipes.avatars.data import Blocks, Pictures  # noqa: E402

BLOCKS = Blocks.load(ROOT / "recipes/avatars/attributes.json")
EMBEDDED = ROOT / "weights/embedded"
RATIOS = (0.25, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """A network of a few thousand parameters, and a place of its own for what is shipped."""
    monkeypatch.setattr(encoder, "STAGES", ((1, 4), (1, 4)))
    (tmp_path / "embedded").mkdir()
    monkeypatch.setattr(encoder, "EMBEDDED", tmp_path / "embedded")
    torch.manual_seed(3)
    predictor = AttributePredictor(5, encoder.STAGES, encoder.SIZE).state_dict()
    save(
        tmp_path / "embedded/avatars-attributes.safetensors",
        {name: tensor for name, tensor in predictor.items() if tensor.is_floating_point()},
        {"network": "attributes", "arguments": json.dumps({"size": encoder.SIZE})},
    )


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    made = Generator(32, 0.03125, 16, 256).eval().requires_grad_(False)
    winner.build(made, BLOCKS)
    for name, parameter in made.named_parameters():
        # Else the noise, which is stored at random, would not count.
        if name.endswith("noise.weight"):
            parameter.fill_(0.1)
        if "to_rgb" in name and name.endswith("conv.weight"):
            # Images inside [-1, 1], where nothing is clamped.
            parameter.mul_(0.05)
    return made


@pytest.fixture(scope="module")
def model(generator, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "avatars.safetensors"
    save(path, generator.state_dict(), {"network": "stylegan2", "arguments": json.dumps(asdict(generator.arch))})
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures of one colour each, and labels of all attributes."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.RandomState(0)
    for part, count in {"train": 12, "validation": 9}.items():
        images = np.broadcast_to(random.randint(0, 256, (count, 1, 1, 3)), (count, 128, 128, 3))
        (folder / part).mkdir()
        np.save(folder / part / "images.npy", images.astype(np.uint8))
        labels = np.stack([random.randint(width, size=count) for width in BLOCKS.widths], axis=1)
        np.save(folder / part / "labels.npy", labels.astype(np.uint8))
    return folder


def run(model, data, out, steps, monkeypatch, warm=None):
    """A training that is stopped after ``steps`` with the learning rates of one of three."""

    class Stops(encoder.Track):
        left = steps

        @property
        def expired(self):
            self.left -= 1
            return self.left < 0

    args = Namespace(model=model, data=[data], out=out, warm=warm, steps=3, batch=4, minutes=float("inf"))
    with monkeypatch.context() as patch:
        patch.setattr(encoder, "Track", Stops)
        encoder.train(args)
    return args, torch.load(out / "checkpoint.pt", weights_only=True)


def test_answers_are_the_reference_of_every_subnetwork(generator):
    """The static form with stored noise against the paper's formulation."""
    answers = encoder.Answers(generator)
    assert answers.sides == (16, 32)
    w_plus = torch.rand(2, generator.arch.n_style, 256)
    for ratio in RATIOS:
        found = answers(w_plus, ratio)
        assert set(found) == {16, 32}
        for side, image in found.items():
            expected = generator.synthesis(w_plus, net=generator.subnet(side, ratio))
            # Two orders of the same float32 operations.
            assert (image - expected).abs().max() < 1e-4 * expected.abs().max()


def test_losses_by_hand(generator):
    answers, distance = encoder.Answers(generator), PyramidDistance()
    w = torch.rand(3, 256)

    class Given(Encoder):
        def forward(self, image):
            return self.code

    given = Given(generator.arch.n_style, 256, ((1, 4),), 128)
    with torch.no_grad():
        given.code = w[:, None].expand(-1, generator.arch.n_style, -1).clone()
        own = generator.synthesis(given.code)
        # Enlarged by repeating pixels, box averages bring it back.
        x = own.repeat_interleave(4, 2).repeat_interleave(4, 3)
        exact = encoder.losses(given, answers, distance, x, w, 1.0)
        # The right code and picture: nothing is lost at the full resolution.
        assert exact["code"] == 0 and exact["squared"] < 1e-6
        given.code = given.code + 0.5
        moved = encoder.losses(given, answers, distance, x, w, 0.5)
        expected = (generator.synthesis(given.code) - own).square().mean()
    assert torch.allclose(moved["squared"], expected, rtol=1e-3)
    assert torch.allclose(moved["code"], torch.tensor(0.25 * 256 / 10), rtol=1e-4)
    assert moved["narrow"] > 0 and moved["perceptual"] > exact["perceptual"]
    parts = moved["squared"] + moved["narrow"] + encoder.PERCEPTUAL * moved["perceptual"] / 2
    assert torch.allclose(moved["total"], parts + encoder.CODE * moved["code"])


def test_begins_with_the_predictors_trunk_and_a_last_layer_fitted_to_known_codes(generator, data, monkeypatch):
    monkeypatch.setattr(encoder, "FITTED", 6)
    monkeypatch.setattr(encoder, "RIDGE", 1e-9)
    predictor = AttributePredictor(5, encoder.STAGES, encoder.SIZE).state_dict()
    network = Encoder(generator.arch.n_style, 256, encoder.STAGES, encoder.SIZE)
    pictures = Pictures.load([data])
    encoder.begin(network, predictor, generator, BLOCKS, pictures)
    assert torch.equal(network.conv1.weight, predictor["conv1.weight"])
    assert torch.equal(network.layer2[0].conv3.weight, predictor["layer2.0.conv3.weight"])
    with torch.no_grad():
        x, labels = pictures.batch(np.arange(6), encoder.SIZE)
        found = network(x)
        w = generator.mapping(BLOCKS.latents_for(labels, 256, torch.Generator().manual_seed(0)))
    assert all(torch.equal(found[:, 0], found[:, row]) for row in range(generator.arch.n_style))
    # Six different pictures, more features than that and hardly any ridge: the codes of another draw of z with the same
    # labels are met as well as they agree among themselves.
    apart = (w - w.mean(0)).square().mean()
    assert (found[:, 0] - w).square().mean() < 0.5 * apart


def test_a_step_learns_and_leaves_the_generator_alone(generator, model, data, tmp_path, monkeypatch):
    begun = run(model, data, tmp_path / "run", 0, monkeypatch)[1]["network"]
    values = run(model, data, tmp_path / "run", 1, monkeypatch)[1]
    assert values["step"] == 1
    # The mean of w is the generator's own and is not trained.
    assert torch.equal(values["network"]["mean_latent"], generator.mean_style()[0])
    moved = (values["network"]["conv1.weight"] - begun["conv1.weight"]).abs().max()
    # Adam's first step is at most the learning rate, here the first of 50 of the warm-up.
    assert 0 < moved <= 1.1 * encoder.RATE / 50


def test_a_stopped_run_goes_on_to_the_same_weights(model, data, tmp_path, monkeypatch):
    _, whole = run(model, data, tmp_path / "whole", 3, monkeypatch)
    run(model, data, tmp_path / "parts", 1, monkeypatch)
    _, parts = run(model, data, tmp_path / "parts", 3, monkeypatch)
    assert whole["step"] == parts["step"] == 3
    for name in ("network", "ema"):
        assert all(torch.equal(value, parts[name][key]) for key, value in whole[name].items())


def test_begins_from_an_earlier_generators_encoder(generator, model, data, tmp_path, monkeypatch):
    """Of a generator of the same styles: its weights, but the new one's mean of w."""
    _, first = run(model, data, tmp_path / "first", 2, monkeypatch)
    other = tmp_path / "other.safetensors"
    state = generator.state_dict()
    state["style.8.bias"] = state["style.8.bias"] + 50
    save(other, state, {"network": "stylegan2", "arguments": json.dumps(asdict(generator.arch))})
    _, second = run(other, data, tmp_path / "second", 0, monkeypatch, warm=tmp_path / "first")
    assert torch.equal(second["network"]["fc.weight"], first["ema"]["fc.weight"])
    assert not torch.allclose(second["ema"]["mean_latent"], first["ema"]["mean_latent"], atol=0.05)
    # One of fewer styles has a last layer of its own.
    lower = Generator(16, 0.03125, 16, 256)
    save(other, lower.state_dict(), {"network": "stylegan2", "arguments": json.dumps(asdict(lower.arch))})
    _, third = run(other, data, tmp_path / "third", 0, monkeypatch, warm=tmp_path / "first")
    assert torch.equal(third["network"]["conv1.weight"], first["ema"]["conv1.weight"])
    assert third["network"]["fc.weight"].shape == (6 * 256, 16)


def test_figures_by_an_independent_psnr(generator, data):
    answers, held = encoder.Answers(generator), Pictures.load([data], "validation")
    torch.manual_seed(1)
    network = Encoder(generator.arch.n_style, 256, ((1, 4),), 128)
    found = encoder.figures(network, answers, held, torch.rand(9, 256), 4)
    assert set(found) == {f"{ratio:g}@{side}" for ratio in RATIOS for side in (16, 32)}
    with torch.no_grad():
        code = network.eval()(held.batch(np.arange(4))[0])
        full = generator.synthesis(code).clamp(-1, 1)
        image = generator.synthesis(code, net=generator.subnet(16, 0.5)).clamp(-1, 1).numpy()
    # A picture of one colour is its own average; the full answer's averages are taken here by NumPy.
    targets = held.batch(np.arange(4))[0].numpy()[:, :, :16, :16]
    assert found["0.5@16"]["psnr"] == pytest.approx(peak_signal_noise_ratio(targets, image, data_range=2), abs=0.01)
    reduced = full.numpy().reshape(4, 3, 16, 2, 16, 2).mean((3, 5))
    assert full.abs().max() < 1
    agreement = peak_signal_noise_ratio(reduced, image, data_range=2)
    assert found["0.5@16"]["agreement"] == pytest.approx(agreement, abs=0.01)
    assert found["1@32"]["agreement"] > 60


def test_what_is_shipped_loads(model, data, tmp_path, monkeypatch, generator):
    args, values = run(model, data, tmp_path / "run", 1, monkeypatch)
    encoder.ship(args)
    target = tmp_path / "embedded" / "avatars-encoder.safetensors"
    found = read_any(target)
    assert found.network == "encoder" and found.labels == ()
    assert found.arguments == {"n_style": 8, "style_dim": 256, "stages": [(1, 4), (1, 4)], "size": 128}
    assert {tensor.dtype for tensor in found.tensors.values()} == {torch.float16}
    assert "Pablo Stanley" in found.metadata["credit"]
    network = found.module()
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 128, 128)).shape == (2, 8, 256)
    # float16 keeps 11 bits.
    assert torch.allclose(network.mean_latent, generator.mean_style()[0], rtol=1e-3, atol=1e-4)
    assert torch.allclose(network.fc.weight, values["ema"]["fc.weight"], rtol=1e-3, atol=1e-6)
    card = target.with_suffix(".md").read_text()
    assert all(f"| {ratio:g}@{side} |" in card for ratio in RATIOS for side in (16, 32)) and "1 steps" in card
    assert Image.open(target.with_suffix(".png")).size == (8 * 128, 4 * 128)


def test_shipping_needs_a_run(model, data, tmp_path):
    with pytest.raises(SystemExit, match="holds no checkpoint"):
        encoder.ship(Namespace(model=model, data=[data], out=tmp_path / "nothing", batch=4))


def test_the_shipped_encoder_finds_the_code_of_a_generated_face():
    """Its codes of generated pictures are nearer to the known code than any other picture's, and than the mean is."""
    found = read_any(EMBEDDED / "avatars-encoder.safetensors")
    generator = read_any(EMBEDDED / "avatars.safetensors").generator()
    assert found.network == "encoder" and found.arguments["size"] == 128
    assert (found.arguments["n_style"], found.arguments["style_dim"]) == (generator.arch.n_style, 256)
    assert (EMBEDDED / "avatars-encoder.safetensors").stat().st_size < 8e6
    network = found.module()
    z = torch.from_numpy(np.random.RandomState(3).standard_normal((12, 256))).float()
    with torch.no_grad():
        w = generator.mapping(z)
        images = encoder.shown(encoder.Answers(generator)(w[:, None].expand(-1, generator.arch.n_style, -1), 1.0))
        codes = network(images.clamp(-1, 1))
    apart = (codes.mean(1)[:, None] - w[None]).square().sum(2)
    assert (apart.argmin(1) == torch.arange(12)).all()
    assert (apart.diagonal() < (w - network.mean_latent).square().sum(1)).all()
