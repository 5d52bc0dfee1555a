"""Connections that would be kept for nothing are ended by the server."""

import asyncio
import contextlib
import socket

import pytest
import uvicorn

from anycost.runtime.server import connections

BIG = 32 << 20


async def application(scope, receive, send):
    body = bytes(BIG if scope["path"] == "/big" else 2)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@contextlib.asynccontextmanager
async def served():
    """The address of a server, and its open connections."""
    config = uvicorn.Config(application, http=connections.Connection, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # the test run keeps its own
    with socket.create_server(("127.0.0.1", 0)) as sock:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield sock.getsockname(), server.server_state.connections
        finally:
            server.should_exit = server.force_exit = True
            await serving


async def until(condition, seconds=5.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def pour(writer):
    for _ in range(100):
        writer.write(b"y" * 100_000)
        await writer.drain()
        await asyncio.sleep(0.001)


def run(use):
    async def within():
        async with asyncio.timeout(20):
            await use()

    asyncio.run(within())


def test_a_head_without_end_is_cut_off():
    async def use():
        async with served() as (address, _):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
            with pytest.raises(OSError, match=r"reset|[Bb]roken|lost"):
                await pour(writer)
            writer.close()
            # A long head that does end, and one after it on the same connection, are read.
            reader, writer = await asyncio.open_connection(*address)
            for _ in range(2):
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 700_000 + b"\r\n\r\n")
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                await reader.readexactly(2)
            writer.close()

    run(use)


def test_a_client_that_reads_nothing_is_not_kept(monkeypatch):
    monkeypatch.setattr(connections, "UNREAD_S", 0.3)

    async def use():
        async with served() as (address, kept):
            loop = asyncio.get_running_loop()
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.setblocking(False)
                await loop.sock_connect(sock, address)
                await loop.sock_sendall(sock, b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
                await until(lambda: len(kept) == 1)
                await until(lambda: not kept)
            # One that reads slowly, but reads, gets everything.
            reader, writer = await asyncio.open_connection(*address, limit=1 << 16)
            writer.write(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            got = 0
            while got < BIG:
                piece = await reader.read(1 << 20)
                assert piece
                got += len(piece)
                await asyncio.sleep(0.002)
            writer.close()

    run(use)


def test_a_connection_that_says_nothing_is_not_kept(monkeypatch):
    monkeypatch.setattr(connections, "HEAD_S", 0.2)

    async def use():
        async with served() as (address, kept):
            for data in (b"", b"GET / HTTP/1.1\r\nHo"):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(data)
                await until(lambda: len(kept) == 1)
                with contextlib.suppress(OSError):
                    assert await reader.read() == b""
                await until(lambda: not kept)
                writer.close()

    run(use)
