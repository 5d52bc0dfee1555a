"""One piece of a run, done in a process of its own: what it is told, and how it tells what it found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anycost.weights.checkpoint import Checkpoint

# emit(kind, **values) tells one finding; those of a process that dies later are kept.
Emit = Callable[..., None]


@dataclass(frozen=True)
class Job:
    """kind: ``device``, ``reference``, ``probe``, ``contender`` or ``kernels``. name: of the backend or the contender. model,
    random_init: one of the two. target: the device's compute capability, or what else engines are built for; empty for the CPU.
    folder: for everything that is kept between processes. seconds: of timing, for each figure. known: keys of problems that need
    no further run, for ``kernels``."""

    kind: str
    name: str
    model: str | None
    random_init: str | None
    subnets: tuple[str, ...]
    batches: tuple[int, ...]
    precision: str
    target: str
    folder: str
    threads: int
    seconds: float
    dry: bool
    known: tuple[str, ...] = ()

    def checkpoint(self) -> Checkpoint:
        """Raises CheckpointError, DownloadError."""
        from anycost.weights import catalogue
        from anycost.weights.checkpoint import read
        from anycost.weights.random_init import random_checkpoint

        if self.random_init:
            return random_checkpoint(self.random_init)
        return read(catalogue.resolve(self.model or ""))

    @property
    def reference(self) -> Path:
        return Path(self.folder) / "reference.npz"

    @property
    def bundle(self) -> Path:
        return Path(self.folder) / f"{self.name}-{self.precision}"

    def json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Job:
        values: dict[str, Any] = json.loads(text)
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**(values | lists))
