"""What every request passes before it is read: token, size, number at a time; and what ends it when the client goes away."""

from __future__ import annotations

import asyncio
import functools
import hmac
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anycost.runtime.server import errors
from anycost.runtime.server.answers import problem
from anycost.runtime.server.logs import event, log, request_id
from anycost.runtime.server.metrics import Metrics
from anycost.runtime.server.settings import Settings

BODY_S = 30.0  # for a body to arrive
SEND_S = 60.0  # for a client to take a piece of the answer
# What tells nothing of the bundle or only how the server is; browsers and probes ask for it without a token.
OPEN = ("/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/", "/favicon.ico")
STATIC = "/static/"


class Gate:
    """ASGI middleware around the application; WebSockets have checks of their own (routes/editor.py).

    draining: whether the server is stopping. Then every answer closes its connection, so that none is in use at the end.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics, draining: Callable[[], bool]):
        self._app, self._settings, self._metrics, self._draining = app, settings, metrics, draining
        self._clients: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] in ("http", "websocket") else Headers()
        if scope["type"] == "websocket" and not called_by(headers.get("host", ""), self._settings.hosts):
            await send({"type": "websocket.close"})  # before it was accepted: answered with 403
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["request_id"] = identity = request_id(headers.get("x-request-id"))
        answer = _Answer(send, identity, self._draining)
        client = scope["client"][0] if scope.get("client") else ""
        started = time.perf_counter()
        try:
            await self._checked(scope, headers, client, receive, answer)
        except errors.RequestError as error:
            self._metrics.refused(error.code)
            await self._tell(scope, receive, answer, error)
        except _GoneError:
            answer.status = answer.status or 499  # nobody is there to read it; in the log only
        except Exception:
            log.exception("request_failed", extra={"data": {"request_id": identity, "path": scope["path"]}})
            await self._tell(scope, receive, answer, errors.FailedError("the server failed; its log says why"))
        finally:
            self._note(scope, client, identity, answer, time.perf_counter() - started)

    async def _checked(self, scope: Scope, headers: Headers, client: str, receive: Receive, answer: _Answer) -> None:
        path = scope["path"]
        if not called_by(headers.get("host", ""), self._settings.hosts):
            raise errors.RequestError(
                f"this server is called by {' or '.join(self._settings.hosts)} only: the option --allow-host adds a name",
                status=421,
                code="wrong_host",
            )
        if path in OPEN or path.startswith(STATIC):
            await self._run(scope, receive, answer, await self._body(headers, receive))
            return
        if not allowed(headers.get("authorization", ""), self._settings.token):
            raise errors.RequestError(
                "the token is missing or wrong: send the header 'Authorization: Bearer TOKEN'",
                status=401,
                code="unauthorized",
            )
        if self._clients[client] >= self._settings.per_client:
            most = self._settings.per_client
            raise errors.TooManyError(f"{most} requests of this client are under way: wait for one", retry_after=1)
        self._clients[client] += 1
        # A client that has all of its answer may send the next request before anything more happens here.
        answer.before_last = release = functools.cache(functools.partial(self._release, client))
        try:
            await self._run(scope, receive, answer, await self._body(headers, receive))
        finally:
            release()

    def _release(self, client: str) -> None:
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """All of the body. Raises RequestError for one that is too large (before it is read, where its length is told), packed
        or too slow, _GoneError where the client leaves."""
        most = self._settings.max_body
        too_large = errors.TooLargeError(f"the body is above {most / 1e6:g} MB")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > 15 or int(length) > most:
            raise too_large
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise errors.WrongTypeError("packed bodies are not read: send it without Content-Encoding")
        pieces, size = [], 0
        try:
            async with asyncio.timeout(BODY_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _GoneError
                    piece = message.get("body", b"")
                    size += len(piece)
                    if size > most:
                        raise too_large
                    pieces.append(piece)
                    if not message.get("more_body", False):
                        return b"".join(pieces)
        except TimeoutError:
            raise errors.RequestError(
                f"the body did not arrive within {BODY_S:.0f} s", status=408, code="slow"
            ) from None

    async def _run(self, scope: Scope, receive: Receive, answer: _Answer, body: bytes) -> None:
        """The application with the body that was read; cancelled when the client closes the connection before the answer."""
        given = False
        gone = asyncio.Event()

        async def replay() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        work = asyncio.ensure_future(self._app(scope, replay, answer))
        watching = asyncio.create_task(watch())
        try:
            await asyncio.wait((work, watching), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.wait((work,))
                if not work.cancelled() and work.exception() is None:
                    return
                raise _GoneError
            await work
        finally:
            watching.cancel()
            work.cancel()

    async def _tell(self, scope: Scope, receive: Receive, answer: _Answer, error: errors.RequestError) -> None:
        if answer.status:
            raise RuntimeError("the answer had begun") from error  # the connection is all that can still be closed
        response = problem(scope, error)
        if error.status in (408, 413):
            response.headers["Connection"] = "close"  # the rest of the body is not read
        await response(scope, receive, answer)

    def _note(self, scope: Scope, client: str, identity: str, answer: _Answer, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.answered(route, answer.status, seconds)
        level = logging.DEBUG if scope["path"] in OPEN else logging.INFO
        event(
            "request",
            level=level,
            request_id=identity,
            client=client,
            method=scope["method"],
            path=scope["path"][:200],
            status=answer.status,
            ms=round(seconds * 1e3, 2),
            **answer.told,
        )


class _Answer:
    """``send`` that notes the status, adds the request's id, and gives up on clients that do not take the answer."""

    def __init__(self, send: Send, identity: str, last: Callable[[], bool]):
        self._send, self._identity, self._last = send, identity, last
        self.status = 0
        self.told: dict[str, str] = {}  # of the engine, for the log
        self.before_last: Callable[[], None] = lambda: None  # called before the end of the answer is sent

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._identity
            headers.setdefault("X-Content-Type-Options", "nosniff")
            if self._last():
                headers["Connection"] = "close"
            self.told = {name[10:]: value for name, value in headers.items() if name.startswith("x-anycost-")}
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.before_last()
        try:
            await asyncio.wait_for(self._send(message), SEND_S)
        except TimeoutError:
            raise _GoneError from None


class _GoneError(Exception):
    """The client closed the connection, or does not read."""


def called_by(header: str, hosts: Sequence[str]) -> bool:
    """Whether a Host header is one of these names, whatever its port; always where there are none.

    A page of another origin can let its own name point to this machine (DNS rebinding), and its requests are then of the
    server's origin; but they say that name.
    """
    if not hosts:
        return True
    try:
        return urlsplit(f"//{header}").hostname in {name.strip("[]").lower() for name in hosts}
    except ValueError:
        return False


def allowed(authorization: str, token: str | None) -> bool:
    """Whether a header is ``Bearer TOKEN``, compared in constant time; always without a token."""
    if token is None:
        return True
    kind, _, sent = authorization.partition(" ")
    same = hmac.compare_digest(sent.strip().encode(errors="replace"), token.encode())
    return kind.lower() == "bearer" and same
