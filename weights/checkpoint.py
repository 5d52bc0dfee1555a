"""Reading the weights of an elastic generator: what kind of file it is is told from its content, never from its name."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from anycost.errors import CheckpointError
from anycost.networks.channels import BASE_CHANNELS, Architecture, SubnetError
from anycost.networks.stylegan2 import Generator, fir_kernel
from anycost.weights.formats import one_line, read_tensors

MEAN_STYLE = "mean_style"
_OPTIONAL = (".blur.kernel", ".upsample.kernel")


@dataclass(frozen=True)
class Checkpoint:
    """A generator's tensors under the published names, in the file's own float type, checked against ``arch``.

    source: the file's name. sha256: of the file. mean_style: [1, style_dim] where the file has it.
    """

    tensors: dict[str, Tensor]
    arch: Architecture
    source: str
    sha256: str
    mean_style: Tensor | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    def generator(self) -> Generator:
        """The reference network with these weights, float32, in evaluation mode."""
        arch = self.arch
        network = Generator(arch.resolution, arch.channel_multiplier, arch.channel_max, arch.style_dim, arch.n_mlp)
        network.load_state_dict({name: tensor.float() for name, tensor in self.tensors.items()}, strict=False)
        return network.eval().requires_grad_(False)


def read(path: str | Path) -> Checkpoint:
    """Read Anycost ``.pt`` files (``g_ema`` or a plain state dict) and safetensors.

    Raises CheckpointError, one line: not a file, empty, truncated, of an unknown kind, asking to run code, or the first
    tensor that is missing, unexpected, misshapen, not floating point, or not finite.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: give the path of a .pt or .safetensors file, or a model's name")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file: give the path of a .pt or .safetensors file")
    try:
        tensors, metadata = read_tensors(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {one_line(error)}") from None
    mean = tensors.pop(MEAN_STYLE, None)
    arch = infer(tensors, metadata, path.name)
    check(tensors, arch, path.name)
    if mean is not None and (mean.numel() != arch.style_dim or not torch.isfinite(mean.float()).all()):
        raise CheckpointError(
            f"{path.name}: {MEAN_STYLE} has shape {list(mean.shape)}, not [1, {arch.style_dim}], or a NaN"
        )
    return Checkpoint(tensors, arch, path.name, sha256, None if mean is None else mean.float().reshape(1, -1), metadata)


def infer(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: str) -> Architecture:
    """Resolution, multiplier, cap, style_dim and mapping depth from the tensors' shapes.

    Where every layer is at the cap the multiplier cannot be told: the metadata's, else config-f's 2, else the smallest
    that gives these widths.
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
    if _is_number(metadata.get("channel_max")):
        caps.insert(0, int(float(metadata["channel_max"])))
    for multiplier in _multipliers(widths, metadata):
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


def _multipliers(widths: Mapping[int, int], metadata: Mapping[str, str]) -> list[float]:
    """Candidates, the likeliest first."""
    found = []
    if _is_number(metadata.get("channel_multiplier")):
        found.append(float(metadata["channel_multiplier"]))
    found.append(2.0)
    # A width below the cap tells it; several may, so try the exact ones, the smallest first.
    found += sorted(width / BASE_CHANNELS[side] for side, width in widths.items())
    # Every layer at the cap: the smallest that still reaches it everywhere.
    found.append(max(width / BASE_CHANNELS[side] for side, width in widths.items()))
    return [multiplier for multiplier in found if multiplier > 0]


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and math.isfinite(float(text)) and float(text) > 0
    except ValueError:
        return False


def check(tensors: Mapping[str, Tensor], arch: Architecture, source: str) -> None:
    """Raises CheckpointError that names the first tensor that differs from what the architecture has."""
    with torch.device("meta"):
        expected = Generator(arch.resolution, arch.channel_multiplier, arch.channel_max, arch.style_dim, arch.n_mlp)
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.state_dict().items()}
    for name, shape in shapes.items():
        if name not in tensors:
            if name.endswith(_OPTIONAL):
                continue
            raise CheckpointError(f"{source}: tensor {name} of shape {list(shape)} is missing")
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"{source}: tensor {name} has shape {list(tensors[name].shape)}: {list(shape)} was expected"
            )
    for name, tensor in tensors.items():
        if name not in shapes:
            raise CheckpointError(
                f"{source}: tensor {name} of shape {list(tensor.shape)} is unexpected in a generator of {arch.resolution} px"
            )
        if not tensor.is_floating_point():
            raise CheckpointError(f"{source}: tensor {name} holds {tensor.dtype}: floating point was expected")
        wrong = int((~torch.isfinite(tensor)).sum())
        if wrong:
            raise CheckpointError(
                f"{source}: tensor {name} holds {wrong} NaN or infinite values: the training run or the file is broken"
            )
        if name.endswith(_OPTIONAL) and not torch.allclose(tensor.float(), fir_kernel(4.0), atol=1e-3):
            raise CheckpointError(
                f"{source}: tensor {name} is not the FIR filter [1, 3, 3, 1] at gain 4: other filters are not supported"
            )
