"""Load and faults: python -m benchmarks.serve BUNDLE [--minutes 5] [--workers 1] [--output benchmarks/results]

Starts ``anycost serve`` on a free port of this machine and finds how many images a second it makes at its best quality (a
closed loop). Then requests come at 0.5, 1 and 2 times that rate, whatever becomes of those before. A worker is killed under
load, clients are slow, connections say nothing, and thousands of malformed requests are sent. Writes serve.json and serve.md;
exit code 1 where something was lost, failed or leaked, 2 where it could not be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anycost.benchmarks import serve_report
from anycost.benchmarks.serve_client import Client, NoReplyError
from anycost.benchmarks.serve_faults import KINDS, SLOW, beside, killed, settled, silent
from anycost.benchmarks.serve_load import closed, counted, counters, images, opened
from anycost.benchmarks.serve_malformed import Findings, crafted, described, sockets
from anycost.benchmarks.serve_process import Sampler, Server, growth
from anycost.errors import AnycostError
from anycost.runtime.profile import device_name

LEVELS = (0.5, 1.0, 2.0)  # of the capacity
CLIENTS = 4  # of the closed loop, a worker
HALF_OPEN = 300
PER_CLIENT = 5000  # one address stands for many clients here
WARM_SHARE = 0.2  # of a level, before its memory is looked at
MALFORMED_LIMIT_S = 1200.0


@dataclass(frozen=True)
class Plan:
    """hold_s: how long slow clients and silent connections stay; from 70 s on a server has to end them itself, by its own limits
    on heads, bodies and answers. malformed: requests. more: further arguments for ``anycost serve``."""

    bundle: Path
    minutes: float = 5
    workers: int = 1
    hold_s: float = 75
    malformed: int = 10_000
    half_open: int = HALF_OPEN
    seed: int = 0
    more: tuple[str, ...] = ()

    @property
    def level_s(self) -> float:
        return self.minutes * 60


def measure(plan: Plan, server: Server) -> dict[str, Any]:
    """Everything against a running server, which is stopped at the end. Raises AnycostError."""
    began = time.monotonic()
    try:
        found = asyncio.run(_measure(plan, server))
    except NoReplyError as error:
        # Of the server's own figures, without which nothing can be said.
        found = {"broken": f"/metrics gave no answer: {error}"}
    finally:
        alive = server.alive
        code = server.stop()
    logged = {"errors": dict(server.errors), "first": server.first_error}
    result = {
        "device": device_name(),
        "bundle": plan.bundle.name,
        "settings": {
            "minutes": plan.minutes,
            "workers": plan.workers,
            "hold_s": plan.hold_s,
            "seed": plan.seed,
            "more": list(plan.more),
            "per_client": PER_CLIENT,
        },
        **found,
        "server": {"alive_at_the_end": alive, "exit_code": code, "logged": logged},
        "took_s": round(time.monotonic() - began, 1),
    }
    return {**result, "failures": serve_report.failures(result)}


async def _measure(plan: Plan, server: Server) -> dict[str, Any]:
    client = Client(server.host, server.port, server.holds)
    ask = images(client)
    short = min(15.0, max(1.5, plan.level_s / 4))
    _say("warming up")
    await closed(ask, CLIENTS * plan.workers, short / 3)
    _say("capacity")
    tally = await closed(ask, CLIENTS * plan.workers, short)
    found: dict[str, Any] = {"capacity": tally.values(short)}
    capacity = len(tally.latencies_ms) / short
    if capacity < 0.5:
        raise AnycostError(f"the server made {len(tally.latencies_ms)} images in {short:g} s: there is nothing to load")
    # Overload first, unmeasured: what it loads must not be taken for a leak.
    _say(f"{capacity:.1f} images a second; a first overload")
    await opened(ask, 2 * capacity, short, plan.seed)
    found["levels"] = [await _level(plan, server, client, share, capacity) for share in LEVELS]
    _say("killing workers")
    found["kill"] = await killed(server, client, 0.5 * capacity, min(60.0, max(6.0, plan.level_s)), plan.seed)
    _say("slow clients")
    crowd = [(kind, behave) for kind, behave in KINDS.items() for _ in range(SLOW)]
    found["slow"] = await beside(server, client, crowd, 0.3 * capacity, plan.hold_s, plan.seed)
    _say("silent connections")
    crowd = [("silent", silent)] * plan.half_open
    found["half_open"] = await beside(server, client, crowd, 0.3 * capacity, min(plan.hold_s, 40), plan.seed)
    _say(f"{plan.malformed} malformed requests")
    found["malformed"] = await _malformed(plan, server, client)
    await client.close()
    return found


async def _level(plan: Plan, server: Server, client: Client, share: float, capacity: float) -> dict[str, Any]:
    _say(f"{share:g} times the capacity")
    before = await counters(client)
    async with Sampler(server, min(1.0, plan.level_s / 30)) as samples:
        tally, took = await opened(images(client), share * capacity, plan.level_s, plan.seed + round(share * 10))
    return {
        "share": share,
        "rate": round(share * capacity, 2),
        **tally.values(took),
        **counted(before, await counters(client)),
        "memory": growth(samples, WARM_SHARE * plan.level_s),
    }


async def _malformed(plan: Plan, server: Server, client: Client) -> dict[str, Any]:
    """In two halves of the same kinds: the first loads and caches what there is, the second must leave nothing behind. memory:
    samples before, between and after."""
    found = Findings()
    until = time.monotonic() + MALFORMED_LIMIT_S
    reply = await client.ask("GET", "/openapi.json")
    document = json.loads(reply.body) if reply.status == 200 else None
    counts = await counters(client)
    await client.close()
    samples = [server.sample(0)]
    by_description = False
    for half in range(2):
        first, last = half * plan.malformed // 2, (half + 1) * plan.malformed // 2
        already = sum(found.kinds.values())
        if document is not None:
            told = (
                server,
                document,
                (last - first) // 5,
                plan.seed + half,
                found,
                time.monotonic() + MALFORMED_LIMIT_S / 4,
            )
            by_description = await asyncio.to_thread(described, *told)
        await sockets(server, max(12, (last - first) // 50), plan.seed + half, found)
        rest = max(0, last - first - (sum(found.kinds.values()) - already))
        await crafted(client, range(first, first + rest), plan.seed, found, until)
        await client.close()
        await asyncio.sleep(min(2.0, plan.hold_s / 4))  # what was given up may still be running
        samples.append(await settled(server, samples[0].files if samples[0] else 0))
    restarts = counted(counts, await counters(client))["restarts"]
    await client.close()
    memory = [sample.__dict__ if sample else None for sample in samples]
    return {
        **found.values(),
        "by_description": by_description,
        "asked": plan.malformed,
        "restarts": restarts,
        "memory": memory,
    }


def _say(text: str) -> None:
    print(f"serve: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="folder for serve.json and serve.md")
    parser.add_argument("--minutes", type=float, default=5, help="of each of the three loads")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--budget", help="of the server, such as 60ms (default: none)")
    parser.add_argument("--hold", type=float, default=75, metavar="SECONDS", help="that slow clients stay")
    parser.add_argument("--malformed", type=int, default=10_000, metavar="COUNT", help="malformed requests")
    parser.add_argument(
        "--half-open", type=int, default=HALF_OPEN, metavar="COUNT", help="connections that say nothing"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-measure", action="store_true", help="do not profile the device first")
    args = parser.parse_args(arguments)
    ranges = {
        "minutes": (0.02, 600),
        "workers": (1, 64),
        "hold": (1, 600),
        "malformed": (20, 10**6),
        "half_open": (1, 900),
    }
    for name, (least, most) in ranges.items():
        if not least <= getattr(args, name) <= most:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name):g} is outside {least:g}..{most:g}")
    more = [*(["--budget", args.budget] if args.budget else []), *(["--no-measure"] if args.no_measure else [])]
    plan = Plan(
        args.bundle, args.minutes, args.workers, args.hold, args.malformed, args.half_open, args.seed, tuple(more)
    )
    told = [str(plan.bundle), "--workers", str(plan.workers), "--per-client", str(PER_CLIENT), *more]
    try:
        result = measure(plan, Server(told, plan.workers))
    except AnycostError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        serve_report.write(result, args.output)
    print(serve_report.markdown(result))
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
