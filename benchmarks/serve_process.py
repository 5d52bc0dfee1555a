"""The server under test: started in a process of its own, watched from outside, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any

import numpy as np
import psutil

from anycost.errors import AnycostError

_ADDRESS = re.compile(r"anycost: .* at http://([0-9.]+):(\d+)\s*$")
_WORKER = "anycost.runtime.server.worker"
KEPT_LINES = 50
LEAST_S = 20.0  # what a slope is told of: a few seconds' noise, times sixty, would be megabytes a minute
STARTING_S = 300.0  # a first start measures the device


@dataclass(frozen=True)
class Sample:
    """rss in 10^6 bytes: of the front, and of all workers together (None while one is being started). files: descriptors
    that the front has open."""

    second: float
    front_mb: float
    workers_mb: float | None
    files: int


class Server:
    """``anycost serve`` on a free port of this machine. Raises AnycostError when it does not come up."""

    def __init__(self, arguments: Sequence[str], workers: int, *, command: Sequence[str] | None = None):
        self.workers = workers
        self.errors: Counter[str] = Counter()  # what it logged as an error
        self.first_error = ""
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        command = command or (sys.executable, "-m", "anycost.cli", "serve", "--port", "0")
        self._process = subprocess.Popen(
            [*command, *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace"
        )
        self._front = psutil.Process(self._process.pid)
        self.host, self.port = "", 0
        # Read to the end, since a full pipe would stop the server, and kept only in part.
        self._reading = Thread(target=self._read, daemon=True)
        self._reading.start()
        try:
            self._wait()
        except BaseException:
            self.stop(force=True)
            raise

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._last.append(line.rstrip()[:500])
            if match := _ADDRESS.match(line.strip()):
                self.host, self.port = match[1], int(match[2])
            if '"level": "error"' in line or line.startswith("Traceback"):
                self._note(line)

    def _note(self, line: str) -> None:
        try:
            told = json.loads(line)
            name = f"{told.get('event')}"
        except ValueError:
            told, name = {}, line.strip()[:100]
        self.errors[name] += 1
        self.first_error = self.first_error or str(told.get("trace") or line)[-1500:]

    def _wait(self) -> None:
        until = time.monotonic() + STARTING_S
        while not self.port:
            if self._process.poll() is not None:
                raise AnycostError(f"the server did not start: {' '.join(self._last)[-500:] or 'it said nothing'}")
            if time.monotonic() > until:
                raise AnycostError(f"the server did not start within {STARTING_S:.0f} s")
            time.sleep(0.02)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def worker_processes(self) -> list[psutil.Process]:
        found = []
        with contextlib.suppress(psutil.Error):
            for child in self._front.children():
                with contextlib.suppress(psutil.Error):
                    if _WORKER in child.cmdline():
                        found.append(child)
        return found

    def holds(self, port: int) -> bool:
        """Whether the front has the connection from this port."""
        try:
            return any(one.raddr and one.raddr.port == port for one in self._front.net_connections("tcp"))
        except psutil.Error:
            return False

    def kill_worker(self) -> bool:
        """SIGKILL to the first worker. Returns whether there was one."""
        for worker in self.worker_processes()[:1]:
            with contextlib.suppress(psutil.Error):
                worker.kill()
                return True
        return False

    def sample(self, second: float) -> Sample | None:
        """None when it is gone."""
        try:
            workers = [process.memory_info().rss / 1e6 for process in self.worker_processes()]
            files = self._front.num_fds() if hasattr(self._front, "num_fds") else self._front.num_handles()
            whole = sum(workers) if len(workers) == self.workers else None
            return Sample(second, self._front.memory_info().rss / 1e6, whole, files)
        except psutil.Error:
            return None

    def stop(self, *, force: bool = False) -> int | None:
        """SIGTERM, after a minute SIGKILL; the exit code."""
        workers = self.worker_processes()
        if self.alive:
            self._process.send_signal(signal.SIGKILL if force else signal.SIGTERM)
        try:
            code = self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            code = None
        for worker in workers:
            with contextlib.suppress(psutil.Error):
                if force:
                    worker.kill()
        self._reading.join(5)
        return code


class Sampler:
    """Samples of a server at an interval, in the background: ``async with Sampler(server) as samples``."""

    def __init__(self, server: Server, interval_s: float = 1.0):
        self._server, self._interval = server, interval_s
        self.samples: list[Sample] = []

    async def __aenter__(self) -> list[Sample]:
        self._task = asyncio.create_task(self._run())
        return self.samples

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        began = time.monotonic()
        while True:
            found = self._server.sample(time.monotonic() - began)
            if found is not None:
                self.samples.append(found)
            await asyncio.sleep(self._interval)


def slope(seconds: Sequence[float], values: Sequence[float]) -> dict[str, Any] | None:
    """Least squares: by how much the values grow a minute, with its standard error; None for too few.

    Memory is not noise around a line: a sample is close to the one before it. The error is widened by the autocorrelation of
    the residuals at lag 1, as if there were (1 - r) / (1 + r) times as many samples.
    """
    count = len(values)
    if count < 8 or seconds[-1] - seconds[0] < LEAST_S:
        return None
    x = np.asarray(seconds, np.float64) / 60
    y = np.asarray(values, np.float64)
    x = x - x.mean()
    spread = float((x * x).sum())
    grows = float((x * y).sum()) / spread
    rest = y - y.mean() - grows * x
    squares = float((rest * rest).sum())
    r = float((rest[1:] * rest[:-1]).sum()) / squares if squares > 1e-12 else 0.0
    r = min(max(r, 0.0), 0.98)
    error = math.sqrt(squares / (count - 2) / spread) * math.sqrt((1 + r) / (1 - r))
    return {"mb_a_minute": round(grows, 3), "standard_error": round(error, 3), "samples": count}


def growth(samples: Sequence[Sample], warm_s: float) -> dict[str, Any]:
    """Slopes of front and workers over the samples after the first ``warm_s`` seconds, and the range of each."""
    late = [sample for sample in samples if sample.second >= warm_s]
    found: dict[str, Any] = {
        "files": [min((s.files for s in late), default=0), max((s.files for s in late), default=0)]
    }
    for name in ("front", "workers"):
        kept = [(s.second, getattr(s, f"{name}_mb")) for s in late if getattr(s, f"{name}_mb") is not None]
        found[name] = slope([second for second, _ in kept], [value for _, value in kept])
        if kept:
            found[f"{name}_mb"] = [round(kept[0][1], 1), round(kept[-1][1], 1)]
    return found
