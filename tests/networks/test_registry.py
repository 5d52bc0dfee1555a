"""Every kind of network: told from its tensors, made again from them, and its parts take and give what they say."""

import pytest
import torch

from anycost.networks.kinds import Part
from anycost.networks.registry import BY_NAME, KINDS, identify

# Other shapes than the default ones, so that what is inferred is not the default by accident.
OTHERS = {
    "encoder": {"n_style": 10, "style_dim": 64},
    "attributes": {"attributes": 7},
    "discriminator": {"resolution": 32, "channel_multiplier": 0.125, "channel_max": 64},
    "multires-discriminator": {
        "resolution": 64,
        "channel_multiplier": 0.0625,
        "channel_max": 48,
        "n_res": 2,
        "modulate": True,
    },
    "context-encoder-256": {"bottleneck": 100},
    "gans-n-roses": {
        "size": 64,
        "num_down": 2,
        "latent_dim": 6,
        "n_mlp": 3,
        "n_res": 2,
        "channels": {4: 24, 8: 20, 16: 16, 32: 12, 64: 8},
    },
    "dcgan": {"nz": 20, "features": 8, "channels": 1},
    "lsgan": {"nz": 20, "features": 8, "channels": 1},
    "mnist-cnn": {"nz": 30, "features": 16},
    "mnist-digits": {"nz": 30, "features": 8},
    "mlp-gan": {"nz": 64},
    "cyclegan": {"features": 8, "blocks": 6},
    "discogan": {"extra_layers": False},
    "stylegan1": {"code_dim": 64, "n_mlp": 3, "blocks": 5},
    "transgan": {"dim": 64, "depth": [2, 1, 3], "latent_dim": 40, "width": 8},
    "tagger": {"tags": 12},
}


def shapes_of(network):
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def run(network, part: Part, batch: int):
    inputs = [torch.zeros(batch, *port.shape) for port in part.inputs]
    found = part.run(network, *inputs)
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_is_told_and_made_again_from_its_shapes(kind):
    for arguments in (kind.arguments, OTHERS.get(kind.name, kind.arguments)):
        with torch.device("meta"):
            network = kind.make(**arguments)
            shapes = shapes_of(network)
            if kind.name != "lsgan":
                assert identify(shapes) is kind
            again = kind.make(**kind.infer(shapes))
        assert shapes_of(again) == shapes


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_parts_take_and_give_what_they_say(kind):
    """On the meta device: shapes only. Names of parts differ."""
    with torch.device("meta"):
        network = kind.make(**kind.arguments).eval()
        parts = kind.parts(network)
        assert len({part.name for part in parts}) == len(parts)
        for part in parts:
            for batch in (1, 4):
                found = run(network, part, batch)
                assert [tuple(x.shape) for x in found] == [(batch, *port.shape) for port in part.outputs]


def test_lsgan_needs_to_be_named():
    """Its weights are DCGAN's in shape: the loss is what differs."""
    assert BY_NAME["lsgan"].make is BY_NAME["dcgan"].make
