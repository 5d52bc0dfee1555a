"""How a job becomes a call of a worker: the engine for it, and which jobs can share one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from anycost.runtime.budget import Budget
from anycost.runtime.manifest import MAPPING
from anycost.runtime.server.engines import Engines, Pick
from anycost.runtime.server.errors import NotFoundError, NothingFitsError
from anycost.runtime.server.jobs import Job


@dataclass(frozen=True)
class Call:
    """How a worker is called for some jobs. pick: the generator's engine, where one was picked. further: as of ``Result``."""

    operation: str
    how: Mapping[str, Any]
    pick: Pick | None
    further: tuple[str, ...] = ()


# (variant, sub-network, the one wanted next, p95 in ms, the budget's) -> the sub-networks on the way there.
Way = Callable[[str, str, str, float | None, float | None], tuple[str, ...]]


class Calls:
    """budget: of jobs that give none. max_batch: most rows of one call of an engine. way: which sub-networks lead on by
    segments, None where no worker could keep what they start from."""

    def __init__(self, engines: Engines | None, budget: Budget, max_batch: int, way: Way | None = None):
        self._engines, self._budget, self._max_batch, self._way = engines, budget, max_batch, way

    def of(self, job: Job, pressure: float, budget: Budget | None = None) -> Call:
        if job.operation in ("generate", "edit"):
            limits = budget or job.budget or self._usual(job)
            pick = self._found().pick(limits, job.subnet, job.backend, pressure)
            chunk = min(self._max_batch, pick.most_rows or self._max_batch)
            how: dict[str, Any] = {"subnet": pick.subnet, "variant": pick.variant, "chunk": chunk}
            further = self._further(pick, job.toward, limits) if job.toward else ()
            if further or job.segments:
                how["segments"] = True
            return Call("pictures", how, pick, further)
        if job.operation == "infer":
            how = {"model": job.model}
            pick_or_none = None
            if self._engines is not None and (job.model == MAPPING or job.subnet):
                pick_or_none = self._found().pick(Budget(), job.subnet, job.backend)
                how["variant"] = pick_or_none.variant
            return Call("infer", how, pick_or_none)
        return Call(job.operation, {"model": job.model}, None)

    def _further(self, pick: Pick, goal: str, limits: Budget) -> tuple[str, ...]:
        if self._way is None:
            return ()
        try:
            whole = self._found().pick(Budget(memory_mb=self._budget.memory_mb), goal, None)
        except NothingFitsError:
            return ()
        if whole.variant != pick.variant:
            return ()
        return self._way(pick.variant, pick.subnet, goal, pick.guess_ms or None, limits.latency_ms)

    def _usual(self, job: Job) -> Budget:
        """Of a job that gives none: who names a sub-network has said how long it may take, not how much memory."""
        return Budget(memory_mb=self._budget.memory_mb) if job.subnet else self._budget

    def _found(self) -> Engines:
        if self._engines is None:
            raise NotFoundError("this bundle holds no elastic generator: GET /v1/models lists what it has")
        return self._engines


def kin(job: Job) -> Hashable:
    """Jobs of the same kin can share a call of an engine; None for those that cannot share any."""
    if job.toward is not None or job.segments:
        return None
    if job.operation in ("generate", "edit"):
        return "pictures", job.budget, job.subnet, job.backend, job.arguments.get("noise", "stored")
    if job.operation == "infer":
        shapes = tuple((name, array.shape[1:]) for name, array in sorted(job.arrays.items()))
        return "infer", job.model, job.subnet, job.backend, shapes
    return ("encode", job.model, job.arguments.get("fit", "crop")) if job.operation == "encode" else None
