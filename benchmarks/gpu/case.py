"""What a contender is given, and what it has to offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from anycost.benchmarks.gpu.job import Job
from anycost.benchmarks.gpu.machine import Call, Machine
from anycost.benchmarks.gpu.reference import Expected
from anycost.networks.channels import Subnet
from anycost.weights.checkpoint import Checkpoint

Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """What one contender is measured with. nets: the sub-networks, in the order they run."""

    job: Job
    checkpoint: Checkpoint
    machine: Machine
    expected: Expected
    nets: tuple[Subnet, ...]

    def codes(self, batch: int) -> Array:
        """w+ float32 [batch, n_style, style_dim]: the reference's, repeated."""
        stored = self.expected.codes
        return np.ascontiguousarray(np.resize(stored, (batch, *stored.shape[1:])))


class Loaded(Protocol):
    """One sub-network, ready to run."""

    def on_device(self, batch: int) -> Call | None:
        """Starts a run whose input and output lie on the device; None where a contender has no such thing."""
        ...

    def through_host(self, batch: int) -> Call:
        """A run from NumPy to NumPy, whole on return."""
        ...

    def run(self, w_plus: Array) -> Array:
        """w+ [N, n_style, style_dim] -> images float32 [N, 3, R, R]."""
        ...

    def sizes(self) -> dict[str, int]:
        """Bytes that it knows of itself."""
        ...


class Contender(Protocol):
    """failed: sub-networks that it cannot run, with the reason, known before any is loaded."""

    failed: Mapping[str, str]

    def load(self, net: Subnet) -> Loaded: ...

    def load_all(self, nets: Sequence[Subnet]) -> list[Loaded]:
        """All at a time, sharing what can be shared."""
        ...

    def notes(self) -> dict[str, Any]:
        """What else there is to say, asked for after all was measured and nothing is loaded any more."""
        ...
