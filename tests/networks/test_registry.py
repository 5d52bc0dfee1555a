"""Every kind of network: told from its tensors, made again from them, and its parts take and give what they say."""

import pytest
import torch
from small_networks import OTHERS

from anycost.networks.kinds import Part
from anycost.networks.registry import BY_NAME, KINDS, identify


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
