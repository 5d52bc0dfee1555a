"""From jobs to workers: a bounded queue, batches, deadlines, and smaller sub-networks when there is too much to do."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from anycost.runtime.budget import Budget
from anycost.runtime.server import errors, wire
from anycost.runtime.server.calls import Call, Calls, Way, kin
from anycost.runtime.server.costs import Costs
from anycost.runtime.server.engines import Engines
from anycost.runtime.server.jobs import Array, Job, Result
from anycost.runtime.server.pool import Pool, Worker, WorkerDiedError

# Waiting this many times the latency budget counts as full pressure; without a budget half the deadline does.
WAIT_PER_BUDGET = 4.0
# Sub-networks begin to shrink at the first share of the full queue (or wait) and are smallest at the second.
EASY, FULL = 0.25, 0.75
GUESS_MS = 50.0  # of a call of which nothing is known yet


class Watcher(Protocol):
    """What the dispatcher tells the metrics."""

    def done(self, operation: str, result: Result) -> None: ...

    def refused(self, code: str) -> None: ...


@dataclass(eq=False)
class _Pending:
    job: Job
    future: asyncio.Future[Result]
    client: str
    arrived: float
    deadline: float
    tries: int = 0


class Dispatcher:
    """``submit`` jobs; ``start`` and ``drain`` around that. For one event loop.

    budget: of jobs that give none. queue, max_batch, per_client, deadline_ms: as of ``Settings``. way: as of ``Calls``. public:
    takes what an error says and leaves out what clients must not see. clock: seconds, for tests.
    """

    def __init__(
        self,
        pool: Pool,
        engines: Engines | None,
        *,
        budget: Budget,
        queue: int,
        max_batch: int,
        per_client: int,
        deadline_ms: float,
        way: Way | None = None,
        watcher: Watcher | None = None,
        public: Callable[[str], str] = str,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.pool, self.engines = pool, engines
        self._budget, self._most, self._max_batch = budget, queue, max_batch
        self._per_client, self._deadline_ms = per_client, deadline_ms
        self.watcher, self._public, self._clock = watcher, public, clock
        self._queue: deque[_Pending] = deque()
        self._running: set[_Pending] = set()
        self._clients: Counter[str] = Counter()
        self._calls = Calls(engines, budget, max_batch, way)
        self._costs = Costs()
        self._recent_ms: float | None = None  # what a job has taken lately
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []
        self.draining = False

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Jobs that workers are at."""
        return len(self._running)

    async def start(self) -> None:
        """Start the workers; returns when the first is ready, at once where they were started. Raises BackendError."""
        if self._tasks:
            return
        await self.pool.start()
        self._tasks = [asyncio.create_task(self._serve(worker)) for worker in self.pool.workers]

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new and wait for what was taken. Returns whether all of it was done in time."""
        self.draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """End the workers. Jobs that are left are answered DrainingError."""
        self.draining = True
        left = [*self._queue, *self._running]
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for pending in left:
            _fail(pending, errors.DrainingError("the server was stopped before this was done", retry_after=1))
        await self.pool.close()

    async def submit(self, job: Job, *, deadline_ms: float | None = None, client: str = "") -> Result:
        """The result of a job. Cancelling the caller takes the job out of the queue, or drops its result.

        client: whose jobs are counted together, empty for nobody's. Raises RequestError: a budget that nothing fits, too many
        jobs of one client, a full queue, a deadline that passed, arguments that an engine refused.
        """
        try:
            return await self._submit(job, deadline_ms, client)
        except errors.RequestError as error:
            if self.watcher and error.status in (429, 503):
                self.watcher.refused(error.code)
            raise

    async def _submit(self, job: Job, deadline_ms: float | None, client: str) -> Result:
        if self.draining:
            raise errors.DrainingError(
                "the server is stopping: ask another one, or this one in a moment", retry_after=2
            )
        if client and self._clients[client] >= self._per_client:
            raise errors.TooManyError(
                f"{self._per_client} requests of this client are under way: wait for one", retry_after=1
            )
        self._calls.of(job, 0.0)  # what cannot run at all is refused now
        if len(self._queue) >= self._most:
            wait = self._expected_wait_s()
            raise errors.OverloadedError(
                f"{len(self._queue)} requests are waiting: try again later", retry_after=max(1, math.ceil(wait))
            )
        allowed = min(deadline_ms or self._deadline_ms, self._deadline_ms) / 1e3
        now = self._clock()
        pending = _Pending(job, asyncio.get_running_loop().create_future(), client, now, now + allowed)
        self._clients[client] += 1
        self._queue.append(pending)
        self._changed()
        try:
            async with asyncio.timeout(allowed):
                return await pending.future
        except TimeoutError:
            raise errors.DeadlineError(
                f"it was not done within {allowed * 1e3:.0f} ms: try again later", retry_after=1
            ) from None
        finally:
            pending.future.cancel()
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]
            with contextlib.suppress(ValueError):
                self._queue.remove(pending)
            self._changed()

    def pressure(self, latency_ms: float | None = None) -> float:
        """0 (no hurry) to 1: how full the queue is, or how long it will take, between EASY and FULL."""
        tolerated = WAIT_PER_BUDGET * latency_ms / 1e3 if latency_ms else self._deadline_ms / 2e3
        load = max(len(self._queue) / self._most, self._expected_wait_s() / max(tolerated, 1e-6))
        return max(0.0, min(1.0, (load - EASY) / (FULL - EASY)))

    def _expected_wait_s(self) -> float:
        per_job = self._recent_ms if self._recent_ms is not None else GUESS_MS
        return len(self._queue) * per_job / max(1, self.pool.ready) / 1e3

    async def _serve(self, worker: Worker) -> None:
        """Give one worker batch after batch; until cancelled."""
        while True:
            await worker.ready.wait()
            if not self._queue:
                self._work.clear()
                await self._work.wait()
                continue
            if not worker.ready.is_set():
                continue
            batch, call = self._take()
            if batch:
                await self._run(worker, batch, call)

    def _take(self) -> tuple[list[_Pending], Call]:
        """The oldest job, and those behind it that can share its call within its latency budget."""
        first = self._queue.popleft()
        now = self._clock()
        try:
            call = self._call_under_pressure(first)
        except errors.RequestError as error:  # what fitted when it came does not any more
            _fail(first, error)
            return [], Call("", {}, None)
        batch, rows = [first], first.job.rows
        shared = kin(first.job)
        if first.tries == 0 and shared is not None:
            most = self._most_rows(first, call, now)
            for other in list(self._queue):
                if rows + other.job.rows > most:
                    break
                if other.tries == 0 and kin(other.job) == shared:
                    self._queue.remove(other)
                    batch.append(other)
                    rows += other.job.rows
        self._running.update(batch)
        return batch, call

    def _most_rows(self, first: _Pending, call: Call, now: float) -> int:
        most = self._max_batch
        if call.pick is None:
            return most
        if call.pick.most_rows is not None:
            most = min(most, call.pick.most_rows)
        latency_ms = (first.job.budget or self._budget).latency_ms
        if latency_ms is None:
            return most
        # What the budget leaves after waiting; at least half of it, since larger calls are what shortens a long queue.
        left = max(latency_ms - (now - first.arrived) * 1e3, latency_ms / 2)
        guess = call.pick.guess_ms or latency_ms
        while most > 1 and self._costs.expected_ms(call.pick.engine, most, guess) > left:
            most -= 1
        return most

    def _call_under_pressure(self, pending: _Pending) -> Call:
        budget = pending.job.budget or self._budget
        try:
            return self._calls.of(pending.job, self.pressure(budget.latency_ms))
        except errors.NothingFitsError:
            # It fitted when it came, and the machine has become slower since: the fastest is what comes nearest.
            return self._calls.of(pending.job, 1.0, replace(budget, latency_ms=None))

    async def _run(self, worker: Worker, batch: Sequence[_Pending], call: Call) -> None:
        tasks = [dict(pending.job.arguments) for pending in batch]
        arrays = {f"{i}.{name}": array for i, p in enumerate(batch) for name, array in p.job.arrays.items()}
        started = self._clock()
        try:
            header = {"operation": call.operation, "how": call.how, "tasks": tasks}
            answer, made = await worker.call(header, arrays)
            self._finish(batch, call, answer["outcomes"], made, started)
        except WorkerDiedError as died:
            self._again(batch, str(died))
        except wire.WireError as error:
            for pending in batch:
                _fail(pending, errors.RequestError(f"it cannot be sent to a worker: {error}"))
        finally:
            self._running.difference_update(batch)
            self._changed()

    def _again(self, batch: Sequence[_Pending], why: str) -> None:
        """Jobs of a worker that died are tried once more, first of all and each alone: one of them may be what killed it."""
        for pending in reversed(batch):
            if pending.future.done():
                continue
            if pending.tries:
                _fail(pending, errors.WorkerLostError(f"two workers were lost with it: {why}", retry_after=1))
            else:
                pending.tries += 1
                self._queue.appendleft(pending)

    def _finish(
        self,
        batch: Sequence[_Pending],
        call: Call,
        outcomes: Sequence[Mapping[str, Any]],
        made: Mapping[str, Array],
        started: float,
    ) -> None:
        rows = sum(pending.job.rows for pending in batch)
        took_ms = (self._clock() - started) * 1e3 / len(batch)
        self._recent_ms = took_ms if self._recent_ms is None else 0.8 * self._recent_ms + 0.2 * took_ms
        self._learn(call, rows, outcomes)
        for i, (pending, outcome) in enumerate(zip(batch, outcomes, strict=True)):
            if outcome.get("failed"):
                _fail(pending, errors.FailedError("the engine failed; the server's log says why", retry_after=1))
                continue
            if outcome["error"]:
                _fail(pending, errors.RequestError(self._public(outcome["error"])))
                continue
            prefix = f"{i}."
            result = Result(
                arrays={name[len(prefix) :]: array for name, array in made.items() if name.startswith(prefix)},
                subnet=call.pick.subnet if call.pick and call.operation == "pictures" else pending.job.subnet or "",
                engine=outcome["engine"],
                elapsed_ms=float(outcome["elapsed_ms"]),
                waited_ms=(started - pending.arrived) * 1e3,
                batch=rows,
                lowered=bool(call.pick and call.pick.lowered),
                further=call.further,
            )
            if not pending.future.done():
                pending.future.set_result(result)
                if self.watcher:
                    self.watcher.done(pending.job.operation, result)

    def _learn(self, call: Call, rows: int, outcomes: Sequence[Mapping[str, Any]]) -> None:
        """What a call took, unless something was loaded in it, or its jobs had to be tried one by one."""
        plain = all(o.get("engine") and not o["error"] and not o["loaded"] for o in outcomes)
        if self.engines is None or call.pick is None or call.operation != "pictures" or not plain:
            return
        # More rows than one call takes are several calls of the same size.
        calls = math.ceil(rows / int(call.how["chunk"]))
        size, elapsed = math.ceil(rows / calls), float(outcomes[0]["elapsed_ms"]) / calls
        self._costs.observe(call.pick.engine, size, elapsed)
        self.engines.observe(call.pick.engine, elapsed, size)

    def _changed(self) -> None:
        if self._queue:
            self._work.set()
        if self._queue or self._running:
            self._idle.clear()
        else:
            self._idle.set()


def _fail(pending: _Pending, error: Exception) -> None:
    if not pending.future.done():
        pending.future.set_exception(error)
