"""A small HTTP client: what a load generator must not do (retry, wait for a free connection, follow, decode) it does not do.

Raw asyncio, since on a machine that server and load share every millisecond of the client is one less for the server.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MOST_ANSWER = 64 << 20  # bytes; more is an error
IDLE_S = 10.0  # a connection that was idle longer is not used again: the server may be about to close it
_PATH = re.compile(r"(^|[\s'\"(])/(work|home|root|usr|opt|tmp|var|private)/\w|\.py\b|Traceback")


@dataclass(frozen=True)
class Reply:
    """Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of a refusal, empty where there is none."""
        return _refusal(self.body).get("code", "")


def _refusal(body: bytes) -> dict[str, str]:
    """code, message and request_id of {"error": {...}}, or of {"error": MESSAGE, ...} as the Open Inference Protocol has it;
    empty for what is neither."""
    try:
        found = json.loads(body)
        told = found["error"] if isinstance(found["error"], dict) else {**found, "message": found["error"]}
        texts = {name: told[name] for name in ("code", "message", "request_id")}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return texts if all(isinstance(text, str) and text for text in texts.values()) else {}


class NoReplyError(Exception):
    """The connection ended, stayed silent or said what is not HTTP."""


class Client:
    """Requests to one server, each on a connection of its own or on one that is free.

    holds: whether the server's process still has the connection from a port of this machine, as far as that can be told.
    """

    def __init__(self, host: str, port: int, holds: Callable[[int], bool] = lambda port: True):
        self.host, self.port, self.holds = host, port, holds
        self._free: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        limit_s: float = 30,
    ) -> Reply:
        """Raises NoReplyError, also after ``limit_s``."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        data = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        return await self.send(data, limit_s=limit_s, head=method == "HEAD")

    async def send(self, data: bytes, *, limit_s: float = 30, head: bool = False, fresh: bool = False) -> Reply:
        """As ``ask``, with a whole request as bytes. fresh: on a connection of its own, which is closed then."""
        writer: asyncio.StreamWriter | None = None
        keep = False
        try:
            async with asyncio.timeout(limit_s):
                reader, writer = await (self.connect() if fresh else self._connection())
                writer.write(data)
                # A server that refuses early may answer before all is sent, so the answer is read meanwhile.
                sending = asyncio.ensure_future(writer.drain())
                try:
                    reply = await read_reply(reader, head=head)
                    keep = not fresh and sending.done() and reply.headers.get("connection", "").lower() != "close"
                finally:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
        except TimeoutError:
            raise NoReplyError(f"no answer within {limit_s:g} s") from None
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise NoReplyError(f"{type(error).__name__}: {error}") from None
        finally:
            if writer is not None:
                if keep:
                    self._free.append((time.monotonic(), reader, writer))
                else:
                    writer.close()
        return reply

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port)

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._free:
            since, reader, writer = self._free.pop()
            if time.monotonic() - since < IDLE_S and not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await self.connect()

    async def close(self) -> None:
        """Close what is free."""
        for _, _, writer in self._free:
            writer.close()
        self._free.clear()
        await asyncio.sleep(0)


async def read_reply(reader: asyncio.StreamReader, *, head: bool = False) -> Reply:
    """Raises NoReplyError for what is not HTTP, EOFError for what is cut off."""
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text.rstrip().split("\r\n")
    match = re.fullmatch(r"HTTP/1\.[01] (\d{3})(?: .*)?", first)
    if not match:
        raise NoReplyError(f"the answer begins with {first[:60]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(match[1])
    if head or status in (101, 204, 304):
        return Reply(status, headers, b"")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Reply(status, headers, await _chunks(reader))
    length = headers.get("content-length", "")
    if not length.isdigit():
        body = await reader.read(MOST_ANSWER)
    elif int(length) > MOST_ANSWER:
        raise NoReplyError(f"an answer of {length} bytes")
    else:
        body = await reader.readexactly(int(length))
    return Reply(status, headers, body)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    pieces, size = [], 0
    while True:
        length = int((await reader.readline()).partition(b";")[0] or b"0", 16)
        size += length
        if size > MOST_ANSWER:
            raise NoReplyError(f"an answer above {MOST_ANSWER} bytes")
        pieces.append(await reader.readexactly(length))
        await reader.readexactly(2)
        if not length:
            return b"".join(pieces)


def flaw(reply: Reply) -> str:
    """What is wrong with a reply: empty for a success (2xx, 304, or 307 from PATH/ to PATH) and for a proper refusal.

    Proper are 4xx and 503 with code, message and request_id, or a line of plain text with 400, which is how a server answers
    what is not HTTP at all; an answer to HEAD has no body. A refusal must not show paths or traces of the server, and 503
    with the code ``failed`` is this server's word for a failure that nobody foresaw.
    """
    if 200 <= reply.status < 300 or reply.status in (304, 307):
        return ""
    if reply.status != 503 and not 400 <= reply.status < 500:
        return f"status {reply.status}"
    text = reply.body.decode("utf-8", "replace")
    if found := _PATH.search(text):
        return f"{reply.status} shows {text[max(0, found.start() - 20) : found.end() + 40]!r}"
    if reply.code == "failed":
        return "503 failed: an error that was not foreseen"
    if reply.status == 503 and not reply.headers.get("retry-after", "").isdigit():
        return f"503 {reply.code} without Retry-After"
    plain = reply.status == 400 and reply.headers.get("content-type", "").startswith("text/plain")
    if not _refusal(reply.body) and not (plain and len(text) < 200 and "\n" not in text) and text:
        return f"{reply.status} is not in the form of an error: {text[:80]!r}"
    return ""
