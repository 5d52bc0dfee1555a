"""Doing a function for many items in several processes of this machine, or on Ray. The items and results are pickled."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

from anycost.environment import environment
from anycost.errors import AnycostError, BackendError, InputError
from anycost.runtime.profile import default_threads

Item = TypeVar("Item")
Result = TypeVar("Result")
_TRIES = 2
_ENVIRONMENT = {
    # Idle worker threads would spin and slow the other processes.
    "OMP_WAIT_POLICY": "PASSIVE",
    # glibc gives large blocks back to the system, and gets and clears them again for the next image: a third of the time.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
}


class Pool(Protocol):
    """threads: of each process."""

    @property
    def threads(self) -> int: ...

    def run(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Generator[tuple[Item, Result], None, None]:
        """Results in the order in which they are ready. ``work`` is a function of a module. What it raises is raised here;
        an item whose process was killed is tried once more, then an AnycostError is raised. Closing the iterator ends what
        still runs."""
        ...


@dataclass(frozen=True)
class LocalPool:
    """Processes of this machine; one process is this one, so that nothing is started. Each has an equal part of the
    processors unless ``threads`` is given."""

    processes: int = 2
    given_threads: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.processes <= 1024:
            raise InputError(f"processes {self.processes} is outside 1..1024")

    @property
    def threads(self) -> int:
        return self.given_threads or max(1, default_threads() // self.processes)

    def run(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Generator[tuple[Item, Result], None, None]:
        if self.processes == 1 or len(items) < 2:
            for item in items:
                yield item, work(item)
            return
        waiting = [(item, 1) for item in reversed(items)]
        workers: list[_Worker] = []
        try:
            for _ in range(min(self.processes, len(items))):
                workers.append(_Worker(work, self.threads))
            while waiting or any(worker.item is not None for worker in workers):
                for worker in workers:
                    if worker.item is None and waiting:
                        worker.give(*waiting.pop())
                for worker in _ready(workers):
                    item, tries = worker.item, worker.tries
                    try:
                        result = worker.take()
                    except EOFError:
                        code = worker.end()
                        if tries == _TRIES:
                            raise AnycostError(_ended(item, code)) from None
                        waiting.append((item, tries + 1))
                        workers[workers.index(worker)] = _Worker(work, self.threads)
                    else:
                        yield item, result
        finally:
            for worker in workers:
                worker.end()


@dataclass(frozen=True)
class RayPool:
    """A Ray cluster by its address, or "local" for one of ``processes`` workers that is started here and ended afterwards.

    Every node needs this package and the bundle under the same path. Ray's own way of trying again is used. On a cluster
    every task takes one processor unless ``given_threads`` says more.
    """

    address: str
    processes: int = 2
    given_threads: int | None = None

    @property
    def threads(self) -> int:
        own = max(1, default_threads() // self.processes) if self.address == "local" else 1
        return self.given_threads or own

    def run(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Generator[tuple[Item, Result], None, None]:
        ray = _ray()
        started = not ray.is_initialized()
        if started:
            self._start(ray)
        try:
            remote = ray.remote(num_cpus=self.threads, max_retries=_TRIES - 1)(work)
            running = {remote.remote(item): item for item in items}
            try:
                while running:
                    ready, _ = ray.wait(list(running))
                    for reference in ready:
                        item = running.pop(reference)
                        yield item, _got(ray, reference, item)
            finally:
                for reference in running:
                    ray.cancel(reference, force=True)
        finally:
            if started:
                ray.shutdown()

    def _start(self, ray: Any) -> None:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self.address == "local":
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                with _environment(self.threads):
                    ray.init(num_cpus=self.processes * self.threads, include_dashboard=False, **quiet)
            else:
                ray.init(address=self.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise BackendError(f"no Ray cluster at {self.address}: {' '.join(str(error).split())[:200]}") from None


class _Worker:
    """A process that does one item after the other; it ends with this process, as its pipe does."""

    def __init__(self, work: Callable[[Any], Any], threads: int):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        with _environment(threads), _interrupts_blocked():
            self._process.start()
        theirs.close()
        self.item: Any = None
        self.tries = 0

    @property
    def pipe(self) -> Connection:
        return self._pipe

    def give(self, item: Any, tries: int) -> None:
        self.item, self.tries = item, tries
        # A process that has ended already shows at ``take``.
        with contextlib.suppress(OSError):
            self._pipe.send(item)

    def take(self) -> Any:
        """Raises what the work raised, or EOFError where the process has ended."""
        try:
            result, error = self._pipe.recv()
        except OSError:
            raise EOFError from None
        self.item = None
        if error is not None:
            raise error
        return result

    def end(self) -> int | None:
        """-> its exit code, negative for a signal."""
        self._pipe.close()
        self._process.join(0.2)
        before = self._process.exitcode
        self._process.kill()
        self._process.join()
        return before


def _ready(workers: Sequence[_Worker]) -> list[_Worker]:
    busy = {worker.pipe: worker for worker in workers if worker.item is not None}
    return [busy[pipe] for pipe in wait(list(busy)) if isinstance(pipe, Connection)]


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    # An interrupt is for the process that started this one, which ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):
            return
        answer: tuple[Any, Exception | None]
        try:
            answer = work(item), None
        except AnycostError as error:
            answer = None, error
        except Exception:
            # Not every exception can be pickled; its text can.
            answer = None, RuntimeError(traceback.format_exc())
        try:
            pipe.send(answer)
        except OSError:
            return


def _got(ray: Any, reference: Any, item: object) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AnycostError):
            raise error.cause from None
        raise
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
        raise AnycostError(_ended(item, None)) from None


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise BackendError("Ray is not installed: pip install 'anycost-runtime[ray]'") from None
    return ray


def _ended(item: object, code: int | None) -> str:
    how = f" ({signal.Signals(-code).name})" if code is not None and code < 0 else "" if code is None else f" ({code})"
    return f"the process measuring {item} ended {_TRIES} times{how}: it may need more memory; try fewer --processes"


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes that are started within never see an interrupt, not even in the seconds before ``_serve``, where Python would
    print a traceback. One that comes meanwhile is for this process, afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Where it is not running yet, starting it would unblock interrupts again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _environment(threads: int) -> AbstractContextManager[None]:
    """What processes that are started within have in their environment."""
    return environment({"OMP_NUM_THREADS": str(threads), **_ENVIRONMENT})
