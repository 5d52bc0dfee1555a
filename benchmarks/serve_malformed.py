"""Thousands of malformed requests at a server: none may end it, fail it, or leave memory or descriptors behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from anycost.benchmarks.serve_cases import Case, case, nasty
from anycost.benchmarks.serve_client import Client, NoReplyError, flaw
from anycost.benchmarks.serve_process import Server

AT_A_TIME = 8
ANSWER_S = 40.0  # above what a server waits for the rest of a body
KEPT_PROBLEMS = 20
MOST_KNOWN = 500  # examples of one operation of the description


@dataclass
class Findings:
    """kinds: requests by kind. statuses: answers by status and code. problems: what must not be, by description; examples: the
    first request of each, to send again."""

    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    slowest_s: float = 0.0
    slowest: str = ""

    def problem(self, what: str, example: str) -> None:
        if what in self.problems or len(self.problems) < KEPT_PROBLEMS:
            self.problems[what] += 1
            self.examples.setdefault(what, example[:400])

    def values(self) -> dict[str, Any]:
        return {
            "requests": sum(self.kinds.values()),
            "kinds": dict(self.kinds.most_common()),
            "statuses": dict(self.statuses.most_common()),
            "problems": dict(self.problems.most_common()),
            "examples": self.examples,
            "slowest_s": round(self.slowest_s, 2),
            "slowest": self.slowest,
        }


async def crafted(client: Client, numbers: range, seed: int, found: Findings, until: float) -> None:
    """Cases by number, a few at a time; ends early at ``until`` (of time.monotonic)."""
    left: Iterator[int] = iter(numbers)

    async def run() -> None:
        for number in left:
            if time.monotonic() > until:
                return
            await _one(client, case(number, seed), f"case({number}, {seed})", found)

    await asyncio.gather(*(run() for _ in range(AT_A_TIME)))


async def _one(client: Client, one: Case, name: str, found: Findings) -> None:
    found.kinds[one.kind] += 1
    began = time.monotonic()
    try:
        if one.raw is not None:
            reply = await client.send(one.raw, limit_s=ANSWER_S, fresh=True)
        else:
            reply = await client.ask(one.method, one.path, one.body, one.headers, limit_s=ANSWER_S)
    except NoReplyError as error:
        # What is no HTTP may be ended without a word; what waits for more of a body is not malformed but slow.
        silent = one.raw is not None and not str(error).startswith("no answer")
        found.statuses["closed" if silent else "no answer"] += 1
        if not silent:
            found.problem(f"{one.kind}: {error}", name)
        return
    finally:
        if (took := time.monotonic() - began) > found.slowest_s:
            found.slowest_s, found.slowest = took, f"{one.kind}, {name}"
    found.statuses[f"{reply.status} {reply.code}".strip()] += 1
    if problem := flaw(reply):
        found.problem(f"{one.kind}: {problem}", name)
    elif one.refuse and reply.status == 200:
        found.problem(f"{one.kind}: it was accepted", name)


async def sockets(server: Server, count: int, seed: int, found: Findings) -> None:
    """Messages at the WebSocket of the editor: each must be answered with a frame or end the connection with a code that is not
    1011, which says that the server failed."""
    import websockets

    draw = random.Random(seed)
    address = f"ws://{server.host}:{server.port}/v1/editor"
    left = count
    while left > 0:
        try:
            async with websockets.connect(address, max_size=None, open_timeout=10, close_timeout=2) as socket:
                for _ in range(min(left, 12)):
                    left -= 1
                    found.kinds["WebSocket"] += 1
                    await socket.send(_message(draw))
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(socket.recv(), 0.5)
                if draw.random() < 0.5:
                    socket.transport.abort()
        except websockets.ConnectionClosed as error:
            code = error.rcvd.code if error.rcvd else 1006
            found.statuses[f"WebSocket {code}"] += 1
            if code == 1011:
                found.problem("WebSocket: closed with 1011", f"{error}")
        except (OSError, websockets.WebSocketException) as error:
            found.problem(f"WebSocket: {type(error).__name__}", f"{error}")
            return


def _message(draw: random.Random) -> str | bytes:
    values = {
        "id": 1,
        "seed": 0,
        "values": {},
        "psi": 1,
        "subnet": None,
        "resolution": None,
        "ratio": None,
        "finalize": True,
    }
    which = draw.randrange(6)
    if which == 0:
        return draw.randbytes(draw.choice((0, 10, 5000)))
    if which == 1:
        return draw.choice(("", "null", "[]", "[" * 20_000, "{}", '{"id":', '{"id":1}', "x" * 200_000, '"\\ud800"'))
    if which == 2:
        return "x" * (2 << 20)  # above what one message may be
    text = json.dumps(values)
    name = draw.choice(list(values))
    return text.replace(f'"{name}": {json.dumps(values[name])}', f'"{name}": {nasty(draw)}')


def described(server: Server, document: dict[str, Any], count: int, seed: int, found: Findings, until: float) -> bool:
    """Requests that schemathesis draws from the server's own description, in a thread. Returns False where it is missing."""
    try:
        import hypothesis
        import schemathesis
        from schemathesis.generation import GenerationMode
    except ImportError:
        return False
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=f"http://{server.host}:{server.port}")
    operations: list[Any] = [one.ok() for one in schema.get_all_operations()]  # type: ignore[union-attr]
    each = min(MOST_KNOWN, max(1, count // (2 * len(operations))))
    still = hypothesis.settings(
        max_examples=each,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    def ask(operation: Any, mode: Any) -> None:
        @hypothesis.seed(seed)
        @still
        @hypothesis.given(one=operation.as_strategy(generation_mode=mode))
        def each_of_them(one: Any) -> None:
            if time.monotonic() < until:
                found.kinds["from the description"] += 1
                _judge(one, operation.label, found)

        each_of_them()

    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            # An operation without parameters has nothing that could be wrong.
            with contextlib.suppress(hypothesis.errors.Unsatisfiable):
                ask(operation, mode)
    return True


def _judge(one: Any, label: str, found: Findings) -> None:
    from anycost.benchmarks.serve_client import Reply

    try:
        answer = one.call(timeout=ANSWER_S)
    except Exception as error:  # its client raises its own and those of the libraries below
        found.statuses["no answer"] += 1
        found.problem(f"{label}: {type(error).__name__}", str(error))
        return
    headers = {
        name.lower(): str(value[0] if isinstance(value, list) else value) for name, value in answer.headers.items()
    }
    reply = Reply(answer.status_code, headers, answer.content)
    found.statuses[f"{reply.status} {reply.code}".strip()] += 1
    if (problem := flaw(reply)) and not (label.endswith(("/health", "/ready")) and reply.status == 503):
        found.problem(f"{label}: {problem}", one.as_curl_command())
