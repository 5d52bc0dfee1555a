"""Editing directions of the embedded model: python -m recipes.avatars.directions --model weights/embedded/avatars.safetensors

Every rule of `editing/find.py` looks for every direction of ``WANTED``; the one that works best on seeds it has not seen is
kept. Written beside the model: the directions, a strip of pictures, the heat-map of their correlation, and a card.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anycost.editing import correlation, find
from anycost.editing.directions import Directions, save
from anycost.errors import InputError
from anycost.networks.stylegan2 import Generator
from anycost.weights.checkpoint import read
from recipes.avatars.directions_card import card, strip
from recipes.avatars.directions_measure import (
    STRENGTHS,
    Effect,
    Pictures,
    Sample,
    Space,
    Wanted,
    accuracy,
    effect,
    reach,
)

Array = np.ndarray
TRAIN, HELD_OUT = range(6000), range(6000, 8000)
PICTURED = 40  # of the held-out seeds, those whose pictures are compared
BEYOND = (1.2, 1.6)  # times the length that just crosses: at that itself a picture is an even blend of two options
ALIKE = 0.05  # difference of scores below which pictures decide between rules
RELATED = 0.1  # correlation from which another direction is projected out
FACTORS = 30  # of SeFa, of each group of layers


WANTED = (
    Wanted("round glasses", "accessories", ("round",)),
    Wanted("sunglasses", "accessories", ("sunglasses", "wayfarers")),
    Wanted("smile", "mouth", ("smile",), ("sad",)),
    Wanted("beard", "facialHair", ("beardMedium",)),
    Wanted("bald", "top", ("bald",)),
    Wanted("long hair", "top", ("straight01", "longButNotTooLong")),
    Wanted("afro", "top", ("fro",)),
    Wanted("hat", "top", ("winterHat02",)),
    Wanted("dark skin", "skinColor", ("614335",), ("ffdbb4",)),
    Wanted("fair hair", "hairColor", ("d6b370",), ("2c1b18",)),
    Wanted("red hair", "hairColor", ("c93305",)),
    Wanted("wide eyes", "eyes", ("surprised",), ("closed",)),
    Wanted("blue background", "backgroundColor", ("b6e3f4",), ("ffdfbf",)),
)

PLAIN = {
    "top": ("shortCurly", "shortFlat", "shortRound", "sides", "theCaesarAndSidePart"),
    "hairColor": ("2c1b18", "4a312c", "724133", "a55728"),
    "skinColor": ("d08b5b", "edb98a", "ffdbb4"),
    "eyes": ("default", "happy", "side"),
    "mouth": ("default", "serious", "twinkle"),
    "accessories": ("none",),
    "facialHair": ("none",),
}


def factors(generator: Generator) -> Array:
    """SeFa's directions of the coarse, middle and fine layers and of all together, [groups * FACTORS, style_dim]."""
    layers = generator.arch.full().layers()
    affines = [generator.get_submodule(layer.name).conv.modulation for layer in layers]
    weights = [(affine.weight * affine.scale).detach().numpy() for affine in affines]
    sides = [layer.resolution for layer in layers]
    groups = [[i for i, side in enumerate(sides) if low <= side <= high] for low, high in ((4, 8), (16, 32), (64, 999))]
    found = [find.sefa(weights, FACTORS, group).vectors for group in [*groups, range(len(layers))] if group]
    return np.concatenate(found)


def by_every_rule(space: Space, wanted: Wanted, sample: Sample, sefa: Array) -> dict[str, Array]:
    """A vector [style_dim] by rule. SeFa knows no names: of its vectors, the one that the tag goes along with best."""
    tags = sample.tags(space, wanted, wanted.options)
    found = {"interfacegan": find.interfacegan(sample.w, sample.scores(space, wanted)).normal}
    found |= {rule: make(sample.w, tags) for rule, make in find.BY_TAGS.items()}
    if wanted.against:
        opposite = sample.tags(space, wanted, wanted.against)
        found["opposing"] = find.opposing(find.linear(sample.w, tags), find.linear(sample.w, opposite))
    # Conditional projection, on the least squares of every tag: what is related are the options of one attribute.
    related = []
    for other in WANTED:
        vector = find.linear(sample.w, sample.tags(space, other, other.options))
        if other.name != wanted.name and abs(float(vector @ found["linear"])) > RELATED:
            related.append(vector)
    if related:
        found["conditional"] = find.condition(found["linear"], related)
    right = [accuracy(sample.w, tags, vector) for vector in (*sefa, *-sefa)]
    found["sefa"] = np.concatenate([sefa, -sefa])[int(np.argmax(right))]
    return found


