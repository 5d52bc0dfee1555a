"""Faults while a server works: a worker is killed, clients are slow, connections say nothing."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from anycost.benchmarks.serve_client import Client, NoReplyError
from anycost.benchmarks.serve_load import counted, counters, images, opened
from anycost.benchmarks.serve_process import Server

KILLS = 2
SLOW = 10  # clients of each kind
STEP_S = 0.25  # between two bytes of a slow client
RECEIVED = 4096  # bytes that a client which does not read has room for
ANSWERS = 400  # that it asks for, of tens of kilobytes
HEAD, PIECE = 8_000_000, 100_000
BODY = b'{"seeds":[0]}'


async def killed(server: Server, client: Client, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """kill -9 of a worker, twice, under load. back_s: until a worker is ready again."""
    before = await counters(client)
    kills = 0
    back: list[float] = []

    async def kill() -> None:
        nonlocal kills
        for _ in range(KILLS):
            await asyncio.sleep(seconds / (KILLS + 1))
            old = {process.pid for process in server.worker_processes()}
            if not server.kill_worker():
                continue
            kills += 1
            began = time.monotonic()
            while time.monotonic() < began + 30:
                await asyncio.sleep(0.05)
                new = {process.pid for process in server.worker_processes()} - old
                if new and await _ready(client):
                    back.append(round(time.monotonic() - began, 2))
                    break

    killing = asyncio.create_task(kill())
    tally, took = await opened(images(client), rate, seconds, seed)
    await killing
    return {
        **tally.values(took),
        **counted(before, await counters(client)),
        "rate": round(rate, 2),
        "kills": kills,
        "back_s": back,
    }


async def _ready(client: Client) -> bool:
    try:
        return (await client.ask("GET", "/health/ready", limit_s=5)).status == 200
    except NoReplyError:
        return False


Behaviour = Callable[[Client, float], Coroutine[Any, Any, str]]


async def slow_body(client: Client, hold_s: float) -> str:
    """A body byte by byte, whole within a few seconds: it is to be answered."""
    return await _drip(client, _head(len(BODY)), _bytes(BODY), min(STEP_S, hold_s / 2 / len(BODY)), hold_s + 30)


async def endless_body(client: Client, hold_s: float) -> str:
    """A body byte by byte that never comes to its end."""
    return await _drip(client, _head(1_000_000), itertools.repeat(b" "), STEP_S, hold_s)


async def endless_head(client: Client, hold_s: float) -> str:
    return await _drip(
        client, b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nX: ", itertools.repeat(b"y"), STEP_S, hold_s
    )


async def silent(client: Client, hold_s: float) -> str:
    """A connection that says nothing."""
    return await _drip(client, b"", (), 1, hold_s)


async def large_head(client: Client, hold_s: float) -> str:
    """Megabytes of one header, as fast as they go."""
    head = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: "
    return await _drip(client, head, [bytes(PIECE).replace(b"\0", b"y")] * (HEAD // PIECE) + [b"\r\n\r\n"], 0, hold_s)


async def deaf(client: Client, hold_s: float) -> str:
    """Asks for more than the system's buffers hold and does not read it. A server that only closes the connection keeps it, and
    what is in its own buffers, until the client reads; so what the server's process holds is looked at."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        # Before it is connected, so that the window is small from the start.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
        sock.setblocking(False)
        await loop.sock_connect(sock, (client.host, client.port))
        await loop.sock_sendall(sock, b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * ANSWERS)
        await asyncio.sleep(hold_s)
        return "open" if client.holds(sock.getsockname()[1]) else "ended by the server"


def _head(length: int) -> bytes:
    lines = (
        "POST /v1/generate HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {length}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def _bytes(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


async def _drip(client: Client, first: bytes, rest: Iterable[bytes], step_s: float, hold_s: float) -> str:
    """Send piece by piece until the server answers or ends the connection, at most ``hold_s``."""
    try:
        reader, writer = await client.connect()
    except OSError as error:
        return f"not connected: {error.strerror}"

    async def send() -> None:
        writer.write(first)
        for piece in rest:
            await asyncio.sleep(step_s)
            writer.write(piece)
            await writer.drain()

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(hold_s):
            start = await reader.read(12)
        return f"answered {start[9:12].decode('latin-1')}" if start else "ended by the server"
    except TimeoutError:
        return "open"
    except OSError:
        return "ended by the server"
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()


KINDS: dict[str, Behaviour] = {
    "body byte by byte": slow_body,
    "body without end": endless_body,
    "head without end": endless_head,
    "head of 8 MB": large_head,
    "answers not read": deaf,
}


async def beside(
    server: Server, client: Client, crowd: list[tuple[str, Behaviour]], rate: float, hold_s: float, seed: int
) -> dict[str, Any]:
    """Ordinary requests while a crowd holds connections. ends: what became of these, by kind: answered (with a status), ended
    by the server, or still open when the crowd went away; files: descriptors before, during and after."""
    await client.close()
    before = server.sample(0)
    people = [asyncio.create_task(behave(client, hold_s)) for _, behave in crowd]
    await asyncio.sleep(min(1.0, hold_s / 4))
    during = server.sample(0)
    tally, took = await opened(images(client), rate, hold_s, seed)
    ends: dict[str, dict[str, int]] = {}
    for (kind, _), end in zip(crowd, await asyncio.gather(*people, return_exceptions=True), strict=True):
        told = end if isinstance(end, str) else f"{type(end).__name__}: {end}"
        of_kind = ends.setdefault(kind, {})
        of_kind[told] = of_kind.get(told, 0) + 1
    await client.close()
    after = await settled(server, before.files if before else 0)
    return {
        **tally.values(took),
        "rate": round(rate, 2),
        "connections": len(crowd),
        "held_s": hold_s,
        "ends": ends,
        "files": [sample.files if sample else None for sample in (before, during, after)],
        "front_mb": [round(sample.front_mb, 1) if sample else None for sample in (before, during, after)],
    }


async def settled(server: Server, files: int, limit_s: float = 15) -> Any:
    """A sample once no more than ``files`` descriptors are open, or after the limit."""
    until = time.monotonic() + limit_s
    while (found := server.sample(0)) is not None and found.files > files and time.monotonic() < until:
        await asyncio.sleep(0.2)
    return found
