"""The gate before the application, called as a server calls it."""

import asyncio
from pathlib import Path

import pytest

from anycost.runtime.server.limits import Gate, called_by
from anycost.runtime.server.metrics import Metrics
from anycost.runtime.server.settings import Settings

SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/v1/models",
    "headers": [],
    "client": ("192.0.2.1", 5),
    "query_string": b"",
}

METRICS = Metrics(queue=lambda: 0, running=lambda: 0, ready=lambda: 1)


async def answers(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    await send({"type": "http.response.body", "body": b"last"})


class Client:
    """Asks again, ``times`` in all, as soon as it has the whole answer: while the server is still in ``send``."""

    def __init__(self, gate, times):
        self.gate, self.left, self.statuses, self.tasks = gate, times, [], []

    def ask(self):
        self.left -= 1
        self.tasks.append(asyncio.create_task(self.gate(dict(SCOPE), self.receive(), self.send)))

    @staticmethod
    def receive():
        messages = asyncio.Queue()  # the request, and no end of the connection
        messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        return messages.get

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.statuses.append(message["status"])
        elif not message.get("more_body") and self.left:
            self.ask()
            await asyncio.sleep(0.01)  # the next request begins before this one's end is seen here

    async def finished(self):
        while pending := [task for task in self.tasks if not task.done()]:
            await asyncio.wait(pending)
        return self.statuses


def test_a_client_that_waits_for_each_answer_is_one_request_at_a_time():
    async def run():
        gate = Gate(
            answers, settings=Settings(bundle=Path("bundle"), per_client=1), metrics=METRICS, draining=lambda: False
        )
        client = Client(gate, 5)
        client.ask()
        assert await client.finished() == [200] * 5
        two = Client(gate, 2)
        two.ask()
        two.ask()
        assert sorted(await two.finished()) == [200, 429]
        assert not gate._clients

    asyncio.run(run())


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ("localhost", True),
        ("LocalHost:8000", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("::1", False),
        ("", False),
        ("rebound.example:8000", False),
        ("localhost.rebound.example", False),
        ("localhost@rebound.example", False),
        ("[::1", False),
    ],
)
def test_names_that_the_server_is_called_by(header, known):
    assert called_by(header, ("localhost", "127.0.0.1", "::1")) is known
    assert called_by(header, ())
