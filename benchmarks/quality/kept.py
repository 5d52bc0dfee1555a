"""Arrays that were kept in a work folder, where anything may have happened to them."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

Array = np.ndarray
# What zipfile and NumPy raise for bytes that are no archive of arrays, or of one that this program would not write:
# compressed in an unknown way, encrypted, of objects, or of a size that does not fit.
_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_arrays(path: Path) -> dict[str, Array]:
    """Of a .npz file, whose checksums are compared; empty where it is not there or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (*_DAMAGED, TypeError, AttributeError):
        # The last two: a .npy under this name gives an array, which is no archive.
        return {}
