"""Running the application with uvicorn until a signal, and then until everything that was accepted is answered."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from anycost.errors import InputError
from anycost.runtime.bundle import Bundle
from anycost.runtime.profile import Profile
from anycost.runtime.server.app import create_app
from anycost.runtime.server.connections import Connection
from anycost.runtime.server.logs import event, set_up
from anycost.runtime.server.service import Service
from anycost.runtime.server.settings import LOCAL, Settings

BACKLOG = 512
IDLE_S = 30  # that a connection is kept without a request
LINGER_S = 0.5  # that requests are still answered, with 503, after everything is done
LAST_S = 5  # for the answers to be sent once everything is done


def listen(settings: Settings) -> socket.socket:
    """A bound socket. Raises InputError for a port in use and an address that is not this machine's."""
    where = f"{settings.host}:{settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"address {where} is not known: {getattr(error, 'strerror', None) or error}") from None
    # With its protocol named: only then asyncio sends small pieces at once, and answers are 40 ms faster.
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port {settings.port} of {settings.host} is in use: give another with --port") from None
        raise InputError(f"cannot listen at {where}: {error.strerror or error}") from None
    return found


def run(settings: Settings, sock: socket.socket, bundle: Bundle, profile: Profile | None) -> None:
    """Serve until SIGTERM or SIGINT. Raises AnycostError where the server cannot start."""
    set_up()
    app = create_app(settings, bundle=bundle, profile=profile)
    host, port = sock.getsockname()[:2]
    if settings.token is None and host not in LOCAL:
        event("no_token", level=logging.WARNING, told="everybody who reaches this address can use it: --token-file")
    config = uvicorn.Config(
        app,
        http=Connection,
        lifespan="on",
        log_config=None,
        access_log=False,
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=LAST_S,
        server_header=False,
        ws_max_size=1 << 20,
    )
    server = _Server(config, app)
    shown = f"[{host}]" if ":" in host else host
    asyncio.run(server.serve_until_signal(sock, f"http://{shown}:{port}"))


class _Server(uvicorn.Server):
    """On the first signal: nothing new is taken, what was accepted is finished, and only then the sockets are closed. On the
    second: now."""

    def __init__(self, config: uvicorn.Config, app: FastAPI):
        super().__init__(config)
        self._service: Service = app.state.service
        self._draining: asyncio.Task[None] | None = None

    async def serve_until_signal(self, sock: socket.socket, address: str) -> None:
        loop = asyncio.get_running_loop()
        # Here and not in the lifespan, whose errors uvicorn prints as a stack trace.
        await self._service.dispatcher.start()
        try:
            for kind in (signal.SIGINT, signal.SIGTERM):
                try:
                    loop.add_signal_handler(kind, self._signalled)
                except NotImplementedError:  # Windows
                    signal.signal(kind, lambda *_: loop.call_soon_threadsafe(self._signalled))
            telling = asyncio.create_task(self._tell(address))
            await self.serve(sockets=[sock])
            telling.cancel()
        finally:
            await self._service.dispatcher.close()
        event("stopped")

    async def _tell(self, address: str) -> None:
        while not self.started:
            await asyncio.sleep(0.01)
        service = self._service
        print(f"anycost: {service.name} at {address}", file=sys.stderr, flush=True)
        event("ready", address=address, workers=service.settings.workers, threads=service.settings.worker_threads)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Not uvicorn's handlers, which end the process by the signal that they caught: a drained server ends with 0."""
        yield

    def _signalled(self) -> None:
        if self._draining is not None:
            self.force_exit = self.should_exit = True
            return
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        event("draining", running=self._service.dispatcher.running, queue=self._service.dispatcher.waiting)
        if not await self._service.dispatcher.drain(self._service.settings.drain_s):
            event("drained_not", level=logging.WARNING, told="some requests were not done in time")
        # Clients with an open connection are told 503 rather than cut off in the middle of their next request.
        await asyncio.sleep(LINGER_S)
        self.should_exit = True
