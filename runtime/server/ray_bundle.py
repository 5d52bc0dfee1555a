"""A bundle on every node of a cluster: read where it lies, or copied once to a node's cache."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anycost.errors import BundleError
from anycost.runtime.bundle import read_manifest
from anycost.runtime.manifest import MANIFEST_NAME
from anycost.runtime.profile import cache_folder
from anycost.runtime.quality import QUALITY_NAME

PIECE = 32 << 20  # bytes of one message between nodes
_FOLDER = "bundles"


class Depot:
    """The files of a bundle for other nodes; an actor on the node that has it."""

    def __init__(self, folder: str):
        self._folder = Path(folder)
        manifest, _ = read_manifest(self._folder)
        names = [MANIFEST_NAME, *manifest.all_files()]
        names += [QUALITY_NAME] if (self._folder / QUALITY_NAME).is_file() else []
        self._sizes = {name: (self._folder / name).stat().st_size for name in names}

    def sizes(self) -> dict[str, int]:
        """Bytes of every file by path."""
        return self._sizes

    def read(self, name: str, start: int) -> bytes:
        """At most ``PIECE`` bytes of a file that ``sizes`` names."""
        if name not in self._sizes:
            raise BundleError(f"{name[:100]!r} is no file of the bundle")
        with (self._folder / name).open("rb") as file:
            file.seek(start)
            return file.read(PIECE)


def local_bundle(folder: str, sha256: str, depot: Any) -> Path:
    """Where the bundle with this manifest's sha256 lies on this node: ``folder``, if it is there (the same machine, a shared
    disk), or the cache, into which the first process that asks copies it.

    depot: the handle of the actor. The copy is not checked here: whoever opens a bundle checks every file. Raises BundleError.
    """
    import ray

    for found in (Path(folder), cache_folder() / _FOLDER / sha256[:32]):
        if _holds(found, sha256):
            return found
    place = cache_folder() / _FOLDER / sha256[:32]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(place.with_name(f"{place.name}.lock")):
            if _holds(place, sha256):
                return place
            hidden = place.with_name(f".{place.name}.part")
            shutil.rmtree(hidden, ignore_errors=True)
            sizes: dict[str, int] = ray.get(depot.sizes.remote())
            for name, size in sizes.items():
                path = hidden / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    while file.tell() < size:
                        file.write(ray.get(depot.read.remote(name, file.tell())))
            shutil.rmtree(place, ignore_errors=True)
            os.replace(hidden, place)
    except OSError as error:
        raise BundleError(f"the bundle could not be copied to {place}: {error.strerror or error}") from None
    return place


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Other processes of this node that come here wait. Without such locks they do not, and the last copy stays."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _holds(folder: Path, sha256: str) -> bool:
    try:
        return read_manifest(folder)[1] == sha256
    except (BundleError, OSError):
        return False
