"""Folders that appear whole: written under a hidden name beside their own, and renamed at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from anycost.export.alone import alone


@contextlib.contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """An empty hidden folder that takes the place of ``folder``, whatever it holds, at the end; after an error it is removed.

    Raises BuildError when another process is writing the same.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    hidden, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old.part")
    hidden.mkdir(exist_ok=True)
    with alone(hidden, folder):
        for path in hidden.iterdir():  # what a killed run left
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            yield hidden
            shutil.rmtree(old, ignore_errors=True)
            if folder.is_dir():
                os.replace(folder, old)
            try:
                os.replace(hidden, folder)
            except OSError:
                if old.is_dir():
                    os.replace(old, folder)
                raise
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
