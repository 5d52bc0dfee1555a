"""Weights on a device: one copy for all engines that need the same one."""

from __future__ import annotations

import hashlib
import threading
import weakref
from functools import cache

import numpy as np

from anycost.runtime.cuda.driver import Cuda, DeviceMemory, cuda

Array = np.ndarray


class DeviceWeights:
    """The constants held on one device. An engine keeps what ``hold`` returns; a copy goes when the last such engine does.

    Copies are known by their content: sub-networks of one channel ratio bind the same constants of their low resolutions,
    and two files with the same weights share them too.
    """

    def __init__(self, cuda: Cuda):
        self._cuda = cuda
        self._held: weakref.WeakValueDictionary[tuple[int, bytes], DeviceMemory] = weakref.WeakValueDictionary()
        # Engines may be loaded in several threads; none may see a copy before it is whole.
        self._lock = threading.Lock()

    def hold(self, array: Array, stream: int) -> DeviceMemory:
        """The device's copy of a constant of any type; when there is none, it is uploaded over the stream and complete on
        return. Raises BackendError when the device has no room."""
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        key = content.nbytes, hashlib.sha256(content.data).digest()
        with self._lock:
            memory = self._held.get(key)
            if memory is None:
                memory = self._cuda.allocate(content.nbytes)
                self._cuda.upload(memory.pointer, content, stream)
                self._cuda.synchronize(stream)
                self._held[key] = memory
            return memory

    @property
    def bytes(self) -> int:
        """What is held now, each copy once."""
        return sum(memory.size for memory in list(self._held.values()))


@cache
def device_weights(ordinal: int = 0) -> DeviceWeights:
    """The one ``DeviceWeights`` of a device in this process. Raises BackendError without that device."""
    return DeviceWeights(cuda(ordinal))
