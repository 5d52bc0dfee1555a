"""Fetching one file over HTTP: with progress, resumed after a break, checked before it gets its name."""

from __future__ import annotations

import errno
import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from anycost.errors import DownloadError

Progress = Callable[[int, int | None], None]
_PIECE = 1 << 18
_TIMEOUT_S = 30
_TRIES = 4


class _BrokenError(Exception):
    """A fault worth another try."""


def fetch(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
    pause_s: float = 1.0,
) -> str:
    """Download ``url`` to ``target`` and return its sha256.

    size, sha256: checked when given; the file gets its name only after that. A part left by an earlier break is gone on
    with where the server allows. progress(bytes so far, bytes in all or None). pause_s: before the second try, doubled each time.
    Raises DownloadError, one line with the way out: offline, refused, not found, another size or hash, no space.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url} is not an http or https address")
    part = target.with_name(target.name + ".part")
    way_out = f"or fetch it on another machine and put it at {target}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            for attempt in range(_TRIES):
                try:
                    _receive(url, part, size, progress)
                    break
                except _BrokenError as error:
                    if attempt == _TRIES - 1:
                        raise DownloadError(
                            f"{url} could not be fetched ({error}): check the connection and try again, {way_out}"
                        ) from None
                    time.sleep(pause_s * 2**attempt)
            found = _check(url, part, size, sha256)
            os.replace(part, target)
            return found
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DownloadError(
                f"the disk of {target.parent} is full: free space and try again; what was fetched is kept"
            ) from None
        raise DownloadError(f"{target.parent} could not be written: {error}") from None


def _receive(url: str, part: Path, size: int | None, progress: Progress | None) -> None:
    """Append what is missing to the part. Raises _BrokenError for faults that may pass."""
    have = part.stat().st_size if part.exists() else 0
    if size is not None and have == size:
        return
    if size is not None and have > size:
        part.unlink()
        have = 0
    request = urllib.request.Request(url, headers={"User-Agent": "anycost-runtime"})
    tag_file = part.with_name(part.name + ".etag")
    if have:
        request.add_header("Range", f"bytes={have}-")
        if tag_file.exists():
            # Without it a file that changed on the server would be glued to the old one's head.
            request.add_header("If-Range", tag_file.read_text())
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            _append(response, part, tag_file, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            part.unlink(missing_ok=True)
            raise _BrokenError("the part kept from before does not fit the file") from None
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _BrokenError(f"the server answered {error.code}") from None
        raise DownloadError(
            f"{url} cannot be fetched: the server answered {error.code} {error.reason}; the address may have moved"
        ) from None
    except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException) as error:
        raise _BrokenError(str(getattr(error, "reason", error)) or type(error).__name__) from None
    tag_file.unlink(missing_ok=True)


def _append(response: HTTPResponse, part: Path, tag_file: Path, progress: Progress | None) -> None:
    resumed = response.status == 206
    done = part.stat().st_size if resumed else 0
    left = response.headers.get("Content-Length")
    total = done + int(left) if left else None
    tag = response.headers.get("ETag")
    if tag and not tag.startswith("W/"):
        tag_file.write_text(tag)
    with part.open("ab" if resumed else "wb") as file:
        while piece := response.read(_PIECE):
            file.write(piece)
            done += len(piece)
            if progress:
                progress(done, total)
    if total is not None and done < total:
        raise _BrokenError(f"the connection broke after {done} of {total} bytes")


def _check(url: str, part: Path, size: int | None, sha256: str | None) -> str:
    found_size = part.stat().st_size
    if size is not None and found_size != size:
        part.unlink()
        raise DownloadError(
            f"{url} gave {found_size} bytes where {size} were expected: try again, or the file has changed"
        )
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 is not None and found != sha256:
        part.unlink()
        raise DownloadError(f"{url} has sha256 {found[:16]}... where {sha256[:16]}... was expected: it was not kept")
    return found


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One download of a file at a time; another process waits for it."""
    try:
        import fcntl
    except ImportError:  # Windows: the rename at the end still keeps the target whole
        yield
        return
    with target.with_name(target.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
