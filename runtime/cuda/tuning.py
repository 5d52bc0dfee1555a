"""Choosing among the alternatives of a program's steps by timing them on the device at hand, once for each batch size."""

from __future__ import annotations

import hashlib
import logging
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from anycost.errors import BackendError
from anycost.runtime.cuda.devices import CudaDevice
from anycost.runtime.cuda.program import Choice
from anycost.runtime.files import write_whole
from anycost.runtime.profile import cache_folder

Array = np.ndarray
# For each step, the choices that the device can run; the first is the default.
Available = Sequence[Sequence[Choice]]

ROUNDS = 5  # of which the median counts
# Differences of two ways to compute the same, relative to the largest value: sums in another order, and for half precision a
# few roundings at other places. What is wrong differs by far more.
BOUNDS = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}

_log = logging.getLogger(__name__)


class TuningRecord(BaseModel):
    """What was chosen, by step, and how long each choice took. device: its name, target and driver."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    program_sha256: str
    batch: int
    chosen: dict[str, str]
    times_ms: dict[str, dict[str, float]] = {}


class Bench(Protocol):
    """What runs the choices of a step: see ``program_engine``."""

    def run(self, choice: Choice) -> None:
        """Put it on the stream."""
        ...

    def clear(self, step: int) -> None:
        """Overwrite what the step leaves to later ones."""
        ...

    def results(self, step: int) -> Mapping[str, Array]:
        """What the step leaves to later ones, both ends of the last image of the batch, in float32."""
        ...

    def timed_ms(self, choice: Choice) -> float:
        """How long one run of it takes on the device."""
        ...


@dataclass(frozen=True)
class Tuning:
    """The choices of one program on one device. enabled: otherwise the first choice is always taken."""

    device: CudaDevice
    program_sha256: str
    precision: str
    names: Sequence[str]
    enabled: bool

    @property
    def device_name(self) -> str:
        driver = f"{self.device.driver[0]}.{self.device.driver[1]}"
        return f"{self.device.name} ({self.device.target}), driver {driver}"

    def known(self, batch: int, available: Available) -> list[Choice] | None:
        """The choices for a batch size, None where they have to be measured."""
        first = [choices[0] for choices in available]
        if not self.enabled or all(len(choices) == 1 for choices in available):
            return first
        try:
            record = TuningRecord.model_validate_json(self._path(batch).read_bytes())
        except (OSError, ValidationError):  # none, or damaged: it is only a cache
            return None
        if (record.device, record.program_sha256, record.batch) != (self.device_name, self.program_sha256, batch):
            return None
        found = []
        for name, choices in zip(self.names, available, strict=True):
            labels = [choice.label for choice in choices]
            if record.chosen.get(name) not in labels:
                return None
            found.append(choices[labels.index(record.chosen[name])])
        return found

    def measure(self, batch: int, available: Available, bench: Bench) -> list[Choice]:
        """Run all steps in order, take the fastest choice of each, and keep what was chosen in the user's cache.

        A choice that gives something else than the first is left out, with a warning.
        """
        chosen: list[Choice] = []
        times: dict[str, dict[str, float]] = {}
        for i, choices in enumerate(available):
            name, best = self.names[i], choices[0]
            if len(choices) > 1:
                right = self._right(i, choices, bench)
                taken = [self._time(choice, bench) for choice in right]
                best = right[taken.index(min(taken))]
                times[name] = {choice.label: time for choice, time in zip(right, taken, strict=True)}
            # Again, so that the following steps and the caller get what later runs will compute.
            bench.run(best)
            chosen.append(best)
        record = TuningRecord(
            device=self.device_name,
            program_sha256=self.program_sha256,
            batch=batch,
            chosen={name: choice.label for name, choice in zip(self.names, chosen, strict=True)},
            times_ms=times,
        )
        path = self._path(batch)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, record.model_dump_json(indent=1).encode())
        except OSError:
            pass  # Then it is measured again next time.
        return chosen

    def _right(self, step: int, choices: Sequence[Choice], bench: Bench) -> list[Choice]:
        """The choices that leave what the first does."""
        found: list[Choice] = []
        expected: Mapping[str, Array] = {}
        for choice in choices:
            bench.clear(step)
            try:
                bench.run(choice)
                results = bench.results(step)
            except BackendError as error:
                # One that this device cannot start; were the device itself gone, the first would have failed.
                if not found:
                    raise
                self._drop(step, choice, str(error))
                continue
            difference = _difference(expected, results) if found else 0.0
            if difference <= BOUNDS[self.precision]:
                found.append(choice)
                expected = expected or results
            else:
                self._drop(step, choice, f"it differs by {difference:.2g} of the largest value")
        return found

    def _drop(self, step: int, choice: Choice, reason: str) -> None:
        _log.warning(
            "%s: choice %s of step %s is left out: %s", self.device_name, choice.label, self.names[step], reason
        )

    def _time(self, choice: Choice, bench: Bench) -> float:
        bench.timed_ms(choice)
        return statistics.median(bench.timed_ms(choice) for _ in range(ROUNDS))

    def _path(self, batch: int) -> Path:
        key = hashlib.sha256(f"{self.device_name}|{self.program_sha256}".encode()).hexdigest()[:32]
        return cache_folder() / "tuning" / key / f"{batch}.json"


def enabled() -> bool:
    """Whether programs may be tuned: the environment variable ANYCOST_TUNE=0 forbids it."""
    return os.environ.get("ANYCOST_TUNE", "1") != "0"


def _difference(expected: Mapping[str, Array], found: Mapping[str, Array]) -> float:
    """The largest difference relative to the largest value of each array, infinite where one has none."""
    worst = 0.0
    for name, array in expected.items():
        scale = max(float(np.abs(array).max()), 1e-30)
        with np.errstate(invalid="ignore"):
            difference = float(np.abs(array - found[name]).max()) / scale
        worst = max(worst, difference if np.isfinite(difference) else float("inf"))
    return worst
