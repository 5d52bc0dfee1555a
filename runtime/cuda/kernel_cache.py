"""Kernels that TensorRT-RTX compiled on this device, kept for the next process."""

from __future__ import annotations

import hashlib
from typing import Any

from anycost.runtime.files import write_whole
from anycost.runtime.profile import cache_folder


class KernelCache:
    """Those of one plan, in the user's cache. Losing them costs only time.

    cache: the library's object. plan: the bytes of the compiled network.
    """

    def __init__(self, cache: Any, plan: bytes):
        self.cache = cache
        self._path = cache_folder() / "kernels" / f"{hashlib.sha256(plan).hexdigest()[:16]}.bin"
        self._stored = b""
        try:
            stored = self._path.read_bytes()
            # The library checks it, against its own version, the device and the driver too, and starts empty when it does
            # not fit.
            if cache.deserialize(stored):
                self._stored = stored
        except Exception:  # unreadable, or refused with an exception of the library
            pass

    def keep(self) -> None:
        """Write them, if there are any new ones."""
        made = self.cache.serialize()
        data = b"" if made is None else bytes(made)
        if not data or data == self._stored:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, data)
        except OSError:
            return
        self._stored = data
