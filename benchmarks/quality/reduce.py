"""From features and pair figures of all images to the figures of a sub-network and of its engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anycost.benchmarks.quality.frechet import Gaussian, bootstrap, paired_bootstrap, parity, self_bound
from anycost.benchmarks.quality.shards import FIGURES
from anycost.runtime.quality import EngineQuality, Pair, SubnetQuality

Array = np.ndarray
# The engines' intervals are near their reference's, and there are several times as many of them.
_ENGINE_ROUNDS = 50


@dataclass(frozen=True, eq=False)
class EngineImages:
    """Of one engine: features [N, D]; own, full: figures [3, N] to its sub-network's reference and to the full network's."""

    key: str
    features: Array
    own: Array
    full: Array


@dataclass(frozen=True, eq=False)
class Group:
    """A sub-network and its engines. features [N, D] and full [3, N]: of the reference's images. full_features [N, D]: of the
    full network's. data: what fd_data is to. rounds: of the bootstrap, None for the usual."""

    subnet: str
    channels: tuple[int, ...]
    features: Array
    full: Array
    full_features: Array
    data: Gaussian | None
    engines: Mapping[str, EngineImages]
    ppl: float | None
    consistency: float | None
    rounds: int | None

    def __str__(self) -> str:
        return f"Frechet distances of {self.subnet}"


def figures(group: Group) -> tuple[SubnetQuality, dict[str, EngineQuality]]:
    """All engines of a sub-network share the bound of their reference's parity with itself."""
    data, rounds = group.data, group.rounds
    subnet = SubnetQuality(
        channels=group.channels,
        full=_pair(group.full),
        fd_full=paired_bootstrap(group.features, group.full_features, rounds),
        fd_data=bootstrap(group.features, data, rounds) if data else None,
        ppl=group.ppl,
        consistency=group.consistency,
    )
    bound = self_bound(group.features, data, rounds) if data and group.engines else None
    engines = {}
    for name, made in group.engines.items():
        fewer = rounds or _ENGINE_ROUNDS
        engines[name] = EngineQuality(
            key=made.key,
            own=_pair(made.own),
            full=_pair(made.full),
            fd_own=paired_bootstrap(made.features, group.features, fewer),
            fd_data=bootstrap(made.features, data, fewer) if data else None,
            parity=parity(made.features, group.features, data, bound=bound) if data else None,
        )
    return subnet, engines


def _pair(figures: Array) -> Pair:
    """[3, N] in the order of FIGURES -> their means."""
    return Pair(**dict(zip(FIGURES, map(float, figures.mean(axis=1)), strict=True)))
