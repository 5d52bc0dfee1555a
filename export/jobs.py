"""What a bundle has engines for: the mapping, the sub-networks, and the parts of other networks, each as one job."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from anycost.export.int8 import quantized
from anycost.export.reference import Reference
from anycost.export.trace import Traced, trace_mapping, trace_part, trace_synthesis
from anycost.export.variants import CALIBRATION_SAMPLES
from anycost.networks.channels import Architecture, Subnet
from anycost.networks.kinds import Kind, Part
from anycost.runtime import latents
from anycost.runtime.backends import Engine
from anycost.runtime.manifest import MAPPING, PartRecord, PortRecord
from anycost.runtime.samples import inputs_of

Arrays = dict[str, np.ndarray]
_CALIBRATION_SEED = 10_000  # No seed of the reference's samples.


class Job(Protocol):
    """One graph: what its engines are called, which weights they take, and how they are made and checked.

    basis: what its engines depend on beside the weights, for their keys.
    """

    name: str
    weights: str
    basis: dict[str, Any]

    def form(self, precision: str, fused: bool = False) -> str:
        """What graph engines of ``precision`` are made from: the precision, and whether it is that of the fused kernels. A graph
        that nothing changes in is float32's."""
        ...

    def trace(self, precision: str, calibration: int = CALIBRATION_SAMPLES, fused: bool = False) -> Traced:
        """calibration: how many samples int8 activations are scaled by. A graph without int8 form is float32 there. fused: in
        the layouts of the fused kernels, where the graph is a generator's."""
        ...

    def sample(self) -> tuple[Arrays, dict[str, str]]:
        """The reference's outputs for the stored samples, and notes to keep with them."""
        ...

    def run(self, engine: Engine) -> Arrays:
        """An engine's outputs for the same samples."""
        ...


class MappingJob:
    basis: dict[str, Any]

    def __init__(self, arch: Architecture, reference: Reference, weights: str):
        self.name, self.weights, self.basis = MAPPING, weights, {}
        self._arch, self._reference = arch, reference

    def form(self, precision: str, fused: bool = False) -> str:
        return "fp32"  # w decides everything, and costs little.

    def trace(self, precision: str, calibration: int = CALIBRATION_SAMPLES, fused: bool = False) -> Traced:
        return trace_mapping(self._arch, self._reference.generator.state_dict())

    def sample(self) -> tuple[Arrays, dict[str, str]]:
        return {"w": self._reference.mapping()}, {}

    def run(self, engine: Engine) -> Arrays:
        return engine.run({"z": self._reference.latents["z"]})


class SubnetJob:
    basis: dict[str, Any]

    def __init__(self, arch: Architecture, net: Subnet, reference: Reference, weights: str):
        self.name, self.weights, self.basis = net.name, weights, {"net": asdict(net)}
        self.net = net
        self._arch, self._reference = arch, reference

    def form(self, precision: str, fused: bool = False) -> str:
        return f"{precision}-fused" if fused else precision

    def trace(self, precision: str, calibration: int = CALIBRATION_SAMPLES, fused: bool = False) -> Traced:
        state = self._reference.generator.state_dict()
        stored = self._reference.stored_noise
        traced = trace_synthesis(self._arch, self.net, state, stored, _float_form(precision), fused)
        return quantized(traced, self._calibration(calibration)) if precision == "int8" else traced

    @torch.no_grad()
    def _calibration(self, count: int) -> list[Arrays]:
        """Inputs of single images: codes of seeds that no reference sample has, untruncated, and random noise."""
        found = []
        for seed in range(_CALIBRATION_SEED, _CALIBRATION_SEED + count):
            z = latents.latents([seed], self._arch.style_dim)
            w = self._reference.generator.mapping(torch.from_numpy(z)).numpy()
            inputs = {"w_plus": latents.mix(w, self._arch.n_style)}
            if not self._reference.stored_noise:
                noise = latents.random_noise(seed, 1, self.net.resolution)
                inputs |= {f"noise_{i}": layer for i, layer in enumerate(noise)}
            found.append(inputs)
        return found

    def sample(self) -> tuple[Arrays, dict[str, str]]:
        distance = repr(round(self._reference.distance(self.net), 6))
        return {"image": self._reference.synthesis(self.net)}, {"distance": distance}

    def run(self, engine: Engine) -> Arrays:
        """One sample at a time, as on a device."""
        stored = self._reference.latents
        noise = [] if self._reference.stored_noise else self._reference.noise(self.net)
        outputs = []
        for i in range(len(stored["w_plus"])):
            inputs = {"w_plus": stored["w_plus"][i : i + 1]}
            inputs |= {f"noise_{k}": np.ascontiguousarray(layer[i : i + 1]) for k, layer in enumerate(noise)}
            outputs.append(engine.run(inputs)["image"])
        return {"image": np.concatenate(outputs)}


class PartJob:
    basis: dict[str, Any]

    def __init__(self, record: PartRecord, network: nn.Module, part: Part, weights: str):
        self.name, self.weights, self.basis = record.name, weights, {"part": record.model_dump()}
        self._record, self._network, self._part = record, network, part

    def form(self, precision: str, fused: bool = False) -> str:
        return _float_form(precision)

    def trace(self, precision: str, calibration: int = CALIBRATION_SAMPLES, fused: bool = False) -> Traced:
        return trace_part(self._network, self._part, self.form(precision))

    @functools.cached_property
    def _inputs(self) -> Arrays:
        return inputs_of(self._record)

    @torch.no_grad()
    def sample(self) -> tuple[Arrays, dict[str, str]]:
        found = self._part.run(self._network, *[torch.from_numpy(x) for x in self._inputs.values()])
        tensors: Sequence[Tensor] = found if isinstance(found, tuple) else (found,)
        outputs = {port.name: x.numpy() for port, x in zip(self._part.outputs, tensors, strict=True)}
        return outputs, {}

    def run(self, engine: Engine) -> Arrays:
        return engine.run(self._inputs)


def _float_form(precision: str) -> str:
    """What is traced: int8 starts from float32, and stays there where nothing is quantized."""
    return "fp32" if precision == "int8" else precision


def part_records(name: str, kind: Kind, arguments: Mapping[str, Any]) -> list[tuple[PartRecord, Part]]:
    """The parts of a network called ``name``, with their multiply-adds for one sample."""
    with torch.device("meta"):
        network = kind.make(**arguments).eval().requires_grad_(False)
        parts = kind.parts(network)
        return [
            (
                PartRecord(
                    name=f"{name}.{part.name}" if part.name else name,
                    inputs=_ports(part.inputs),
                    outputs=_ports(part.outputs),
                    macs=_macs(network, part),
                ),
                part,
            )
            for part in parts
        ]


def _ports(ports: Sequence[Any]) -> tuple[PortRecord, ...]:
    return tuple(PortRecord(name=port.name, shape=port.shape, values=port.values) for port in ports)


def _macs(network: nn.Module, part: Part) -> int:
    """Of convolutions and matrix products; counted without computing them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        part.run(network, *[torch.zeros(1, *port.shape) for port in part.inputs])
    return counter.get_total_flops() // 2
