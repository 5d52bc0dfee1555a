"""A real server as a process of its own, and pictures to send to it."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading

import httpx
import numpy as np
from PIL import Image

STARTS_S = 60


def picture(height=60, width=50, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def as_file(image, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


class Served:
    """``anycost serve`` as a process on a free port. address, log (lines of standard error), workers (process ids)."""

    def __init__(self, bundle, *options, threads=1):
        command = [sys.executable, "-m", "anycost.cli", "serve", str(bundle), "--port", "0", "--threads", str(threads)]
        self.process = subprocess.Popen(
            [*command, *map(str, options)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=os.environ
        )
        self.log, self.workers = [], []
        self.address = None
        self._known = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._known.wait(STARTS_S), "".join(self.log)
        assert self.address, "".join(self.log)

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r'"event": "worker_ready".*"pid": (\d+)', line):
                self.workers.append(int(found[1]))
            if found := re.search(r"^anycost: \S+ at (\S+)", line):
                self.address = found[1]
                self._known.set()
        self._known.set()

    def client(self, **options):
        return httpx.Client(base_url=self.address, timeout=60, **options)

    def stop(self, number=signal.SIGTERM, timeout=30):
        """The exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self._reader.join(5)


@contextlib.contextmanager
def serving(bundle, *options, **more):
    served = Served(bundle, *options, **more)
    try:
        yield served
    finally:
        served.stop()
