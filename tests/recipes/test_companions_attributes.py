"""The attribute predictor's recipe on a handful of pictures, and the file that it shipped."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from anycost.weights.checkpoint import read_any  # noqa: E402
from recipes.avatars import attributes  # noqa: E402
from recipes.avatars.attribute_names import GROUPS, Questions  # noqa: E402
from recipes.avatars.data import Pictures  # noqa: E402

FILE = json.loads((ROOT / "recipes/avatars/attributes.json").read_text())["attributes"]
SLOTS = [attribute["slots"] for attribute in FILE]
QUESTIONS = Questions.load(ROOT / "recipes/avatars/attributes.json")
EMBEDDED = ROOT / "weights/embedded"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures of one colour, which is that of the label of the background."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.RandomState(0)
    for part, count in {"train": 12, "validation": 8}.items():
        labels = np.stack([random.randint(len(slots), size=count) for slots in SLOTS], axis=1)
        images = np.broadcast_to(50 * labels[:, -1, None, None, None], (count, 128, 128, 3))
        (folder / part).mkdir()
        np.save(folder / part / "images.npy", images.astype(np.uint8))
        np.save(folder / part / "labels.npy", labels.astype(np.uint8))
    (folder / "data.json").write_text('{"style": "plain", "size": 128, "seed": 0}')
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """A network of a few thousand parameters, and a place of its own for what is shipped."""
    monkeypatch.setattr(attributes, "STAGES", ((1, 4), (1, 4)))
    (tmp_path / "embedded").mkdir()
    monkeypatch.setattr(attributes, "EMBEDDED", tmp_path / "embedded")


def run(data, out, steps, minutes=float("inf")):
    """A training that ends after ``steps`` with the learning rates of one of three."""
    args = Namespace(data=[data], out=out, steps=3, batch=4, minutes=minutes)
    stopped = attributes.Track

    class Stops(stopped):
        left = steps

        @property
        def expired(self):
            self.left -= 1
            return self.left < 0

    attributes.Track = Stops
    try:
        attributes.train(args)
    finally:
        attributes.Track = stopped
    return args, torch.load(out / "checkpoint.pt", weights_only=True)


def test_names_are_many_and_different():
    assert len(set(QUESTIONS.names)) == len(QUESTIONS.names) == len(QUESTIONS)
    assert {"glasses", "sunglasses", "facial_hair", "hat", "smiling", "eyes_closed", "long_hair", "bald"} <= set(GROUPS)
    assert QUESTIONS.names[: len(GROUPS)] == list(GROUPS)
    assert {"mouth_smile", "hair_black", "hair_blonde", "background_blue"} <= set(QUESTIONS.names)
    # Colours have readable names: no code of six digits is left.
    assert not any(
        part in name
        for name in QUESTIONS.names
        for part in {code for s in SLOTS for code in s if len(code) == 6 and code[0].isdigit()}
    )
    for attribute, options in GROUPS.values():
        (slots,) = (a["slots"] for a in FILE if a["name"] == attribute)
        assert set(options) <= set(slots)


def test_answers_by_hand():
    """A bald man with sunglasses, no beard and a smile on blue; a woman with a bob, round glasses and closed eyes."""
    faces = (
        {
            "top": "bald",
            "accessories": "sunglasses",
            "facialHair": "none",
            "mouth": "smile",
            "backgroundColor": "b6e3f4",
        },
        {
            "top": "bob",
            "accessories": "round",
            "eyes": "closed",
            "mouth": "sad",
            "facialHair": "none",
            "hairColor": "d6b370",
        },
    )
    labels = torch.zeros(2, len(FILE), dtype=torch.long)
    for row, face in enumerate(faces):
        for i, attribute in enumerate(FILE):
            labels[row, i] = attribute["slots"].index(face.get(attribute["name"], attribute["slots"][0]))
    answers = QUESTIONS.answers(labels)
    assert answers.dtype == torch.int64 and answers.shape == (2, len(QUESTIONS))
    said = [dict(zip(QUESTIONS.names, row, strict=True)) for row in answers.tolist()]
    expected = {
        "glasses": (1, 1), "sunglasses": (1, 0), "facial_hair": (0, 0), "hat": (0, 0), "bald": (1, 0), "smiling": (1, 0),
        "long_hair": (0, 1), "mouth_smile": (1, 0), "background_blue": (1, 1), "hair_blonde": (0, 1),
    }  # fmt: skip
    assert {name: (said[0][name], said[1][name]) for name in expected} == expected
    assert said[1]["eyes_closed"] == 1


def test_every_slot_of_an_option_is_a_yes():
    """`none` fills five slots of the glasses: each is a no to all of them, and each other slot a yes to `glasses`."""
    column = [a["name"] for a in FILE].index("accessories")
    labels = torch.zeros(len(SLOTS[column]), len(FILE), dtype=torch.long)
    labels[:, column] = torch.arange(len(labels))
    found = QUESTIONS.answers(labels)[:, QUESTIONS.names.index("glasses")]
    assert found.tolist() == [int(slot != "none") for slot in SLOTS[column]]


def test_what_the_network_sees_is_the_same_picture():
    """Moved by up to 6 px and recoloured: the disc's colours stay apart, and batches differ by their generator alone."""
    y, x = np.mgrid[:128, :128]
    disc = torch.from_numpy(np.where(np.hypot(y - 64, x - 64) < 30, 0.8, -0.8)).float().expand(3, 3, 128, 128)
    found = [attributes.shuffled(disc, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    for image in (attributes.shuffled(disc, torch.Generator().manual_seed(seed)) for seed in range(12)):
        assert image.shape == disc.shape
        # 20 px inside and outside the edge: farther than the shift and a pixel of 16 px reach together.
        assert image[:, :, 60:68, 60:68].mean() - image[:, :, :8, :8].mean() > 1


def test_a_stopped_run_goes_on_to_the_same_weights(data, tmp_path):
    _, whole = run(data, tmp_path / "whole", 3)
    run(data, tmp_path / "parts", 1)
    _, parts = run(data, tmp_path / "parts", 3)
    assert whole["step"] == parts["step"] == 3
    assert all(torch.equal(value, parts["network"][name]) for name, value in whole["network"].items())
    # And a step does something.
    _, first = run(data, tmp_path / "first", 1)
    assert not torch.equal(first["network"]["fc.weight"], whole["network"]["fc.weight"])


def test_what_is_shipped_loads_with_its_labels(data, tmp_path):
    args, values = run(data, tmp_path / "run", 2)
    attributes.ship(args)
    target = tmp_path / "embedded" / "avatars-attributes.safetensors"
    found = read_any(target)
    assert found.network == "attributes" and list(found.labels) == QUESTIONS.names
    assert found.arguments == {"attributes": len(QUESTIONS), "stages": [(1, 4), (1, 4)], "size": 128}
    assert {tensor.dtype for tensor in found.tensors.values()} == {torch.float16}
    assert "Pablo Stanley" in found.metadata["credit"]
    network = found.module()
    held = Pictures.load([data], "validation")
    x, _ = held.batch(np.arange(len(held)))
    with torch.no_grad():
        expected = network.trunk(x).numpy()
    features = tmp_path / "embedded" / "avatars-features.safetensors"
    # Stored as float16, which keeps 11 bits.
    assert np.allclose(load_file(features)["features"], expected, rtol=1e-3, atol=1e-3)
    with safe_open(features, "np") as file:
        assert file.metadata()["network_sha256"] == found.sha256
    assert f"{values['step']} steps" in target.with_suffix(".md").read_text()


def test_shipping_needs_a_run(data, tmp_path):
    with pytest.raises(SystemExit, match="holds no checkpoint"):
        attributes.ship(Namespace(data=[data], out=tmp_path / "nothing", batch=4))


def test_balanced_accuracy_by_hand(data):
    """A network that says yes to everything: all yeses right and no no, so a half, also where yeses are few."""

    class Yes(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([0.0, 1.0]).expand(len(x), len(QUESTIONS), 2)

    held = Pictures.load([data], "validation")
    answers = QUESTIONS.answers(held.labels)
    found = attributes.accuracies(Yes(), held, QUESTIONS, 128)
    some = answers.any(0).numpy()
    assert np.allclose(found[some], 0.5) and np.allclose(found[~some], 0)


def test_the_shipped_network_tells_what_a_drawing_shows():
    """On the two colours that fill most of a picture: the labels, and the direction of no and yes, are as they say."""
    found = read_any(EMBEDDED / "avatars-attributes.safetensors")
    assert list(found.labels) == QUESTIONS.names and found.arguments["size"] == 128
    assert (EMBEDDED / "avatars-attributes.safetensors").stat().st_size < 2e6
    with safe_open(EMBEDDED / "avatars-features.safetensors", "np") as file:
        assert file.metadata()["network_sha256"] == found.sha256
        features = file.get_tensor("features")
    assert features.shape == (2000, 256) and features.dtype == np.float16
    assert np.isfinite(features).all() and features.std(0).min() > 0
    network = found.module()
    backgrounds = {"blue": "b6e3f4", "purple": "c0aede", "lavender": "d1d4f9", "pink": "ffd5dc", "peach": "ffdfbf"}
    for name, code in backgrounds.items():
        colour = torch.tensor([int(code[i : i + 2], 16) for i in (0, 2, 4)]) / 127.5 - 1
        with torch.no_grad():
            logits = network(colour.reshape(1, 3, 1, 1).expand(1, 3, 128, 128))[0]
        scores = (logits[:, 1] - logits[:, 0]).tolist()
        asked = {other: scores[QUESTIONS.names.index(f"background_{other}")] for other in backgrounds}
        assert max(asked, key=asked.get) == name
