"""What Prometheus collects at /metrics. Labels are names of the bundle, routes and codes: never a client's words."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from anycost.runtime.server.jobs import Result

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Of one server. ``queue``, ``running`` and ``ready`` are asked when the page is made."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, queue: Callable[[], float], running: Callable[[], float], ready: Callable[[], float]):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Counter(
            "anycost_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self._request_s = Histogram(
            "anycost_request_seconds", "Whole requests.", ["route"], buckets=_SECONDS, registry=registry
        )
        self._engine_s = Histogram(
            "anycost_engine_seconds", "Calls of an engine.", ["engine"], buckets=_SECONDS, registry=registry
        )
        self._waited_s = Histogram(
            "anycost_queue_seconds", "Waiting for a worker.", buckets=_SECONDS, registry=registry
        )
        self._batch = Histogram(
            "anycost_batch_images", "Images that shared a call.", buckets=(1, 2, 4, 8, 16, 32), registry=registry
        )
        self._subnets = Counter("anycost_subnet", "Results by chosen sub-network.", ["subnet"], registry=registry)
        self._lowered = Counter(
            "anycost_downgrades", "Results with a smaller sub-network, because of overload.", registry=registry
        )
        self._refused = Counter("anycost_rejected", "Refused requests by code.", ["code"], registry=registry)
        self._restarts = Counter("anycost_worker_restarts", "Workers that ended and were replaced.", registry=registry)
        for name, text, ask in (
            ("anycost_queue_length", "Jobs that wait.", queue),
            ("anycost_running", "Jobs that workers are at.", running),
            ("anycost_workers_ready", "Workers that can be called.", ready),
        ):
            Gauge(name, text, registry=registry).set_function(ask)

    def page(self) -> bytes:
        return generate_latest(self.registry)

    def done(self, operation: str, result: Result) -> None:
        self._engine_s.labels(result.engine).observe(result.elapsed_ms / 1e3)
        self._waited_s.observe(max(0.0, result.waited_ms) / 1e3)
        self._batch.observe(result.batch)
        if result.subnet:
            self._subnets.labels(result.subnet).inc()
        if result.lowered:
            self._lowered.inc()

    def refused(self, code: str) -> None:
        self._refused.labels(code).inc()

    def restarted(self) -> None:
        self._restarts.inc()

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._request_s.labels(route).observe(seconds)
