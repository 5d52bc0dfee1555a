"""From the content of a file to the state dict of one network: which of its groups it is, and of what kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from anycost.errors import CheckpointError
from anycost.networks.registry import BY_NAME, KINDS, STYLEGAN2, identify
from anycost.weights.families import from_nvidia, from_rosinality, is_nvidia, is_rosinality
from anycost.weights.formats import Content

# Averaged weights make better images than the last step's, so they come first.
_GENERATOR_KEYS = ("g_ema", "G_ema", "", "g", "G", "generator")


@dataclass(frozen=True)
class Selected:
    """A state dict under our names. network: a kind's name or ``stylegan2``. key: where the file holds it."""

    tensors: dict[str, Tensor]
    network: str
    key: str


def select(content: Content, source: str, key: str | None = None) -> Selected:
    """The network of a file: the one under ``key``, else its generator's averaged weights, else the first that is known.

    Raises CheckpointError, with what the file holds, where there is none or no such key.
    """
    groups = {name: tensors for name, tensors in content.groups.items() if tensors}
    if key is not None:
        if key not in groups:
            listed = ", ".join(repr(name) for name in groups) or "none"
            raise CheckpointError(f"{source} holds no {key!r}: its networks are {listed}")
        groups = {key: groups[key]}
    found = {name: network for name, tensors in groups.items() if (network := _network(tensors, content)) is not None}
    if not found:
        names = next((list(tensors) for tensors in groups.values()), [])
        first = f": its first tensor is {names[0]}" if names else ""
        raise CheckpointError(
            f"{source} holds no network that is known here{first}; `anycost inspect --networks` lists them"
        )
    chosen = min(found, key=lambda name: _rank(name, found[name]))
    tensors = groups[chosen]
    if found[chosen] == STYLEGAN2:
        tensors = _generator(tensors, content.groups.get("", {}) if chosen else {}, source)
    return Selected(dict(tensors), found[chosen], chosen)


def _network(tensors: Mapping[str, Tensor], content: Content) -> str | None:
    named = content.metadata.get("network")
    if named == STYLEGAN2 or named in BY_NAME:
        return named
    if is_rosinality(tensors) or is_nvidia(tensors):
        return STYLEGAN2
    kind = identify({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    return None if kind is None else kind.name


def _rank(key: str, network: str) -> tuple[int, int]:
    """Generators before other networks, and the key that such a network is usually found under first."""
    if network == STYLEGAN2:
        return 0, _GENERATOR_KEYS.index(key) if key in _GENERATOR_KEYS else len(_GENERATOR_KEYS)
    keys = BY_NAME[network].keys
    order = 1 + [kind.name for kind in KINDS].index(network)
    return order, keys.index(key) if key in keys else len(keys)


def _generator(tensors: Mapping[str, Tensor], beside: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    try:
        if is_nvidia(tensors):
            return from_nvidia(tensors)
        return from_rosinality({**{k: v for k, v in beside.items() if k == "latent_avg"}, **tensors})
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
