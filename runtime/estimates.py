"""What the engines take now: the profile, corrected by the latencies that are seen while running."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from anycost.errors import InputError
from anycost.runtime.bundle import Bundle
from anycost.runtime.predict import Prediction, predict
from anycost.runtime.profile import Profile

WINDOW = 64  # samples that a p95 is of
REMEMBERED = 128  # samples of one engine
FORGETS = 0.98  # what a sample counts for against the one after it
OLD_S = 60.0  # samples that are older say little of now, and give way to
KEPT = 4  # this many newer ones
ALLOWED = 0.05  # the share above a p95
_WEIGHTS = [FORGETS**i for i in range(WINDOW)]
_TOTAL = sum(_WEIGHTS)
# Of the moving average of what a further image of a batch costs: down, and up, where a slower machine looks the same.
_GAIN_DOWN, _GAIN_UP = 0.1, 0.02
_MOST_GROWTH = 1.5
_P50 = 0.85  # of a p95, where it was not measured


def weighted_p95(newest_first: Iterable[float], prior: float, above: float = ALLOWED) -> float:
    """95th percentile (or that with a share of ``above`` over it) of at most WINDOW samples, exponentially weighted;
    ``prior`` stands for those that are missing.

    The newest sample holds 2.8% of the weight. So one slow sample is what a p95 allows, and moves nothing; two in
    succession (within nine), or three within sixty, are more than it allows, and move it at once as far as they are slow.
    Moving averages of the mean and the deviation cannot do that: they either follow a lone outlier or take many samples
    for a step. After 58 samples at a lower level nothing is left of the higher one.
    """
    samples = list(islice(newest_first, WINDOW))
    weighted = list(zip(samples, _WEIGHTS, strict=False))
    weighted.append((prior, sum(_WEIGHTS[len(samples) :])))
    over = 0.0
    for value, weight in sorted(weighted, reverse=True):
        over += weight
        if over > above * _TOTAL:
            return value
    return prior


@dataclass(frozen=True)
class _Seen:
    """One run: seconds, ms an image, and the p50 and p95 that the profile gave for it."""

    at: float
    took: float
    p50: float
    p95: float


@dataclass
class _Own:
    """Samples of one engine. latest: number of the observation that the newest is from. singles: how many, ever, were of
    one image. growth: what a further image of a batch costs, as a share of the first."""

    samples: deque[float]
    latest: int = 0
    singles: int = 0
    count: int = 0
    growth: float = 1.0


class Estimates:
    """p95 in ms of every engine of a generator, now. Thread-safe; time comes from ``clock`` (seconds) alone.

    An engine that runs goes by its own samples. One that does not is expected to take the less of two: its p95 in the
    profile times the slowdown of the machine (a weighted p95 of latency by profile, over all that runs); and that p95 times
    the typical slowdown (a median, of the last three or of all), and the milliseconds lost beyond it (a p95 again). The
    first is right where all is slower; the second on a busy machine, which takes whole slices of time now and then: some
    milliseconds are many times what a small engine takes, and say little of a large one.

    An engine without a measurement is predicted. What is seen of it says little of the machine until a window of samples
    is full; then it counts as known, and the others are predicted anew. With no measurement at all the first engine that
    runs tells how fast the machine is.

    Batches: a batch of n is taken to cost ``1 + growth * (n - 1)`` times one image. growth starts at 1 and follows what
    is seen, slowly. As it may be too large, a batch can show that the machine is slower than the profile, never that it is
    faster.
    """

    def __init__(
        self,
        bundle: Bundle,
        profile: Profile | None,
        *,
        threads: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.bundle = bundle
        self.profile = profile
        self.clock = clock
        self._threads = threads
        self._lock = threading.RLock()
        nets = {net.name for net in bundle.generator.subnets}
        measured = profile.engines if profile else {}
        self._known = {name: m.p95_ms for name, m in measured.items() if name.rpartition("/")[0] in nets}
        self.predictions: Mapping[str, Prediction] = predict(bundle, profile, threads=threads)
        self._own: dict[str, _Own] = {}
        self._p50 = {name: measured[name].p50_ms for name in self._known}
        self._all: deque[_Seen] = deque(maxlen=WINDOW)  # newest first
        self._count = 0
        self._state_of = (-1, 0)
        self._found = (1.0, 1.0, 0.0)

    def base(self, engine: str) -> float | None:
        """p95 in ms of one image by profile, by what was learnt while running, or by prediction; None of an unknown engine."""
        known = self._known.get(engine)
        if known is not None:
            return max(known, 1e-6)
        guess = self.predictions.get(engine)
        return guess.p95_ms if guess else None

    def observe(self, engine: str, latency_ms: float, batch: int = 1) -> None:
        """One run of an engine: the way from z (or w+) to the image that a profile times, of ``batch`` images together.

        An engine of another network, or one that can only fail here, is passed over. Raises InputError for a latency that is
        not a positive number and for a batch below 1.
        """
        if not (math.isfinite(latency_ms) and latency_ms > 0):
            raise InputError(f"latency {latency_ms:g} ms of {engine} is not a positive number")
        if batch < 1:
            raise InputError(f"batch {batch} of {engine} is below 1")
        with self._lock:
            base = self.base(engine)
            if base is None:
                return
            own = self._own.setdefault(engine, _Own(deque(maxlen=REMEMBERED)))
            single = latency_ms
            if batch > 1:
                single = max(latency_ms / self._times(own, batch), base)
                seen = min(max((latency_ms / self.p95(engine) - 1) / (batch - 1), 0.0), _MOST_GROWTH)
                own.growth += (_GAIN_UP if seen > own.growth else _GAIN_DOWN) * (seen - own.growth)
            self._count += 1
            own.latest, own.count = self._count, own.count + 1
            own.samples.appendleft(single)
            own.singles += batch == 1
            if engine in self._known or not self._known:
                self._all.appendleft(_Seen(self.clock(), single, self._typical(engine), base))
            if engine not in self._known and own.singles >= WINDOW:
                self._learn(engine, own)

    def p95(self, engine: str, batch: int = 1) -> float:
        """Milliseconds that a call of this engine with a batch takes now, 95 times of 100. Raises InputError for an engine
        that nothing is known of."""
        with self._lock:
            base = self.base(engine)
            if base is None:
                raise InputError(f"nothing is known of the time of {engine}: profile the bundle")
            own = self._own.get(engine)
            fresh = own is not None and own.latest > self._count - WINDOW
            one = self.elsewhere(engine)
            if own is not None and fresh and own.samples:
                one = weighted_p95(own.samples, one)
            return one * (self._times(own, batch) if own is not None else batch)

    def elsewhere(self, engine: str) -> float:
        """What an engine that does not run is expected to take, for one image in ms, by what is seen of those that do."""
        with self._lock:
            base = self.base(engine)
            if base is None:
                return math.inf
            slowdown, typical, lost = self._state()
            return min(base * slowdown, base * typical + lost)

    def slowdown(self) -> float:
        """How much slower the machine is than the profile: below 1 where it is faster."""
        with self._lock:
            return self._state()[0]

    def now(self) -> dict[str, float]:
        """p95 in ms of every engine that anything is known of; empty before the first observation."""
        with self._lock:
            if not self._count:
                return {}
            return {name: self.p95(name) for name in {*self._known, *self.predictions}}

    def count(self, engine: str | None = None) -> int:
        """How many runs of an engine, or of all, were observed."""
        with self._lock:
            if engine is None:
                return self._count
            return self._own[engine].count if engine in self._own else 0

    def recent(self, engine: str, most: int) -> list[float]:
        """The last runs of an engine in ms an image, newest first: at most ``most``, and at most 128."""
        with self._lock:
            own = self._own.get(engine)
            return list(islice(own.samples, most)) if own is not None else []

    @staticmethod
    def _times(own: _Own, batch: int) -> float:
        return 1 + own.growth * (batch - 1)

    def _state(self) -> tuple[float, float, float]:
        """The slowdown, the typical one (1 at least), and the milliseconds that are lost beyond it."""
        oldest = self.clock() - OLD_S
        while len(self._all) > KEPT and self._all[-1].at < oldest:
            self._all.pop()
        key = (self._count, len(self._all))
        if key != self._state_of:
            slowdown = weighted_p95((seen.took / seen.p95 for seen in self._all), 1.0)
            by_p50 = [seen.took / seen.p50 for seen in self._all]
            # The median of the last three finds within two runs what that of all finds within twenty.
            last = sorted([*by_p50[:3], 1.0, 1.0, 1.0][:3])[1]
            typical = max(1.0, last, weighted_p95(by_p50, 1.0, above=0.5))
            lost = max(0.0, weighted_p95((seen.took - typical * seen.p95 for seen in self._all), 0.0))
            self._state_of, self._found = key, (slowdown, typical, lost)
        return self._found

    def _typical(self, engine: str) -> float:
        return self._p50.get(engine) or _P50 * (self.base(engine) or 0.0)

    def _learn(self, engine: str, own: _Own) -> None:
        """A predicted engine has shown what it takes: know it, and predict the others by it."""
        seen = weighted_p95(own.samples, own.samples[0])
        first = not self._known
        self._known[engine] = seen if first else seen / self.slowdown()
        if first:
            self._all.clear()  # They were to a guess.
        self.predictions = predict(self.bundle, self.profile, threads=self._threads, times=self._known)
