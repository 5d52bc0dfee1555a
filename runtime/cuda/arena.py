"""Where the scratch memory of a program lies: regions that are never needed at once share addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from anycost.runtime.cuda.program import Choice, Program

ALIGNMENT = 256


@dataclass(frozen=True)
class Lifetime:
    """A region of ``size`` bytes that holds something from the launch ``first`` to the launch ``last``, both included."""

    name: str
    size: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        """Whether both are alive at some launch."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Layout:
    """offsets: bytes from the start of the block, by name. total: the block's size. least: the largest sum of sizes alive at one
    launch, which no layout can be smaller than."""

    offsets: dict[str, int]
    total: int
    least: int

    @property
    def ratio(self) -> float:
        """How much larger it is than the least; 1 is optimal."""
        return self.total / self.least if self.least else 1.0


def lifetimes(program: Program, chosen: Sequence[Choice], batch: int) -> list[Lifetime]:
    """Of the scratch regions that the chosen alternatives of the program's steps touch, in bytes for a batch."""
    return _lifetimes(
        program, ({place.region for place in launch.places} for c in chosen for launch in c.launches), batch
    )


def lifetimes_of_steps(program: Program, available: Iterable[Iterable[Choice]], batch: int) -> list[Lifetime]:
    """The same where any of the available choices of each step may run, and a step counts as one launch."""
    touched = (set[str]().union(*(choice.regions for choice in choices)) for choices in available)
    return _lifetimes(program, touched, batch)


def pack(given: Iterable[Lifetime]) -> Layout:
    """A layout in which no two regions that are alive at once overlap; every offset is a multiple of 256.

    First fit in three orders, of which the smallest result is taken: by size, by size times lifetime, by first use.
    """
    found = [Lifetime(one.name, max(_aligned(one.size), ALIGNMENT), one.first, one.last) for one in given]
    orders: list[Callable[[Lifetime], tuple[int, ...]]] = [
        lambda one: (-one.size, one.first),
        lambda one: (-one.size * (one.last - one.first + 1), one.first),
        lambda one: (one.first, -one.size),
    ]
    layouts = [_first_fit(_sorted(found, order)) for order in orders]
    offsets, total = min(layouts, key=lambda layout: layout[1])
    return Layout(offsets, total, _least(found))


def _lifetimes(program: Program, touched: Iterable[set[str]], batch: int) -> list[Lifetime]:
    sizes = {region.name: region.bytes(batch) for region in program.regions if region.kind == "scratch"}
    spans: dict[str, tuple[int, int]] = {}
    for i, names in enumerate(touched):
        for name in sorted(names & sizes.keys()):
            spans[name] = (spans.get(name, (i, i))[0], i)
    return [Lifetime(name, sizes[name], first, last) for name, (first, last) in spans.items()]


def _first_fit(ordered: Sequence[Lifetime]) -> tuple[dict[str, int], int]:
    """Each in the lowest gap that those placed before leave, in the given order."""
    placed: list[tuple[int, Lifetime]] = []
    for one in ordered:
        start = 0
        for offset, other in sorted(((o, p) for o, p in placed if p.meets(one)), key=lambda pair: pair[0]):
            if start + one.size <= offset:
                break
            start = max(start, offset + other.size)
        placed.append((start, one))
    return {one.name: offset for offset, one in placed}, max((offset + one.size for offset, one in placed), default=0)


def _sorted(found: Sequence[Lifetime], order: Callable[[Lifetime], tuple[int, ...]]) -> list[Lifetime]:
    return sorted(found, key=lambda one: (*order(one), one.name))


def _least(found: Sequence[Lifetime]) -> int:
    return max((sum(o.size for o in found if o.first <= one.first <= o.last) for one in found), default=0)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
