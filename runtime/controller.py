"""Choosing an engine again and again while the machine's speed changes: down at once, up again with patience."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from anycost.errors import BudgetError
from anycost.runtime.budget import Budget
from anycost.runtime.bundle import Bundle
from anycost.runtime.choose import Choice, Row, best_first, choose, table
from anycost.runtime.estimates import ALLOWED, REMEMBERED, WINDOW, Estimates
from anycost.runtime.profile import Profile

CLEARLY = 1.1  # times the budget: two requests of three above that are no chance
MARGIN = 0.9  # share of the budget that an engine's estimate has to be within, to be moved to
FIRST_WAIT_S = 2.0  # until an engine that was left is tried again
LONGEST_WAIT_S = 300.0
LONGEST_PAUSE_S = 60.0  # between two steps up
PATIENCE = 4  # after so many waits, an engine is tried again without the margin
KEPT_SWITCHES = 64


@dataclass(frozen=True)
class Switch:
    """One change of engine. at: seconds of the controller's clock. source, target: engine names. reason: a sentence's part.
    down: to a faster engine."""

    at: float
    source: str
    target: str
    reason: str
    down: bool


@dataclass
class _Trial:
    """What became of an engine that was left. wait: seconds from ``left`` until it is tried again."""

    left: float
    wait: float


@dataclass
class _Lane:
    """The choice among one set of engines. only: sub-network and backend. order: what the budget allows but for time, the best
    first. entered: when the chosen was switched to; seen: after how many of its observations; tried: whether upwards.
    pause: seconds between two steps up."""

    only: tuple[str | None, str | None]
    order: list[Row]
    choice: Choice
    entered: float
    seen: int = 0
    tried: bool = False
    pause: float = FIRST_WAIT_S
    trials: dict[str, _Trial] = field(default_factory=dict)


class Controller:
    """The best engine for a budget now. Deterministic: nothing but observations and ``clock`` (seconds) moves it.

    Down: when two of the last three requests took clearly longer than the budget (1.1 times), three of the last four
    longer than it, or more than 5% of the last 128. The first finds within two requests that the machine is slower, the
    others what is slightly too slow, and none takes a slow request in thirty for more than it is. The best engine whose
    estimate (``Estimates``) leaves a margin is taken; when nothing fits, the fastest, and the choice says so. A machine
    that is slower shows on one engine and counts for all.

    Up: a better engine is taken when its profile times the slowdown that is seen leaves the margin. One that was left is
    tried again after two seconds at the earliest; each time that it fails again before it ran for twice that wait and 64
    requests, the wait doubles, up to five minutes, as does the pause between any two steps up, to a minute. After four
    waits the margin is waived, so that an engine which just fits comes back. So after a slowdown that ends, the better
    engine is back within 58 requests (or a minute and four requests) and its wait; a load that comes back later than twice
    the wait is followed, and one that comes back sooner costs a number of switches that grows with the logarithm of time.

    ``choose`` gives a choice, ``observe`` takes what it took. Only requests of one image tell all there is to know
    (``Estimates``). Thread-safe. ``estimates``: to share what is seen with controllers of other budgets.
    """

    def __init__(
        self,
        bundle: Bundle,
        profile: Profile | None,
        budget: Budget,
        clock: Callable[[], float] = time.monotonic,
        *,
        estimates: Estimates | None = None,
        threads: int | None = None,
    ):
        self.bundle = bundle
        self.profile = profile
        self.budget = budget
        self.clock = clock
        self.estimates = estimates or Estimates(bundle, profile, threads=threads, clock=clock)
        self._lock = threading.RLock()
        self._lanes: dict[tuple[str | None, str | None], _Lane] = {}
        self._switches: deque[Switch] = deque(maxlen=KEPT_SWITCHES)

    def choose(self, *, subnet: str | None = None, backend: str | None = None) -> Choice:
        """The engine for the next request. subnet, backend: consider only these; each such set has a state of its own.

        Its rows are those of the last switch; ``table`` gives them as they are now. Raises BudgetError when nothing fits
        even on the machine that was profiled.
        """
        with self._lock:
            lane = self._lanes.get((subnet, backend)) or self._start(subnet, backend)
            if self.budget.latency_ms is not None:
                self._step(lane, self.budget.latency_ms)
            return lane.choice

    def observe(self, engine: str, latency_ms: float, batch: int = 1) -> None:
        """What a request took, the mapping included and waiting in queues left out: see ``Estimates.observe``."""
        self.estimates.observe(engine, latency_ms, batch)

    def history(self) -> tuple[Switch, ...]:
        """The last 64 switches, the oldest first."""
        with self._lock:
            return tuple(self._switches)

    def table(self, *, subnet: str | None = None, backend: str | None = None) -> list[Row]:
        """All engines with their profile or prediction, what they take now, and why each does not fit now."""
        return self._table(self.budget, subnet, backend, self.estimates.now())

    def _table(self, budget: Budget, subnet: str | None, backend: str | None, now: dict[str, float]) -> list[Row]:
        return table(
            self.bundle,
            budget,
            self.profile,
            subnet=subnet,
            backend=backend,
            predictions=self.estimates.predictions,
            now=now,
        )

    def _start(self, subnet: str | None, backend: str | None) -> _Lane:
        def first(now: dict[str, float] | None) -> Choice:
            known = self.estimates.predictions
            return choose(
                self.bundle, self.budget, self.profile, subnet=subnet, backend=backend, predictions=known, now=now
            )

        now = self.estimates.now()
        fits = True
        try:
            choice = first(now)
        except BudgetError:
            choice = first(None)  # Raises where even the machine that was profiled is too slow.
            fits = False
        untimed = replace(self.budget, latency_ms=None)
        rows = [row for row in self._table(untimed, subnet, backend, {}) if row.runs and not row.misfit]
        timed = [row for row in rows if self.estimates.base(row.engine.name) is not None]
        lane = _Lane((subnet, backend), best_first(timed, self.budget), choice, self.clock())
        if not fits:
            reason = f"nothing fits for the moment: the machine is at {self.estimates.slowdown():.2f} times its profile"
            lane.choice = self._chosen(lane, self._fastest(lane), reason, fits=False)
        lane.seen = self.estimates.count(lane.choice.engine.name)
        self._lanes[lane.only] = lane
        return lane

    def _step(self, lane: _Lane, limit: float) -> None:
        now = self.clock()
        name = lane.choice.engine.name
        if problem := exceeded(self.estimates.recent(name, self.estimates.count(name) - lane.seen), limit):
            self._down(lane, limit, now, problem)
            return
        if not lane.choice.fits and (took := self.estimates.p95(name)) <= limit:
            reason = f"{name} fits again: p95 now {took:.2f} ms, within {limit:g}"
            lane.choice = replace(lane.choice, fits=True, reason=reason)
        if now - lane.entered >= lane.pause:
            self._up(lane, limit, now)

    def _down(self, lane: _Lane, limit: float, now: float, problem: str) -> None:
        name = lane.choice.engine.name
        problem += f"; the machine is at {self.estimates.slowdown():.2f} times its profile"
        others = [row for row in lane.order if row.engine.name != name and self._ready(lane, row, now)]
        expected = {row.engine.name: self.estimates.elsewhere(row.engine.name) for row in others}
        safe = [row for row in others if expected[row.engine.name] <= MARGIN * limit]
        fitting = safe or [row for row in others if expected[row.engine.name] <= limit]
        if fitting:
            target, fits = fitting[0], True
        else:
            target, fits = self._fastest(lane), False
        if target.engine.name == name:
            if lane.choice.fits:
                lane.choice = replace(lane.choice, fits=False, reason=f"{name} is the fastest there is; {problem}")
            return
        self._left(lane, name, now)
        for row in lane.order:
            if row.engine.name == target.engine.name:
                break
            # Passed over, not failed: it has its first wait, unless it waits already.
            lane.trials.setdefault(row.engine.name, _Trial(now, FIRST_WAIT_S))
        if fits and self._base(target.engine.name) > self._base(
            name
        ):  # It was the fastest, and the machine is free again.
            problem = f"expected p95 {expected[target.engine.name]:.2f} ms, within {limit:g}"
        self._switch(lane, target, now, problem, fits=fits)

    def _up(self, lane: _Lane, limit: float, now: float) -> None:
        name = lane.choice.engine.name
        for row in lane.order:
            better = row.engine.name
            if better == name:
                return
            trial = lane.trials.get(better)
            if not self._ready(lane, row, now):
                continue
            patient = trial is not None and now - trial.left >= PATIENCE * trial.wait
            expected = self.estimates.elsewhere(better)
            if expected <= (limit if patient else MARGIN * limit):
                reason = f"expected p95 {expected:.2f} ms, within {limit:g}"
                self._switch(lane, row, now, reason, fits=True)
                return

    def _ready(self, lane: _Lane, row: Row, now: float) -> bool:
        trial = lane.trials.get(row.engine.name)
        return trial is None or now - trial.left >= trial.wait

    def _left(self, lane: _Lane, name: str, now: float) -> None:
        """Note that an engine failed, and whether it had held since it was tried."""
        trial = lane.trials.get(name)
        wait = trial.wait if trial else FIRST_WAIT_S
        ran = self.estimates.count(name) - lane.seen
        if ran >= WINDOW and now - lane.entered >= 2 * max(wait, lane.pause):
            wait = lane.pause = FIRST_WAIT_S
        elif lane.tried:
            wait, lane.pause = min(2 * wait, LONGEST_WAIT_S), min(2 * lane.pause, LONGEST_PAUSE_S)
        lane.trials[name] = _Trial(now, wait)

    def _switch(self, lane: _Lane, row: Row, now: float, reason: str, *, fits: bool) -> None:
        source, target = lane.choice.engine.name, row.engine.name
        down = self._base(target) < self._base(source)
        self._switches.append(Switch(now, source, target, reason, down))
        lane.entered, lane.seen, lane.tried = now, self.estimates.count(target), not down
        lane.choice = self._chosen(lane, row, f"after {source}: {reason}" if fits else reason, fits=fits)

    def _chosen(self, lane: _Lane, row: Row, reason: str, *, fits: bool) -> Choice:
        name = row.engine.name
        found = self.table(subnet=lane.only[0], backend=lane.only[1])
        rows = tuple(replace(other, chosen=other.engine.name == name) for other in found)
        said = f"{name}, {reason}" if fits else f"{name} is the fastest there is; {reason}"
        return Choice(row.subnet, row.engine, row.measured, said, rows, row.predicted, fits)

    def _fastest(self, lane: _Lane) -> Row:
        # By what does not move, so that two engines of one speed do not take turns.
        return min(lane.order, key=lambda row: self._base(row.engine.name))

    def _base(self, engine: str) -> float:
        return self.estimates.base(engine) or math.inf


def exceeded(newest_first: Sequence[float], limit: float) -> str:
    """Why these latencies (ms) say that an engine does not keep a limit; empty when they do not."""
    last = sorted(newest_first[:3], reverse=True)
    if len(last) >= 2 and last[1] > CLEARLY * limit:
        return f"two of the last three requests took {last[1]:.2f} ms or more, above {limit:g}"
    four = sorted(newest_first[:4], reverse=True)
    if len(four) >= 3 and four[2] > limit:
        return f"three of the last four requests took {four[2]:.2f} ms or more, above {limit:g}"
    above = sum(latency > limit for latency in newest_first[:REMEMBERED])
    if above > ALLOWED * REMEMBERED:
        return f"{above} of the last {len(newest_first)} requests took more than {limit:g} ms"
    return ""
