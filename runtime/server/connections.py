"""HTTP connections that end when a client opens them and sends nothing, or its request's head too slowly."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 15.0  # for the first line and the headers to arrive


class Connection(HttpToolsProtocol):
    """uvicorn's, with a limit of time from the connection, or a request's first byte, to the end of its headers. Between
    requests uvicorn's own limit for idle connections holds, for bodies ``Gate``'s."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        self._arrived()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._arrived()
        self._waiting = self.loop.call_later(HEAD_S, self.transport.abort)

    def _arrived(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
