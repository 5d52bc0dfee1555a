"""Worker processes: started, watched, and started again when they die."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anycost.errors import BackendError
from anycost.runtime.server import wire

FIRST_BACKOFF_S, MOST_BACKOFF_S = 0.1, 10.0
HEALTHY_S = 30.0  # a worker that lived so long starts again at once, whatever happened before
STUCK_S = 120.0  # no engine call takes so long: the process hangs
ENDING_S = 2.0  # for a worker to end by itself
_STREAM_BYTES = 4 << 20
Started = Callable[["Worker"], None]


class WorkerDiedError(Exception):
    """The process ended, or was ended because it hung or wrote nonsense, before it answered."""


class Worker:
    """One process. ``call`` by one caller at a time."""

    def __init__(self, number: int, command: Sequence[str], settings: Mapping[str, Any], pool: Pool):
        self.number = number
        self.restarts = 0
        self.ready = asyncio.Event()
        self._command, self._settings, self._pool = command, settings, pool
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def call(self, header: Mapping[str, Any], arrays: Mapping[str, wire.Array]) -> wire.Message:
        """One message and its answer. Raises WorkerDiedError, and WireError for a message that cannot be sent."""
        process = self._process
        if process is None or not self.ready.is_set():
            raise WorkerDiedError("it is not running")
        pieces = wire.pack(header, arrays)  # raises WireError before anything is sent
        try:
            async with asyncio.timeout(STUCK_S):
                return await _exchange(process, pieces)
        except TimeoutError:
            reason = f"it gave no answer for {STUCK_S:.0f} s"
        except wire.WireError as error:
            reason = str(error)
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            reason = "its process ended"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 1)
        self.ready.clear()
        self._end(process)
        raise WorkerDiedError(reason)

    async def supervise(self) -> None:
        """Start the process, and start it again whenever it ends; until cancelled."""
        backoff = FIRST_BACKOFF_S
        while True:
            began = time.monotonic()
            try:
                await self._start()
                self.ready.set()
                self._pool.changed(self)
                assert self._process is not None
                await self._process.wait()
                reason = f"ended with code {self._process.returncode}"
            except BackendError as error:
                reason = str(error)
                self._pool.failed(error)
            except (WorkerDiedError, OSError) as error:
                reason = str(error)
            finally:
                self.ready.clear()
                await self._stop()
            self.restarts += 1
            self._pool.changed(self, reason)
            backoff = FIRST_BACKOFF_S if time.monotonic() - began > HEALTHY_S else backoff
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, MOST_BACKOFF_S)

    async def _start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_STREAM_BYTES,
            start_new_session=True,  # a Ctrl-C in the terminal is for the server, which ends its workers when it is done
        )
        try:
            async with asyncio.timeout(STUCK_S):
                header, _ = await _exchange(self._process, wire.pack(self._settings))
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError, wire.WireError) as error:
            raise WorkerDiedError(f"did not start: {error or type(error).__name__}") from None
        if "ready" not in header:
            raise BackendError(str(header.get("error", "the worker did not start")))

    async def _stop(self) -> None:
        """Close the pipe, which a worker takes as its end; after a moment kill it."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(OSError, RuntimeError):
            assert process.stdin is not None
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), ENDING_S)
        except TimeoutError:
            pass
        finally:
            # Also where this was cancelled meanwhile: no process stays behind.
            self._end(process)
            await process.wait()
        self._process = None

    @staticmethod
    def _end(process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


class Pool:
    """Workers over one bundle. settings: what each is told at its start: bundle, threads, and the engines to load.

    on_change(worker, reason) is called when a worker is ready (reason empty) and when it ended.
    """

    def __init__(
        self,
        count: int,
        settings: Mapping[str, Any],
        *,
        command: Sequence[str] = (sys.executable, "-m", "anycost.runtime.server.worker"),
        on_change: Callable[[Worker, str], None] | None = None,
    ):
        self._on_change = on_change
        self._first: asyncio.Future[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.workers = [Worker(number, command, settings, self) for number in range(count)]

    @property
    def ready(self) -> int:
        """How many workers can be called."""
        return sum(worker.ready.is_set() for worker in self.workers)

    async def start(self) -> None:
        """Start all workers; returns when the first is ready. Raises BackendError where none could open the bundle."""
        self._first = asyncio.get_running_loop().create_future()
        self._tasks = [asyncio.create_task(worker.supervise()) for worker in self.workers]
        try:
            await self._first
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def changed(self, worker: Worker, reason: str = "") -> None:
        if not reason and self._first is not None and not self._first.done():
            self._first.set_result(None)
        if self._on_change:
            self._on_change(worker, reason)

    def failed(self, error: BackendError) -> None:
        """A worker said why it cannot start; before any was ready that ends the start."""
        if self._first is not None and not self._first.done():
            self._first.set_exception(error)


async def _exchange(process: asyncio.subprocess.Process, pieces: Sequence[bytes | memoryview]) -> wire.Message:
    assert process.stdin is not None and process.stdout is not None
    for piece in pieces:
        process.stdin.write(piece)
    await process.stdin.drain()
    return await wire.receive(process.stdout)
