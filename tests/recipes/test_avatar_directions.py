"""Finding directions on the built mapping, on few samples, and the file that ships."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from anycost.editing import find  # noqa: E402
from anycost.editing.apply import edit  # noqa: E402
from anycost.editing.directions import Directions, load, save  # noqa: E402
from anycost.errors import InputError  # noqa: E402
from anycost.networks.stylegan2 import Generator  # noqa: E402
from anycost.weights.checkpoint import read  # noqa: E402
from recipes.avatars import winner  # noqa: E402
from recipes.avatars.directions import WANTED, by_every_rule, factors, keep  # noqa: E402
from recipes.avatars.directions_measure import Pictures, Sample, Space, Wanted, accuracy, effect, reach  # noqa: E402

SPACE = Space.load()
BALD = Wanted("bald", "top", ("bald",))
EMBEDDED = ROOT / "weights/embedded"


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    made = Generator(8, 0.125, 32, 256).eval().requires_grad_(False)
    winner.build(made, SPACE.blocks)
    return made


@pytest.fixture(scope="module")
def sample(generator):
    return Sample.draw(generator, SPACE, range(1200))


def towards(wanted):
    """The wanted coordinates of w against the rest of their block, as a hand would write it."""
    vector, place = np.zeros(256), SPACE.place(wanted)
    vector[place] = -1
    vector[place][SPACE.numbers(wanted, wanted.options)] = place.stop - place.start - 1
    return vector / np.linalg.norm(vector)


def test_every_wanted_option_exists():
    for wanted in WANTED:
        for options in (wanted.options, wanted.against):
            assert len(SPACE.numbers(wanted, options)) == len(options)
    assert len({wanted.name for wanted in WANTED}) == len(WANTED) >= 10


def test_winners_are_the_options_of_the_latents(sample):
    found = SPACE.winners(sample.w)
    assert (found == sample.labels).mean() > 0.95
    # Else the block is undecided, or two coordinates of the latent were nearly the same.
    assert SPACE.winners(np.zeros((1, 256))).tolist() == [[-1] * len(SPACE.blocks.names)]


def test_the_effect_of_a_direction_made_by_hand(sample):
    """Between options 1.41 apart a step of length 1.7 over K / (K - 1) suffices for most, one of 0.6 for hardly any."""
    far, near = (effect(SPACE, BALD, sample.w, towards(BALD), strength) for strength in (3.5, 1))
    assert far.gained > 0.99 and far.lost > 0.99 and far.others == 0
    assert near.gained < 0.05 and near.lost < 0.1 and near.others == 0
    assert 1 < reach(SPACE, BALD, sample.w, towards(BALD)) < 3.5
    assert accuracy(sample.w, sample.tags(SPACE, BALD, BALD.options), towards(BALD)) > 0.93


def test_a_direction_of_another_attribute_has_another_effect(sample):
    wrong = effect(SPACE, BALD, sample.w, towards(Wanted("smile", "mouth", ("smile",))), 3.5)
    assert wrong.gained == wrong.lost == 0
    assert 0.7 < wrong.others < 1  # all but the eighth that smiled already


def test_a_planted_option_is_found_by_the_rules(sample):
    tags = sample.tags(SPACE, BALD, BALD.options)
    by_scores = find.interfacegan(sample.w, sample.scores(SPACE, BALD), share=0.05).normal
    vectors = (find.linear(sample.w, tags), find.lasso(sample.w, tags), find.logistic(sample.w, tags), by_scores)
    for vector in vectors:
        assert vector.argmax() == SPACE.place(BALD).start + SPACE.numbers(BALD, ("bald",))[0]
        assert vector @ towards(BALD) > 0.8


def test_svd_finds_one_option_and_not_a_group(sample):
    group = Wanted("sunglasses", "accessories", ("sunglasses", "wayfarers"))
    for wanted, low, high in ((BALD, 0.9, 1), (group, 0.3, 0.7)):
        tags = sample.tags(SPACE, wanted, wanted.options)
        assert low < accuracy(sample.w, tags, find.svd_of_tag(sample.w, tags)) < high


def test_the_whole_search(generator):
    sample, held = (Sample.draw(generator, SPACE, seeds) for seeds in (range(600), range(1500, 1800)))
    smile = Wanted("smile", "mouth", ("smile",), ("sad",))
    found = by_every_rule(SPACE, smile, sample, factors(generator))
    assert set(found) >= {"interfacegan", "opposing", "sefa", *find.BY_TAGS}
    kept = keep(SPACE, smile, found, sample, held, Pictures(generator, SPACE, held.w[:12]))
    assert kept.effect.gained > 0.95 and kept.effect.lost > 0.95 and kept.effect.others < 0.1
    assert kept.plain.gained < 0.1 and 0 <= kept.pictured <= 1


def test_a_strength_lengthens_the_step_and_survives_the_file(tmp_path):
    vectors = {"a": np.eye(4)[0], "b": np.eye(4)[1]}
    save(tmp_path / "it.safetensors", Directions.of(vectors, {"b": {"strength": 2.5}}))
    loaded = load(tmp_path / "it.safetensors").only(["b", "a"])
    assert np.allclose(np.linalg.norm(loaded.vectors, axis=1), 1)
    moved = edit(np.zeros((1, 2, 4), np.float32), loaded, {"a": 100, "b": -50}, scale=0.6)
    assert np.allclose(moved, [0.6, -0.75, 0, 0])


@pytest.mark.parametrize("strength", [0, -1, float("nan"), float("inf"), "2", True])
def test_a_strength_is_a_positive_number(strength):
    with pytest.raises(InputError, match="strength"):
        Directions.of({"a": np.ones(4)}, {"a": {"strength": strength}})


@pytest.mark.parametrize("which", ["built", "shipped"])
def test_the_shipped_directions_change_what_they_say(generator, which):
    directions = load(EMBEDDED / "avatars.directions.safetensors")
    if which == "shipped":
        generator = read(EMBEDDED / "avatars.safetensors").generator()
    fresh = Sample.draw(generator, SPACE, range(50_000, 50_400))
    if np.abs(fresh.w[:, SPACE.blocks.size :]).max() > 0.01:
        pytest.skip("the shipped model's mapping is not the built one")
    assert directions.names == tuple(wanted.name for wanted in WANTED)
    for wanted, about, vector in zip(WANTED, directions.about, directions.vectors, strict=True):
        found = effect(SPACE, wanted, fresh.w, vector, about["strength"])
        # 400 seeds, of which down to 25 have the option.
        assert found.gained == pytest.approx(about["gained"], abs=0.05), wanted.name
        assert found.lost == pytest.approx(about["lost"], abs=0.12), wanted.name
        assert found.others == pytest.approx(about["others"], abs=0.05), wanted.name
