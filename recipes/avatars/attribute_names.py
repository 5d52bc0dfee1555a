"""What the attribute predictor's outputs are called, and which labels each of them is of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

# Colours have codes in the data and names here.
_COLOURS = {
    "hairColor": ("black", "dark_brown", "brown", "auburn", "blonde", "platinum", "red", "pink"),
    "skinColor": ("dark_brown", "brown", "light_brown", "tanned", "light", "yellow"),
    "clothesColor": ("black", "sky_blue", "navy", "grey", "mint", "cream", "magenta", "red"),
    "backgroundColor": ("blue", "purple", "lavender", "pink", "peach"),
}
_SHORT = {
    "top": "hair_style",
    "hairColor": "hair",
    "skinColor": "skin",
    "accessories": "glasses",
    "facialHair": "facial_hair",
    "clothesColor": "clothes",
    "backgroundColor": "background",
}
# An option whose name would be a group's.
_SAID = {("eyes", "closed"): "shut"}
# Questions over several options: the attribute and the options that are a yes.
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "glasses": ("accessories", ("kurt", "prescription02", "round", "sunglasses", "wayfarers")),
    "sunglasses": ("accessories", ("sunglasses", "wayfarers")),
    "facial_hair": ("facialHair", ("beardLight", "beardMajestic", "beardMedium", "moustacheMagnum")),
    "hat": ("top", ("hat", "winterHat02", "turban")),
    "long_hair": ("top", ("longButNotTooLong", "straight01", "bob", "curly")),
    "bald": ("top", ("bald",)),
    "smiling": ("mouth", ("smile", "default", "tongue", "twinkle")),
    "mouth_open": ("mouth", ("smile", "screamOpen", "tongue", "default")),
    "eyes_closed": ("eyes", ("closed", "happy", "squint")),
    "dark_skin": ("skinColor", ("614335", "ae5d29")),
}


class Questions:
    """The outputs' names, and the table that answers them from labels."""

    def __init__(self, attributes: Sequence[dict]):
        self.names: list[str] = []
        # One row for every question: (attribute, yes by slot).
        self._rows: list[tuple[int, Tensor]] = []
        index = {attribute["name"]: i for i, attribute in enumerate(attributes)}
        for name, (attribute, options) in GROUPS.items():
            self._add(name, index[attribute], [slot in options for slot in attributes[index[attribute]]["slots"]])
        for i, attribute in enumerate(attributes):
            slots = attribute["slots"]
            for option in dict.fromkeys(slots):
                if option not in ("none", "bald"):
                    self._add(_name(attribute["name"], slots, option), i, [slot == option for slot in slots])

    @classmethod
    def load(cls, path: Path) -> Questions:
        return cls(json.loads(path.read_text())["attributes"])

    def __len__(self) -> int:
        return len(self.names)

    def answers(self, labels: Tensor) -> Tensor:
        """slots int64 [N, attributes] -> 0 or 1, int64 [N, questions]."""
        return torch.stack([table[labels[:, i]] for i, table in self._rows], dim=1).long()

    def of(self, question: int) -> int:
        """Which attribute a question is of."""
        return self._rows[question][0]

    def _add(self, name: str, attribute: int, yes: list[bool]) -> None:
        self.names.append(name)
        self._rows.append((attribute, torch.tensor(yes)))


def _name(attribute: str, slots: Sequence[str], option: str) -> str:
    colours = _COLOURS.get(attribute)
    said = colours[list(dict.fromkeys(slots)).index(option)] if colours else _SAID.get((attribute, option), option)
    return f"{_SHORT.get(attribute, attribute)}_{said}"
