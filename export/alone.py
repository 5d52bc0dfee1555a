"""One process at a time in a folder that is being written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from anycost.errors import BuildError


@contextlib.contextmanager
def alone(folder: Path, shown: Path | None = None) -> Iterator[None]:
    """Keep other builds out of a folder until the end, however this process ends. Raises BuildError when one is at work, which
    names ``shown`` in its place where that is given.

    The lock is on the folder itself, so that nothing is left behind. Where the system has no such locks there is none.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            place = shown or folder
            raise BuildError(f"another build is writing into {place}: wait for it, or give another folder") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)
