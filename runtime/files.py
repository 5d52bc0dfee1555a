"""Small file steps that every writer and reader shares: hashing and writing whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from anycost.runtime.manifest import FileRecord


def record_of(path: Path) -> FileRecord:
    """Size and sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return FileRecord(sha256=digest.hexdigest(), size=path.stat().st_size)


def write_whole(path: Path, data: bytes) -> None:
    """Write to a temporary name, flush to disk, rename: a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