@dataclass(frozen=True)
class Kept:
    """A direction and what it does at `strength` on held-out seeds. plain: at strength 1, the published editor's step.
    pictured: as ``Pictures.share``. tried: the effect of every rule's vector at one strength, ``compared``."""

    wanted: Wanted
    rule: str
    vector: Array
    accuracy: float
    strength: float
    effect: Effect
    plain: Effect
    pictured: float
    compared: float
    tried: dict[str, Effect]


def keep(
    space: Space, wanted: Wanted, found: dict[str, Array], sample: Sample, held: Sample, pictures: Pictures
) -> Kept:
    """The rule that moves the most held-out seeds both ways, less the other attributes it changes, at one length for all:
    a quarter over the shortest that does for any of them. Pictures decide between rules that are ``ALIKE`` in that, and
    on the length."""
    needed = {rule: reach(space, wanted, sample.w[:1000], vector) for rule, vector in found.items()}
    compared = 1.25 * min(*needed.values(), float(STRENGTHS[-1]))
    tried = {rule: effect(space, wanted, held.w, vector, compared) for rule, vector in found.items()}
    most = max(result.score for result in tried.values())
    best: tuple[float, float, str, float] | None = None
    for rule, result in tried.items():
        for beyond in BEYOND:
            strength = round(beyond * needed[rule], 2)
            if result.score >= most - ALIKE and strength <= STRENGTHS[-1]:
                shown = pictures.share(wanted, found[rule], strength)
                # A longer step distorts more, so it has to show the option on clearly more faces.
                best = max(best or (-1, 0, "", 0), (shown - 0.05 * strength, result.score, rule, strength))
    if best is None:
        raise InputError(f"no rule finds a direction for {wanted.name!r}")
    _, _, rule, strength = best
    vector = found[rule]
    return Kept(
        wanted,
        rule,
        vector,
        accuracy(held.w, held.tags(space, wanted, wanted.options), vector),
        strength,
        effect(space, wanted, held.w, vector, strength),
        effect(space, wanted, held.w, vector),
        pictures.share(wanted, vector, strength),
        compared,
        tried,
    )


def facts(kept: Kept) -> dict[str, str | float]:
    """What the file says of a direction."""
    found = kept.effect
    return {
        "rule": kept.rule,
        "accuracy": round(kept.accuracy, 3),
        "strength": kept.strength,
        "gained": round(found.gained, 3),
        "lost": round(found.lost, 3),
        "others": round(found.others, 3),
        "pictured": round(kept.pictured, 2),
    }


def plain_faces(space: Space, sample: Sample, count: int) -> Array:
    """The first codes of ``PLAIN`` faces without undecided attributes: they have the most to change, and show it."""
    fits = (space.winners(sample.w) >= 0).all(1)
    for attribute, options in PLAIN.items():
        fits &= sample.tags(space, Wanted(attribute, attribute, options), options)
    return np.flatnonzero(fits)[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the embedded model; the files are written beside it")
    args = parser.parse_args()
    space, generator = Space.load(), read(args.model).generator()
    sample, held = Sample.draw(generator, space, TRAIN), Sample.draw(generator, space, HELD_OUT)
    pictures = Pictures(generator, space, held.w[:PICTURED])
    sefa = factors(generator)
    all_kept = []
    for wanted in WANTED:
        kept = keep(space, wanted, by_every_rule(space, wanted, sample, sefa), sample, held, pictures)
        print(wanted.name, facts(kept), flush=True)
        all_kept.append(kept)
    directions = Directions.of(
        {kept.wanted.name: kept.vector for kept in all_kept},
        {kept.wanted.name: facts(kept) for kept in all_kept},
    )
    save(args.model.with_suffix(".directions.safetensors"), directions)
    matrix = correlation.correlation(directions)
    correlation.heat_map(directions.names, matrix, args.model.with_suffix(".correlation.png"))
    faces = plain_faces(space, held, 3)
    strip(args.model.with_suffix(".directions.png"), directions, held.w[faces], pictures)
    related = float(np.abs(matrix - np.eye(len(matrix))).max())
    text = card(all_kept, [HELD_OUT[int(face)] for face in faces], related, len(pictures.w))
    args.model.with_suffix(".directions.md").write_text(text)


if __name__ == "__main__":
    main()
