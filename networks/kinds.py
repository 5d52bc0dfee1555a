"""What a kind of network is: how it is made, told from a checkpoint's tensors, and which graphs run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

Arguments = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
# What samples of an input are drawn from: standard normal numbers; pictures in [-1, 1]; pictures in [0, 1]; one-hot vectors
# of four, concatenated.
Values = Literal["normal", "image", "unit", "onehot"]


@dataclass(frozen=True)
class Port:
    """An input or output: shape without the batch axis."""

    name: str
    shape: tuple[int, ...]
    values: Values = "normal"


@dataclass(frozen=True)
class Part:
    """One graph of a network. run(network, *inputs) -> a tensor, or as many as there are outputs.

    name: empty where the network has one part only. Every input and output has the batch as its first axis.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    run: Callable[..., Tensor | tuple[Tensor, ...]] = lambda network, *inputs: network(*inputs)
    name: str = ""


@dataclass(frozen=True)
class Kind:
    """A kind of network.

    source: the paper. file: the published checkpoint's name, or whose names the parameters have. is_one(shapes): whether
    tensors of these names and shapes are of this kind. infer(shapes): its arguments. arguments: what ``make`` is given where
    there is no checkpoint. keys: under which a training checkpoint holds it, the best first. labels: what its outputs are
    called. prepare(tensors): without what a file holds and the network does not use.
    """

    name: str
    title: str
    source: str
    file: str
    make: Callable[..., nn.Module]
    is_one: Callable[[Shapes], bool]
    infer: Callable[[Shapes], Arguments]
    parts: Callable[[Any], Sequence[Part]]
    arguments: Arguments = field(default_factory=dict)
    keys: tuple[str, ...] = ("g_ema", "state_dict", "generator", "model", "netG", "G")
    labels: tuple[str, ...] = ()
    prepare: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict


def image(name: str, side: int, channels: int = 3, values: Values = "image") -> Port:
    return Port(name, (channels, side, side), values)


def has(*names: str) -> Callable[[Shapes], bool]:
    """Whether all these tensors are there."""
    return lambda shapes: all(name in shapes for name in names)
