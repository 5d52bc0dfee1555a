"""Seed lists as people write them."""

from __future__ import annotations

import re

from anycost.errors import InputError
from anycost.runtime.latents import LARGEST_SEED, MOST_SEEDS


def parse_seeds(text: str) -> list[int]:
    """``3``, ``0-7`` or ``1,5,20-23`` -> the seeds in that order. Counts before it makes a list.

    Raises InputError: not of that form, no seeds, over 10 000 of them, or one above 2^32 - 1.
    """
    ranges = []
    count = 0
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.fullmatch(r"(\d{1,20})(?:\s*-\s*(\d{1,20}))?", part, flags=re.ASCII)
        if not match:
            raise InputError(f"seeds {part!r} are not of the form 3, 0-7 or 1,5,20-23")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"seeds {part!r} run backwards: write {last}-{first}")
        if last > LARGEST_SEED:
            raise InputError(f"seed {last} is above the largest, {LARGEST_SEED}")
        count += last - first + 1
        if count > MOST_SEEDS:
            raise InputError(f"{text!r} names {count} seeds or more: {MOST_SEEDS} is the most of one call")
        ranges.append(range(first, last + 1))
    if not ranges:
        raise InputError("no seeds were given: give at least one, such as --seed 0")
    return [seed for part in ranges for seed in part]
