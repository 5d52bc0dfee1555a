"""Blending two generators of one shape: the coarse layers of one, the fine layers of the other (layer swapping).

Source: Resolution Dependent GAN Interpolation (Pinkney and Adler, arXiv 2010.05334). A network fine-tuned from another
keeps its layers interchangeable, so that one gives the structure of the picture and the other its texture.

Layers stand in the order of their position 2 * log2(resolution / 4) + level. Level 0 of a resolution is the constant input
(at 4 px) or the convolution that up-samples; level 1 is the second convolution with the to-RGB. Affines, biases, noise
strengths and stored noise go with their layer.

The published code counts differently, and so do texts that copy it: it gives the second network only the layers *more
than one* position after the named one, so its ``blend(a, b, 32, 1)`` first takes b at 64 px, level 1, which is
``swap_resolution=64, level=1`` here; it also never exchanges the convolution at 4 px, whose name its patterns miss, nor the
stored noise, which is not trained. Its sigmoid gives one half to the named layer itself, and reaches neither 0 nor 1.
"""

from __future__ import annotations

import math
from dataclasses import replace
from math import log2

import torch
from torch import Tensor

from anycost.errors import CheckpointError, InputError
from anycost.networks.channels import BASE_CHANNELS, Architecture
from anycost.networks.stylegan2 import Generator
from anycost.weights.checkpoint import Checkpoint, digest

_FIR = ".kernel"


def swap_points(arch: Architecture) -> list[tuple[int, int]]:
    """Every (resolution, level) of a generator, from the constant input up."""
    return [(side, level) for side in BASE_CHANNELS if side <= arch.resolution for level in (0, 1)]


def shares(arch: Architecture, swap_resolution: int, level: int, ramp: float = 0) -> dict[str, float]:
    """Tensor name -> the share of the transfer network, 0 to 1. The mapping network is all the base's.

    Layers before (swap_resolution, level) are the base's, those from it on the transfer's. ramp: about how many layers
    are mixed. The share then rises linearly, by 1 / (ramp + 1) a layer, through one half between the last layer before the
    swap and the swap itself: ``ramp=2`` gives 0, 1/3, 2/3, 1. 0 is the hard swap; an odd whole number mixes one layer more
    than it says, as the ramp is symmetric around a place between two layers. What the ends of the network cut off is
    dropped: the outermost layers then stay mixed.

    Raises InputError: no such resolution or level, or a ramp that is negative or not finite.
    """
    if swap_resolution not in BASE_CHANNELS or swap_resolution > arch.resolution:
        raise InputError(f"swap resolution {swap_resolution} is not one of 4, 8, ..., {arch.resolution}")
    if level not in (0, 1):
        raise InputError(f"level {level} is not 0 (the up-sampling convolution) or 1 (the second one and its to-RGB)")
    if not math.isfinite(ramp) or ramp < 0:
        raise InputError(f"ramp {ramp:g} is not a number of layers from 0 up")
    swap = _position(swap_resolution, level)

    def share(position: int) -> float:
        return min(1.0, max(0.0, 0.5 + (position - swap + 0.5) / (ramp + 1)))

    positions: dict[str, int | None] = {"style": None, "input": 0}
    for layer in arch.full().layers():
        position = _position(layer.resolution, 0 if layer.up else 1)
        positions[layer.name] = position
        if layer.noise is not None:
            positions[f"noises.noise_{layer.noise}"] = position
    found = {}
    for name in _names(arch):
        at = next(at for owner, at in positions.items() if f"{name}.".startswith(f"{owner}."))
        found[name] = 0.0 if at is None else share(at)
    return found


def blend(base: Checkpoint, transfer: Checkpoint, swap_resolution: int, level: int, ramp: float = 0) -> Checkpoint:
    """Layers below (swap_resolution, level) of ``base``, from there on of ``transfer``; exchange the two for the other way.

    The mapping network and its mean are the base's, as in the source's code, which clones its first network. Tensors that
    are not mixed are copied bit by bit; mixtures are computed in float32 and stored, like all of the result, in the base's
    float type. ramp: as in ``shares``.

    Raises InputError as ``shares``; CheckpointError for networks of different shapes, or where a value is too large for
    the base's float type.
    """
    tensors = blend_tensors(base, transfer, swap_resolution, level, ramp)
    credits = [found["credit"] for found in (base.metadata, transfer.metadata) if found.get("credit")]
    metadata = {
        "blend_base": base.source,
        "blend_base_sha256": base.sha256,
        "blend_transfer": transfer.source,
        "blend_transfer_sha256": transfer.sha256,
        "blend_swap_resolution": str(swap_resolution),
        "blend_level": str(level),
        "blend_ramp": f"{ramp:g}",
    }
    if credits:
        metadata["credit"] = "; ".join(dict.fromkeys(credits))
    source = f"{base.source} with {transfer.source} from {swap_resolution} px, level {level}"
    if ramp:
        source += f", ramp {ramp:g}"
    blended = replace(base, tensors=tensors, source=source, metadata=metadata)
    return replace(blended, sha256=digest(blended.stored()))


def blend_tensors(
    base: Checkpoint, transfer: Checkpoint, swap_resolution: int, level: int, ramp: float = 0
) -> dict[str, Tensor]:
    """The tensors of ``blend``. Raises what it raises."""
    check_same_shape(base, transfer)
    tensors = {}
    for name, share in shares(base.arch, swap_resolution, level, ramp).items():
        if name.endswith(_FIR) and not (name in base.tensors and name in transfer.tensors):
            # Files may leave the FIR out: every network of this family then has the same.
            continue
        tensors[name] = _mix(base.tensors[name], transfer.tensors[name], share)
        if share > 0 and not torch.isfinite(tensors[name]).all():
            raise CheckpointError(
                f"{transfer.source}: tensor {name} has values too large for the {_dtype(tensors[name])} of "
                f"{base.source}: exchange the two, or convert {base.source} to float32"
            )
    return tensors


def check_same_shape(base: Checkpoint, transfer: Checkpoint) -> None:
    """Raises CheckpointError that names the first difference."""
    for (what, ours), theirs in zip(_shape(base.arch).items(), _shape(transfer.arch).values(), strict=False):
        if ours != theirs:
            raise CheckpointError(
                f"{base.source} and {transfer.source} cannot be blended: {what} is {ours} in the first and {theirs} in the "
                "second; both must have one shape"
            )


def _shape(arch: Architecture) -> dict[str, int]:
    """What must agree, in the order of the report. Widths and not the multiplier: several multipliers give the same."""
    widths = {f"channels at {side} px": arch.width(side) for side in BASE_CHANNELS if side <= arch.resolution}
    return {"resolution": arch.resolution, "style_dim": arch.style_dim, "n_mlp": arch.n_mlp} | widths


def _mix(base: Tensor, transfer: Tensor, share: float) -> Tensor:
    if share == 0:
        return base
    if share == 1:
        return transfer.to(base.dtype)
    precise = torch.float64 if torch.float64 in (base.dtype, transfer.dtype) else torch.float32
    return torch.lerp(base.to(precise), transfer.to(precise), share).to(base.dtype)


def _position(resolution: int, level: int) -> int:
    return 2 * (int(log2(resolution)) - 2) + int(level)


def _names(arch: Architecture) -> list[str]:
    with torch.device("meta"):
        network = Generator(arch.resolution, arch.channel_multiplier, arch.channel_max, arch.style_dim, arch.n_mlp)
    return list(network.state_dict())


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
