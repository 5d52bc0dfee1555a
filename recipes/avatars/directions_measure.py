"""What a direction does: to the winners of w, which are the options that the mapping chose, and to pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from anycost.editing import apply
from anycost.editing.directions import Directions
from anycost.networks.stylegan2 import Generator
from anycost.runtime.latents import latents
from recipes.avatars.data import Blocks

Array = np.ndarray
HERE = Path(__file__).parent
DECIDED = 0.1  # a coordinate of w below this shows nothing: its block has no winner
CROSSED = 0.9  # share of seeds that a step has to move for its length to do
STRENGTHS = np.arange(1, 8.01, 0.25)


@dataclass(frozen=True)
class Wanted:
    """A direction towards ``options`` of an attribute. ``against`` are those at the other end of the opposing pair, if any."""

    name: str
    attribute: str
    options: tuple[str, ...]
    against: tuple[str, ...] = ()


@dataclass(frozen=True)
class Space:
    """The attributes and where their blocks of w lie."""

    blocks: Blocks
    slots: tuple[tuple[str, ...], ...]

    @classmethod
    def load(cls, path: Path = HERE / "attributes.json") -> Space:
        attributes = json.loads(path.read_text())["attributes"]
        return cls(Blocks.load(path), tuple(tuple(a["slots"]) for a in attributes))

    def column(self, wanted: Wanted) -> int:
        return self.blocks.names.index(wanted.attribute)

    def place(self, wanted: Wanted) -> slice:
        """The block of w that the wanted attribute owns."""
        column = self.column(wanted)
        start = sum(self.blocks.widths[:column])
        return slice(start, start + self.blocks.widths[column])

    def numbers(self, wanted: Wanted, options: Sequence[str]) -> list[int]:
        slots = self.slots[self.column(wanted)]
        return [slot for slot, option in enumerate(slots) if option in options]

    def winners(self, w: Array) -> Array:
        """w [N, style_dim] -> the slot of each attribute, int64 [N, attributes], -1 where none is ahead."""
        edges = np.cumsum(self.blocks.widths)
        parts = np.split(w[:, : edges[-1]], edges[:-1], axis=1)
        return np.stack([np.where(p.max(1) > DECIDED, p.argmax(1), -1) for p in parts], axis=1)


@dataclass(frozen=True)
class Effect:
    """gained: share of the seeds without the option that have it at +100. lost: share of those with it that no longer have
    it at -100. others: how many other attributes change for a seed at +100, on average."""

    gained: float
    lost: float
    others: float

    @property
    def score(self) -> float:
        """A vector that only goes from one wanted option to another would gain all and lose none."""
        return (self.gained + self.lost) / 2 - self.others


def moved(w: Array, vector: Array, strength: float, value: float = 100.0) -> Array:
    """Codes w [N, style_dim] at a slider's value, by the editor's own rule; no row of this generator is left out by it."""
    return apply.edit(w[:, None], Directions.of({"it": vector}, {"it": {"strength": strength}}), {"it": value})[:, 0]


def effect(space: Space, wanted: Wanted, w: Array, vector: Array, strength: float = 1.0) -> Effect:
    """What a slider does to codes w [N, style_dim], by the winners of w: the mapping is built so that they are the options."""
    start, most, least = (space.winners(moved(w, vector, strength, value)) for value in (0.0, 100.0, -100.0))
    column, options = space.column(wanted), space.numbers(wanted, wanted.options)
    has = np.isin(start[:, column], options)
    lacks = ~has & (start[:, column] >= 0)
    changed = (start != most) & (start >= 0)
    return Effect(
        float(np.isin(most[lacks, column], options).mean()),
        float((~np.isin(least[has, column], options)).mean()),
        float(np.delete(changed, column, 1).sum(1).mean()),
    )


def reach(space: Space, wanted: Wanted, w: Array, vector: Array) -> float:
    """The smallest strength that moves ``CROSSED`` of the seeds; infinity where none of those tried does."""
    for strength in STRENGTHS:
        found = effect(space, wanted, w, vector, strength)
        if min(found.gained, found.lost) >= CROSSED:
            return float(strength)
    return float("inf")


def accuracy(w: Array, tags: Array, vector: Array) -> float:
    """Balanced accuracy of a direction: the mean of both classes' shares on their side of the middle. Chance is 0.5."""
    along = w @ vector
    has, lacks = along[tags], along[~tags]
    middle = (has.mean() + lacks.mean()) / 2
    return float(((has > middle).mean() + (lacks <= middle).mean()) / 2)


@dataclass(frozen=True)
class Sample:
    """Codes w [M, style_dim] with the latents they came from and the slots that these asked for."""

    z: Array
    w: Array
    labels: Array

    @classmethod
    @torch.no_grad()
    def draw(cls, generator: Generator, space: Space, seeds: Sequence[int]) -> Sample:
        z = latents(seeds, generator.arch.style_dim)
        w = generator.mapping(torch.from_numpy(z)).numpy()
        return cls(z, w, space.blocks.labels_of(torch.from_numpy(z)).numpy())

    def tags(self, space: Space, wanted: Wanted, options: Sequence[str]) -> Array:
        return np.isin(self.labels[:, space.column(wanted)], space.numbers(wanted, options))

    def scores(self, space: Space, wanted: Wanted) -> Array:
        """By how much the best wanted coordinate of z leads the best other one: the answer of a perfect predictor."""
        block = self.z[:, space.place(wanted)]
        options = space.numbers(wanted, wanted.options)
        return np.asarray(block[:, options].max(1) - np.delete(block, options, 1).max(1))


class Pictures:
    """Pictures of held-out faces, and what each would look like with any other option of an attribute."""

    def __init__(self, generator: Generator, space: Space, w: Array):
        self.generator, self.space = generator, space
        self.w = w[(space.winners(w) >= 0).all(1)]
        self._answers: dict[int, Array] = {}

    @torch.no_grad()
    def draw(self, w: Array) -> Array:
        """w [N, style_dim] -> float32 [N, 3, R, R] as it is shown, in [-1, 1]."""
        rows = self.generator.arch.n_style
        parts = torch.from_numpy(np.ascontiguousarray(w, np.float32)).split(4)
        return torch.cat(
            [self.generator.synthesis(p[:, None].expand(-1, rows, -1)).clamp(-1, 1) for p in parts]
        ).numpy()

    def answers(self, wanted: Wanted) -> Array:
        """Every face with each option of an attribute, float32 [options, N, 3, R, R]."""
        column, place = self.space.column(wanted), self.space.place(wanted)
        if column not in self._answers:
            found = []
            for one_hot in np.eye(place.stop - place.start, dtype=np.float32):
                swapped = self.w.copy()
                swapped[:, place] = one_hot * self.w[:, place].max(1)[:, None]
                found.append(self.draw(swapped))
            self._answers[column] = np.stack(found)
        return self._answers[column]

    def share(self, wanted: Wanted, vector: Array, strength: float) -> float:
        """Of faces without the option, the share whose picture at +100 is nearer, in squared error, to the picture of the
        same face with it than to that of the same face with any other option of the attribute."""
        options = self.space.numbers(wanted, wanted.options)
        lacks = ~np.isin(self.space.winners(self.w)[:, self.space.column(wanted)], options)
        edited = self.draw(moved(self.w[lacks], vector, strength))
        away = [((edited - answer[lacks]) ** 2).mean((1, 2, 3)) for answer in self.answers(wanted)]
        return float(np.isin(np.argmin(away, 0), options).mean())
