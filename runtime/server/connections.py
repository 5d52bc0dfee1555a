"""HTTP connections that end when a client sends nothing, its request's head too slowly or without end, or reads no answers."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 15.0  # for the first line and the headers to arrive
MOST_HEAD = 1 << 20  # bytes that arrive before they are whole; a piece may hold the end of a body too
UNREAD_S = 30.0  # for a client to take something of an answer that is ready


class Connection(HttpToolsProtocol):
    """uvicorn's, with a limit of time from the connection, or a request's first byte, to the end of its headers. Between
    requests uvicorn's own limit for idle connections holds, for bodies ``Gate``'s. They are aborted, not closed: closing
    waits until the client has read everything."""

    _waiting: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _head = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._head = self._head + len(data) if self._waiting is not None else 0
        if self._head > MOST_HEAD:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        self._read()
        super().resume_writing()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        self._arrived()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        self._read()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._arrived()
        self._waiting = self.loop.call_later(HEAD_S, self.transport.abort)

    def _arrived(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _watch(self) -> None:
        """Ends the connection unless some of what waits for the client is gone by then. Writing resumes only when nearly all
        is."""
        left = self.transport.get_write_buffer_size()

        def look() -> None:
            if self.transport.get_write_buffer_size() < left:
                self._watch()
            else:
                self.transport.abort()

        self._unread = self.loop.call_later(UNREAD_S, look)

    def _read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
