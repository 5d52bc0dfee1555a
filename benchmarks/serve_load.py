"""Load: a closed loop that finds how much a server can do, and open loops that do not wait for it.

In an open loop requests leave when they are due, whatever became of those before (Poisson arrivals), and a latency counts from
when its request was due. A client that waits for answers before it sends on would leave out just the slow moments ("coordinated
omission").
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from anycost.benchmarks.serve_client import Client, NoReplyError, Reply, flaw

MOST_OPEN = 1000  # requests without an answer; beyond it the next ones are lost, and this machine is spared
ANSWER_S = 20.0  # above the server's deadline
IMAGE = b"\x89PNG\r\n\x1a\n"
COUNTERS = (
    "anycost_downgrades_total",
    "anycost_rejected_total",
    "anycost_worker_restarts_total",
    "anycost_subnet_total",
)


@dataclass
class Tally:
    """What became of requests. latencies_ms: of the images, from when they were due. late_ms: how late they were sent."""

    sent: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    subnets: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)  # by status and code
    lost: Counter[str] = field(default_factory=Counter)  # by reason

    def note(self, reply: Reply, latency_ms: float) -> None:
        if reply.status == 200:
            if not reply.body.startswith(IMAGE) or not reply.headers.get("x-anycost-subnet"):
                self.lost["200 without a PNG or the name of its sub-network"] += 1
                return
            self.latencies_ms.append(latency_ms)
            self.subnets[reply.headers["x-anycost-subnet"]] += 1
        elif problem := flaw(reply):
            self.lost[problem[:200]] += 1
        else:
            self.refused[f"{reply.status} {reply.code}"] += 1
            self.refused_ms.append(latency_ms)

    def values(self, seconds: float) -> dict[str, Any]:
        return {
            "seconds": round(seconds, 1),
            "sent": self.sent,
            "accepted": len(self.latencies_ms),
            "images_a_second": round(len(self.latencies_ms) / seconds, 2),
            **{f"p{q}_ms": percentile(self.latencies_ms, q) for q in (50, 95, 99)},
            "refused": dict(self.refused.most_common()),
            "refused_p95_ms": percentile(self.refused_ms, 95),
            "lost": dict(self.lost.most_common()),
            "subnets": dict(self.subnets.most_common()),
            "sent_late_p99_ms": percentile(self.late_ms, 99),
        }


def percentile(values: Sequence[float], q: int) -> float | None:
    """By nearest rank, so that it is a value which occurred; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[max(0, -(-q * len(ordered) // 100) - 1)], 2)


Ask = Callable[[int], Awaitable[Reply]]


def images(client: Client) -> Ask:
    """One image of the seed with the request's number."""

    def ask(number: int) -> Awaitable[Reply]:
        body = json.dumps({"seeds": [number]}).encode()
        return client.ask("POST", "/v1/generate", body, {"Content-Type": "application/json"}, limit_s=ANSWER_S)

    return ask


async def closed(ask: Ask, clients: int, seconds: float) -> Tally:
    """Each client sends when its last request was answered."""
    tally = Tally()
    until = time.monotonic() + seconds

    async def run() -> None:
        while time.monotonic() < until:
            tally.sent += 1
            await _one(ask, tally, tally.sent - 1, time.monotonic())

    await asyncio.gather(*(run() for _ in range(clients)))
    return tally


async def opened(ask: Ask, rate: float, seconds: float, seed: int) -> tuple[Tally, float]:
    """``rate`` requests a second on average, for ``seconds``; then what is open is waited for. Also the seconds till the last
    was due."""
    tally = Tally()
    draw = random.Random(seed)
    began = time.monotonic()
    due, number = began, 0
    running: set[asyncio.Task[None]] = set()
    while (due := due + draw.expovariate(rate)) < began + seconds:
        wait = due - time.monotonic()
        # Those that are overdue leave at once, a few before the loop looks at the answers again.
        if wait > 0 or number % 8 == 0:
            await asyncio.sleep(max(0.0, wait))
        tally.sent += 1
        if len(running) >= MOST_OPEN:
            tally.lost[f"not sent: {MOST_OPEN} before it have no answer"] += 1
        else:
            tally.late_ms.append((time.monotonic() - due) * 1e3)
            task = asyncio.create_task(_one(ask, tally, number, due))
            running.add(task)
            task.add_done_callback(running.discard)
        number += 1
    await asyncio.gather(*running)
    return tally, max(time.monotonic() - began, seconds)


async def _one(ask: Ask, tally: Tally, number: int, due: float) -> None:
    try:
        reply = await ask(number)
    except NoReplyError as error:
        tally.lost[str(error)[:200]] += 1
    else:
        tally.note(reply, (time.monotonic() - due) * 1e3)


async def counters(client: Client) -> dict[str, dict[str, float]]:
    """The server's own counts, by name and label's value. Raises NoReplyError."""
    reply = await client.ask("GET", "/metrics")
    if reply.status != 200:
        raise NoReplyError(f"/metrics has status {reply.status}")
    found: dict[str, dict[str, float]] = {name: {} for name in COUNTERS}
    for family in text_string_to_metric_families(reply.body.decode()):
        for sample in family.samples:
            if sample.name in found:
                found[sample.name]["/".join(sample.labels.values())] = sample.value
    return found


def counted(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What was added between two of ``counters``: totals, and of refusals and sub-networks each."""

    def added(name: str) -> dict[str, int]:
        both = {label: int(value - before[name].get(label, 0)) for label, value in after[name].items()}
        return {label: value for label, value in both.items() if value}

    return {
        "downgrades": sum(added("anycost_downgrades_total").values()),
        "rejected": added("anycost_rejected_total"),
        "restarts": sum(added("anycost_worker_restarts_total").values()),
    }
