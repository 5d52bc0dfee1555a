"""In front of Ray Serve: a request whose replica dies is asked again, and whatever Serve says by itself is 503.

Serve answers 500 when a replica is lost in the middle of a request. All that this server does is a function of the request
alone, so it may be done twice. Serve's proxies on every node load this by the name in ``CALLBACK``.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anycost.runtime.server import errors
from anycost.runtime.server.answers import problem
from anycost.runtime.server.logs import request_id

# Where Serve's proxies look for what is put around them, and the name of it.
CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = "anycost.runtime.server.ray_proxy:middlewares"
BODY_VARIABLE = "ANYCOST_RAY_MAX_BODY"
TRIES = 3
PAUSE_S = 0.2  # after which Serve knows that the replica is gone
# Every answer of the application has it, and none of Serve's own.
_MARK = "x-content-type-options"


def middlewares() -> list[Middleware]:
    """What Serve calls in each proxy."""
    return [Middleware(Again, most_body=int(os.environ.get(BODY_VARIABLE, "20000000")))]


class Again:
    """ASGI middleware. most_body: bytes of a body that is kept for another try; more is 413, as in the application."""

    def __init__(self, app: ASGIApp, most_body: int):
        self._app, self._most = app, most_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):  # the latter is Serve's own
            await self._app(scope, receive, send)
            return
        # The same for all tries; Serve hands it on.
        headers = MutableHeaders(scope=scope)
        identity = headers["x-request-id"] = request_id(headers.get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = identity
        client = _Client(receive)
        body = await self._body(client)
        if body is None:
            error: errors.RequestError = errors.TooLargeError(f"the body is above {self._most / 1e6:g} MB")
            await problem(scope, error)(scope, receive, send)
            return
        for number in range(TRIES):
            answer = _Answer(send)
            try:
                await self._app(dict(scope, headers=list(scope["headers"])), _replayed(body, client), answer)
            except asyncio.CancelledError:
                raise
            except Exception:
                if answer.begun:
                    raise  # the connection is all that can still be closed
            if answer.begun or client.left:
                return
            if answer.refused:
                break  # there is no replica, or none with room: asking again would only make it worse
            if number + 1 < TRIES:
                await asyncio.sleep(PAUSE_S * (number + 1))
        lost = "no server has room for it: try again later" if answer.refused else "the servers that ran it were lost"
        error = errors.OverloadedError(lost) if answer.refused else errors.WorkerLostError(lost)
        error.retry_after = 1
        await problem(scope, error)(scope, receive, send)

    async def _body(self, receive: Receive) -> bytes | None:
        """All of the body; None where it is too large."""
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return b"".join(pieces)  # the client left, and the application will be told so
            piece = message.get("body", b"")
            size += len(piece)
            if size > self._most:
                return None
            pieces.append(piece)
            if not message.get("more_body", False):
                return b"".join(pieces)


class _Client:
    """``receive`` that notes whether the client closed the connection."""

    def __init__(self, receive: Receive):
        self._receive = receive
        self.left = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.left |= message["type"] == "http.disconnect"
        return message


class _Answer:
    """``send`` that keeps the start of an answer until its body is there, so that a try which fails between leaves no trace.

    begun: something was sent. refused: Serve itself answered, since there is no replica, or none with room.
    """

    def __init__(self, send: Send):
        self._send = send
        self._start: Message | None = None
        self.begun = self.refused = False

    async def __call__(self, message: Message) -> None:
        if self.refused:
            return
        if message["type"] == "http.response.start":
            if _MARK not in Headers(raw=message["headers"]):
                self.refused = True
                return
            self._start = _without_second_id(message)
            return
        if self._start is not None:
            self.begun = True
            await self._send(self._start)
            self._start = None
        if self.begun:
            await self._send(message)


def _without_second_id(message: Message) -> Message:
    """Serve adds the id of the request to answers that have it."""
    seen, headers = False, []
    for name, value in message["headers"]:
        if name.lower() == b"x-request-id":
            if seen:
                continue
            seen = True
        headers.append((name, value))
    return {**message, "headers": headers}


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> dict[str, Any]:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return dict(await receive())

    return replay
