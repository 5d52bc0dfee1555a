"""Networks of a known shape with random weights: for trying a shape's speed and size before there is a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import torch
from torch import Tensor, nn

from anycost.errors import CheckpointError
from anycost.networks.channels import Architecture
from anycost.networks.registry import BY_NAME
from anycost.networks.stylegan2 import Generator
from anycost.weights.checkpoint import Checkpoint, NetworkCheckpoint, digest

SHAPES = {
    "config-f": Architecture(1024, 2.0, 512, 512),
    "config-f-512": Architecture(512, 2.0, 512, 512),
    "tiny": Architecture(32, 0.0625, 64, 64, 4),
}


def random_checkpoint(name: str, seed: int = 0) -> Checkpoint:
    """A generator of shape ``name`` with its initial weights; noise strengths and biases are not left at zero, so that
    parity covers them. The same seed gives the same weights. Raises CheckpointError for an unknown name."""
    if name not in SHAPES:
        raise CheckpointError(f"random shape {name!r} is unknown: choose one of {', '.join([*SHAPES, *BY_NAME])}")
    arch = SHAPES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Generator(**asdict(arch))
        _unsettle(network.named_parameters(), ("noise.weight", ".bias"))
    tensors = {key: tensor.detach() for key, tensor in network.state_dict().items()}
    return Checkpoint(tensors, arch, f"random {name}, seed {seed}", digest(tensors))


def random_network(name: str, seed: int = 0, **arguments: object) -> NetworkCheckpoint:
    """Any other kind of network, by default with the arguments of its entry; biases, noise strengths and the statistics of
    batch norm are not left at their initial values. Raises CheckpointError for an unknown kind."""
    if name not in BY_NAME:
        raise CheckpointError(f"network {name!r} is unknown: choose one of {', '.join(BY_NAME)}")
    kind = BY_NAME[name]
    chosen = kind.arguments | arguments
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = kind.make(**chosen)
        _unsettle(network.named_parameters(), ("bias", "gamma", "noise1.weight_orig", "noise2.weight_orig", "embed_1"))
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    # Around 0.5, so that activations do not fade through the layers.
                    module.running_var.uniform_(0.1, 0.9)
                    module.running_mean.normal_(0, 0.1)
    tensors = {key: tensor.detach() for key, tensor in network.state_dict().items() if tensor.is_floating_point()}
    arguments = kind.infer({key: tuple(tensor.shape) for key, tensor in tensors.items()})
    return NetworkCheckpoint(tensors, name, arguments, f"random {name}, seed {seed}", digest(tensors))


@torch.no_grad()
def _unsettle(parameters: Iterable[tuple[str, Tensor]], ends: tuple[str, ...]) -> None:
    for key, parameter in parameters:
        if key.endswith(ends):
            parameter += 0.1 * torch.randn_like(parameter)
