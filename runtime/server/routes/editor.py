"""The web editor: its page and its WebSocket."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response, WebSocket, WebSocketDisconnect

from anycost.runtime.manifest import GeneratorRecord
from anycost.runtime.server.editor import EditorSession, Submit
from anycost.runtime.server.editor_messages import frame
from anycost.runtime.server.limits import allowed
from anycost.runtime.server.logs import event
from anycost.runtime.server.settings import Settings

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Everything that the page needs is in the package, so nothing else is let in: no other host, no inline code, no frames.
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
TOKEN_WAIT_S = 10.0
MOST_TOKEN_TEXT = 10_000
# Close codes: those from 4000 on are the application's own.
REFUSED, BUSY, NONE_HERE = 4401, 4429, 4404


@dataclass(frozen=True)
class _File:
    data: bytes
    headers: dict[str, str]


def _read() -> dict[str, _File]:
    """The page's files by name. Read once: nothing that a request says ever becomes a path."""
    found = {}
    for entry in files("anycost.runtime.server").joinpath("static").iterdir():
        suffix = entry.name[entry.name.rfind(".") :]
        if suffix in TYPES:
            data = entry.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
            found[entry.name] = _File(
                data, {**SECURITY, "Content-Type": TYPES[suffix], "ETag": tag, "Cache-Control": "no-cache"}
            )
    return found


def page_router() -> APIRouter:
    """GET / and GET /static/NAME. They hold nothing secret and need no token: the page asks for it."""
    router = APIRouter(include_in_schema=False)
    held = _read()

    def answer(request: Request, name: str) -> Response:
        file = held.get(name)
        if file is None:
            missing = {"code": "not_found", "message": "there is no such file: the page is at /"}
            missing["request_id"] = getattr(request.state, "request_id", "")
            return Response(json.dumps({"error": missing}), 404, media_type="application/json")
        if request.headers.get("if-none-match") == file.headers["ETag"]:
            return Response(status_code=304, headers=file.headers)
        return Response(file.data, headers=file.headers)

    @router.get("/")
    async def page(request: Request) -> Response:
        return answer(request, "index.html")

    @router.get("/static/{name}")
    async def static(request: Request, name: str) -> Response:
        return answer(request, name)

    return router


def socket_router(
    settings: Settings, generator: GeneratorRecord | None, submit: Submit, public: Callable[[str], str] = str
) -> APIRouter:
    """The WebSocket /v1/editor (``editor_messages`` has its messages).

    With a token set, a client that cannot send the header ``Authorization: Bearer TOKEN`` (browsers cannot, with WebSockets)
    sends {"token": "..."} as its first message. Pages of other origins are refused unless ``cors_origins`` has them: no CORS
    rule holds for WebSockets, so that any page could else use a server on its visitor's machine.
    """
    router = APIRouter()
    sockets: Counter[str] = Counter()

    @router.websocket("/v1/editor")
    async def editor(socket: WebSocket) -> None:
        if not _own_page(socket, settings):
            await socket.close()  # before it was accepted: answered with 403
            return
        client = socket.client.host if socket.client else ""
        await socket.accept()
        if sockets[client] >= settings.per_client:
            await _end(socket, BUSY, "too_many", f"{settings.per_client} editors of this client are open: close one")
            return
        sockets[client] += 1
        event("editor_opened", client=client, open=sockets[client])
        try:
            if not await _knows_token(socket, settings.token):
                await _end(socket, REFUSED, "unauthorized", "the token is missing or wrong")
            elif generator is None:
                await _end(socket, NONE_HERE, "not_found", "this bundle holds no generator that could be edited")
            else:
                await _edit(
                    socket, EditorSession(generator, submit, _sender(socket), client, public, settings.budget.memory_mb)
                )
        except WebSocketDisconnect:
            pass
        finally:
            sockets[client] -= 1
            event("editor_closed", client=client, open=sockets[client])
            if not sockets[client]:
                del sockets[client]

    return router


async def _edit(socket: WebSocket, session: EditorSession) -> None:
    try:
        while True:
            received = await socket.receive()
            if received["type"] == "websocket.disconnect":
                return
            # A binary message is no message of ours; as text it says so.
            await session.receive(received.get("text") or "")
    finally:
        await session.close()


def _sender(socket: WebSocket) -> Callable[[bytes], Awaitable[None]]:
    async def send(data: bytes) -> None:
        try:
            await socket.send_bytes(data)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise ConnectionError("the client is gone") from error

    return send


async def _end(socket: WebSocket, status: int, code: str, message: str) -> None:
    header = {"id": None, "view": None, "stage": "error", "code": code, "message": message, "last": True}
    try:
        await socket.send_bytes(frame(header))
        await socket.close(status)
    except (WebSocketDisconnect, RuntimeError):
        pass  # it has gone by itself


async def _knows_token(socket: WebSocket, token: str | None) -> bool:
    """Whether the client knows the token, by header or by its first message."""
    header = socket.headers.get("authorization", "")
    if token is None or header:
        return allowed(header, token)
    try:
        received = await asyncio.wait_for(socket.receive(), TOKEN_WAIT_S)
        text = received.get("text") or ""
        told = json.loads(text) if len(text) <= MOST_TOKEN_TEXT else None
    except (TimeoutError, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and isinstance(told.get("token"), str) and allowed(f"Bearer {told['token']}", token)


def _own_page(socket: WebSocket, settings: Settings) -> bool:
    """Programs send no Origin; a page's must be the server's own, or one that was allowed."""
    origin = socket.headers.get("origin")
    if origin is None or "*" in settings.cors_origins or origin in settings.cors_origins:
        return True
    try:
        return urlsplit(origin).netloc.lower() == socket.headers.get("host", "").lower() != ""
    except ValueError:
        return False
