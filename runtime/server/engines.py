"""Which engine a job gets: the best that fits its budget, and a smaller one while the server is overloaded."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from anycost.errors import BackendError, BudgetError, BundleError
from anycost.runtime.budget import Budget
from anycost.runtime.bundle import Bundle
from anycost.runtime.choose import Choice, Row
from anycost.runtime.controller import Controller
from anycost.runtime.estimates import Estimates
from anycost.runtime.profile import Profile
from anycost.runtime.server.errors import NothingFitsError, RequestError

STEPS = 8  # between no pressure and full pressure
KEPT_BUDGETS = 64


class Chooser(Protocol):
    """Chooses for budgets, and learns from what calls took."""

    def choose(self, budget: Budget, *, subnet: str | None = None, backend: str | None = None) -> Choice: ...

    def observe(self, engine: str, latency_ms: float, batch: int) -> None: ...


class Controllers:
    """The chooser that follows what is seen: a controller for each budget, over one set of estimates."""

    def __init__(self, bundle: Bundle, profile: Profile | None, threads: int):
        self._bundle, self._profile = bundle, profile
        self.estimates = Estimates(bundle, profile, threads=threads)
        self._kept: OrderedDict[Budget, Controller] = OrderedDict()

    def controller(self, budget: Budget) -> Controller:
        """The same for the same budget, while it is among the last ones that were asked for."""
        found = self.peek(budget)
        self._kept.pop(budget, None)
        self._kept[budget] = found
        if len(self._kept) > KEPT_BUDGETS:
            self._kept.popitem(last=False)
        return found

    def peek(self, budget: Budget) -> Controller:
        """As ``controller``, but a new one is not kept: for reading only."""
        return self._kept.get(budget) or Controller(self._bundle, self._profile, budget, estimates=self.estimates)

    def choose(self, budget: Budget, *, subnet: str | None = None, backend: str | None = None) -> Choice:
        return self.controller(budget).choose(subnet=subnet, backend=backend)

    def observe(self, engine: str, latency_ms: float, batch: int) -> None:
        self.estimates.observe(engine, latency_ms, batch)


@dataclass(frozen=True)
class Pick:
    """An engine for a job. guess_ms: p95 of one image as far as it is known, or 0. most_rows: of one call, None for any.
    lowered: whether it is smaller than the budget alone would have it."""

    subnet: str
    variant: str
    resolution: int
    guess_ms: float
    most_rows: int | None
    lowered: bool = False

    @property
    def engine(self) -> str:
        return f"{self.subnet}/{self.variant}"


class Engines:
    """Picks for budgets and pressure."""

    def __init__(self, chooser: Chooser):
        self._chooser = chooser

    def pick(self, budget: Budget, subnet: str | None, backend: str | None, pressure: float = 0.0) -> Pick:
        """pressure: 0 (the best that fits) to 1 (the fastest that fits the other limits); a sub-network that is asked for
        by name stays. Raises RequestError for what the bundle does not have or this machine does not run."""
        choice = self.choice(budget, subnet, backend)
        best = next(row for row in choice.rows if row.chosen)
        step = round(max(0.0, min(1.0, pressure)) * STEPS)
        if subnet is not None or step == 0:
            return _pick(best, lowered=False)
        # A controller's choice need not fit for the moment.
        fitting = [row for row in choice.rows if row is best or not row.misfit]
        most, least = _cost(best), min(map(_cost, fitting))
        allowed = most + (least - most) * step / STEPS
        within = [row for row in fitting if _cost(row) <= allowed * (1 + 1e-9)]
        found = min(within, key=lambda row: (row.rank, _cost(row)))
        return _pick(found, lowered=found.subnet.name != best.subnet.name)

    def choice(self, budget: Budget, subnet: str | None = None, backend: str | None = None) -> Choice:
        """Raises RequestError."""
        try:
            return self._chooser.choose(budget, subnet=subnet, backend=backend)
        except BudgetError as error:
            raise NothingFitsError(str(error)) from None
        except (BundleError, BackendError) as error:
            raise RequestError(str(error)) from None

    def observe(self, engine: str, latency_ms: float, batch: int) -> None:
        self._chooser.observe(engine, latency_ms, batch)


def _cost(row: Row) -> float:
    """What an image takes by its profile, or by prediction: the figures of one table are compared with each other only, and
    must not move with the load."""
    known = row.measured or row.predicted
    return known.p95_ms if known else row.subnet.macs / 1e6


def _pick(row: Row, *, lowered: bool) -> Pick:
    return Pick(
        subnet=row.subnet.name,
        variant=row.engine.variant,
        resolution=row.subnet.resolution,
        guess_ms=row.p95_ms or 0.0,
        most_rows=row.engine.batch[2] if row.engine.batch else None,
        lowered=lowered,
    )
