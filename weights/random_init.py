"""Generators of a known shape with random weights: for trying a shape's speed and size before there is a checkpoint."""

from __future__ import annotations

import hashlib

import torch

from anycost.errors import CheckpointError
from anycost.networks.channels import Architecture
from anycost.networks.stylegan2 import Generator
from anycost.weights.checkpoint import Checkpoint

SHAPES = {
    "config-f": Architecture(1024, 2.0, 512, 512),
    "config-f-512": Architecture(512, 2.0, 512, 512),
    "tiny": Architecture(32, 0.0625, 64, 64, 4),
}


def random_checkpoint(name: str, seed: int = 0) -> Checkpoint:
    """A generator of shape ``name`` with its initial weights; noise strengths and biases are not left at zero, so that
    parity covers them. The same seed gives the same weights. Raises CheckpointError for an unknown name."""
    if name not in SHAPES:
        raise CheckpointError(f"random shape {name!r} is unknown: choose one of {', '.join(SHAPES)}")
    arch = SHAPES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Generator(arch.resolution, arch.channel_multiplier, arch.channel_max, arch.style_dim, arch.n_mlp)
        with torch.no_grad():
            for key, parameter in network.named_parameters():
                if key.endswith(("noise.weight", ".bias")):
                    parameter += 0.1 * torch.randn_like(parameter)
    tensors = {key: tensor.detach() for key, tensor in network.state_dict().items()}
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].numpy().tobytes())
    return Checkpoint(tensors, arch, f"random {name}, seed {seed}", digest.hexdigest())
