"""What the routes share: the bundle, the dispatcher, and what clients may be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import Request

from anycost.runtime.budget import Budget
from anycost.runtime.bundle import Bundle
from anycost.runtime.manifest import GeneratorRecord
from anycost.runtime.profile import Profile, nothing_runs, stored_profile
from anycost.runtime.segments import goes_on
from anycost.runtime.server.calls import Way
from anycost.runtime.server.dispatcher import Dispatcher
from anycost.runtime.server.engines import Controllers, Engines
from anycost.runtime.server.errors import NotFoundError, RequestError
from anycost.runtime.server.jobs import Job, Result
from anycost.runtime.server.logs import event
from anycost.runtime.server.metrics import Metrics
from anycost.runtime.server.pool import Pool, Worker
from anycost.runtime.server.settings import Settings
from anycost.runtime.usable import unusable


class Service:
    """One bundle behind one queue. Raises BudgetError, as a RequestError, when nothing fits the server's own budget, and
    BackendError when nothing of the bundle runs here. ``start`` before the first job."""

    def __init__(self, settings: Settings, bundle: Bundle, profile: Profile | None = None):
        self.settings, self.bundle = settings, bundle
        self.generator: GeneratorRecord | None = bundle.manifest.generator
        self.controllers: Controllers | None = None
        self.engines: Engines | None = None
        warm: list[tuple[str, str]] = []
        chains: list[tuple[str, str]] = []
        way: Way | None = None
        if self.generator is not None:
            known = profile or stored_profile(bundle, settings.worker_threads)
            self.controllers = Controllers(bundle, known, settings.worker_threads)
            self.engines = Engines(self.controllers)
            # The two ends of what is chosen without a client's word: by the budget, and under overload.
            picks = [self.engines.pick(settings.budget, None, None, pressure) for pressure in (0.0, 1.0)]
            warm = list(dict.fromkeys((pick.subnet, pick.variant) for pick in picks))
            if settings.workers == 1:  # a worker keeps what segments came to, and any worker may get the next job
                way = _way(bundle, known)
                full = max(self.generator.subnets, key=lambda net: net.macs).name
                # What an editor's first picture by the budget goes on to.
                if way(picks[0].variant, picks[0].subnet, full, None, None):
                    chains = [(full, picks[0].variant)]
        elif all(unusable(engine) for engine in bundle.manifest.engines):
            raise nothing_runs(bundle)
        told: dict[str, Any] = {"bundle": str(bundle.folder.resolve()), "threads": settings.worker_threads}
        told |= {"warm": warm, "chains": chains}
        self.pool = Pool(settings.workers, told, on_change=self._worker_changed)
        self.dispatcher = Dispatcher(
            self.pool,
            self.engines,
            budget=settings.budget,
            queue=settings.queue,
            max_batch=settings.max_batch,
            per_client=settings.per_client,
            deadline_ms=settings.deadline_ms,
            public=self.public,
            way=way,
        )
        self.metrics = Metrics(
            lambda: self.dispatcher.waiting, lambda: self.dispatcher.running, lambda: self.pool.ready
        )
        self.dispatcher.watcher = self.metrics

    @property
    def name(self) -> str:
        return self.bundle.manifest.name

    def public(self, message: str) -> str:
        """A message without the places of this machine's disk."""
        folder = self.bundle.folder
        for place in (str(folder.resolve()), str(folder.absolute()), str(folder)):
            if place not in ("", "."):
                message = message.replace(place, "the bundle")
        return " ".join(word if not _is_path(word) else "(a file)" for word in message.split())

    async def submit(self, job: Job, request: Request, deadline_ms: float | None = None) -> Result:
        """As of the dispatcher, for a request; its header X-Deadline-Ms counts where ``deadline_ms`` was not given."""
        try:
            return await self.dispatcher.submit(job, deadline_ms=deadline_ms or _deadline(request))
        except RequestError as error:
            raise type(error)(
                self.public(str(error)), status=error.status, code=error.code, retry_after=error.retry_after
            ) from None

    def needs_generator(self) -> GeneratorRecord:
        if self.generator is None:
            raise NotFoundError("this bundle holds no elastic generator: GET /v1/models lists what it has")
        return self.generator

    def network(self, kinds: tuple[str, ...], name: str | None) -> str:
        """The name of the network of these kinds, the one called ``name`` where there are several. Raises NotFoundError,
        and RequestError where one has to be named."""
        held = [net.name for net in self.bundle.manifest.networks if net.kind in kinds]
        found = [one for one in held if name in (None, one)]
        if not found:
            which = f" called {name[:80]!r}" if name is not None and held else ""
            raise NotFoundError(f"this bundle holds no network of kind {' or '.join(kinds)}{which}")
        if len(found) > 1:
            raise RequestError(f"this bundle holds several networks for this: name one of {', '.join(held)}")
        return found[0]

    def budget(self, given: Budget | None) -> Budget:
        return given or self.settings.budget

    def _worker_changed(self, worker: Worker, reason: str) -> None:
        if reason:
            self.metrics.restarted()
            event("worker_ended", level=30, worker=worker.number, reason=reason)
        else:
            event("worker_ready", worker=worker.number, pid=worker.pid)


def service_of(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


def _deadline(request: Request) -> float | None:
    sent = request.headers.get("x-deadline-ms")
    if sent is None:
        return None
    if not (sent.isascii() and sent.isdigit() and 0 < len(sent) <= 9 and int(sent) > 0):
        raise RequestError(f"X-Deadline-Ms {sent[:40]!r} is not a whole number of milliseconds above 0")
    return float(sent)


def _way(bundle: Bundle, profile: Profile | None) -> Way:
    def way(variant: str, subnet: str, goal: str, p95_ms: float | None, latency_ms: float | None) -> tuple[str, ...]:
        links = goes_on(bundle, profile, variant, subnet, goal, p95_ms, latency_ms)
        return tuple(link.subnet for link in links)

    return way


def _is_path(word: str) -> bool:
    return word.startswith("/") and Path(word).is_absolute() and word.count("/") > 1
