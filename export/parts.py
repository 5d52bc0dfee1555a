"""Finished parts of a bundle, and the folder that they lie in.

A file of tensors is finished when it carries the hash of what it was made from (its key) and the hash of what it holds (its
digest): a build goes on with it only if both are right, so that neither a new checkpoint nor a damaged disk goes unnoticed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from anycost.errors import BuildError
from anycost.runtime.files import write_whole
from anycost.runtime.manifest import MANIFEST_NAME
from anycost.weights.save import serialize

MARKER = "unfinished.txt"
_KEY, _DIGEST = "key", "digest"


def write(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str], key: str) -> None:
    """Write a part whole. notes: text to keep with it."""
    digest = _digest({name: tensor.numpy() for name, tensor in tensors.items()}, notes)
    write_whole(path, serialize(tensors, dict(notes) | {_KEY: key, _DIGEST: digest}))


def notes_of(path: Path, key: str) -> dict[str, str] | None:
    """The notes of a part that is whole and was made from the same, else None."""
    try:
        with safe_open(path, framework="numpy") as file:
            notes = dict(file.metadata() or {})
            if notes.pop(_KEY, None) != key:
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError):
        return None
    return notes if notes.pop(_DIGEST, None) == _digest(arrays, notes) else None


def _digest(arrays: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(notes.items())).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def claim(folder: Path) -> None:
    """Make the folder, or see that it is empty, a bundle, or an unfinished build: nothing else is ever written to or
    cleaned up. Raises BuildError, and touches nothing then."""
    if folder.exists() and not folder.is_dir():
        raise BuildError(f"{folder} is a file: give a new folder for the bundle")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file() and not _is_bundle(folder):
        first = sorted(path.name for path in folder.iterdir())[0]
        raise BuildError(f"{folder} holds {first} and is no bundle: give a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise BuildError(f"{folder} is not writable: give another folder or change its permissions")


def _is_bundle(folder: Path) -> bool:
    """Also a damaged or older one: what its manifest begins with tells it, and a build makes it whole again."""
    try:
        with (folder / MANIFEST_NAME).open("rb") as file:
            return b'"anycost-bundle"' in file.read(4096)
    except OSError:
        return False


def begin(folder: Path) -> None:
    """Mark the folder as a build of ours until ``finish``, and remove what a killed run left half-written."""
    write_whole(folder / MARKER, b"An unfinished build of anycost-runtime: run the same command again.\n")
    for path in folder.rglob("*.part"):
        if re.fullmatch(r"\..+\.part|.+\.\d+\.part", path.name):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def finish(folder: Path) -> None:
    (folder / MARKER).unlink(missing_ok=True)


def explain(error: OSError, folder: Path) -> str:
    """What a failure of the file system means for a build."""
    if error.errno == errno.ENOSPC:
        return f"the disk of {folder} is full: free space and run the same command again, finished parts are kept"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.filename or folder} is not writable: give another folder or change its permissions"
    return f"{folder} could not be written: {error}"
