"""Resolution, multiplier, cap, style_dim and mapping depth of an elastic generator from the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from anycost.errors import CheckpointError
from anycost.networks.channels import BASE_CHANNELS, Architecture, SubnetError

_LARGEST = 1e6  # of multiplier and cap; the paper's are 2 and 512


def infer(tensors: Mapping[str, Tensor], arguments: Mapping[str, Any], source: str) -> Architecture:
    """The architecture that tensors of these shapes are of.

    Where every layer is at the cap the multiplier cannot be told: that of ``arguments`` (what the file says of itself) if
    it fits, else config-f's 2, else the smallest that gives these widths.
    """

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in tensors:
            raise CheckpointError(
                f"{source}: tensor {name} is missing: this is not a StyleGAN2 generator with Anycost's names"
            )
        found = tuple(tensors[name].shape)
        if len(found) != rank:
            raise CheckpointError(f"{source}: tensor {name} has shape {list(found)}: {rank} axes were expected")
        return found

    style_dim = shape("style.1.weight", 2)[1]
    n_mlp = 1
    while f"style.{n_mlp + 1}.weight" in tensors:
        n_mlp += 1
    widths = {4: shape("input.input", 4)[1]}
    while f"convs.{2 * (len(widths) - 1)}.conv.weight" in tensors:
        block = len(widths) - 1
        side = 8 << block
        if side not in BASE_CHANNELS:
            raise CheckpointError(
                f"{source}: tensor convs.{2 * block}.conv.weight would be of {side} px: 1024 is the most"
            )
        widths[side] = shape(f"convs.{2 * block}.conv.weight", 5)[1]
    resolution = 4 << (len(widths) - 1)
    caps = [max(widths.values()), 512]
    if _is_positive(arguments.get("channel_max")):
        caps.insert(0, int(arguments["channel_max"]))
    for multiplier in _multipliers(widths, arguments):
        for channel_max in caps:
            try:
                arch = Architecture(resolution, multiplier, channel_max, style_dim, n_mlp)
            except SubnetError:
                continue
            if all(arch.width(side) == width for side, width in widths.items()):
                return arch
    listed = ", ".join(f"{side} px: {width}" for side, width in widths.items())
    raise CheckpointError(
        f"{source}: channels ({listed}) are those of no multiplier and cap: the file is incomplete or of another network"
    )


def _multipliers(widths: Mapping[int, int], arguments: Mapping[str, Any]) -> list[float]:
    """Candidates, the likeliest first."""
    found = [2.0]
    if _is_positive(arguments.get("channel_multiplier")):
        found.insert(0, float(arguments["channel_multiplier"]))
    # A width below the cap tells it; several may, so try the exact ones, the smallest first.
    found += sorted(width / BASE_CHANNELS[side] for side, width in widths.items())
    # Every layer at the cap: the smallest that still reaches it everywhere.
    found.append(max(width / BASE_CHANNELS[side] for side, width in widths.items()))
    return [multiplier for multiplier in found if multiplier > 0]


def _is_positive(value: object) -> bool:
    # Bounded first: a whole number may be too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _LARGEST
