"""Pictures to compare with: a folder of files, or an array that ``recipes/avatars/render.mjs`` wrote."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anycost.benchmarks.quality.features import Extractor
from anycost.benchmarks.quality.kept import read_arrays
from anycost.errors import InputError
from anycost.runtime.files import write_whole
from anycost.runtime.images import read_image, resize

Array = np.ndarray
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_ARRAYS = ("images.npy", "validation/images.npy")
_BATCH = 32


@dataclass(frozen=True)
class Pictures:
    """folder: as it was given. array: memory-mapped uint8 [N, S, S, 3], or None; files: else."""

    folder: Path
    array: Array | None
    files: tuple[Path, ...]

    @classmethod
    def open(cls, folder: Path) -> Pictures:
        """``images.npy`` or ``validation/images.npy`` in the folder, or that file itself; else every PNG, JPEG and WebP in it
        and in its folders, by name. Raises InputError where there are not two."""
        for path in [folder, *(folder / name for name in _ARRAYS)]:
            if path.is_file() and path.suffix == ".npy":
                return cls(folder, _array(path), ())
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder: give one of PNG or JPEG pictures, or with an images.npy")
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
        if len(files) < 2:
            raise InputError(f"{folder} holds {len(files)} pictures: 2 are the least and some thousands are usual")
        return cls(folder, None, tuple(files))

    def __len__(self) -> int:
        return len(self.files) if self.array is None else len(self.array)

    def sample(self, count: int, side: int) -> Array:
        """uint8 [count or all, side, side, 3]: evenly spread over them, the central square. Raises InputError."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int))
        return np.stack([resize(self._one(int(row)), (side, side)) for row in rows])

    def features(self, extract: Extractor, work: Path) -> Array:
        """float32 [N, D], kept in ``work``. Raises InputError."""
        path = work / f"data-{hashlib.sha256(f'{extract.identity}{self._state()}'.encode()).hexdigest()[:24]}.npz"
        kept = read_arrays(path).get("features")
        if kept is not None and kept.shape == (len(self), extract.dim):
            return kept
        found = np.concatenate([extract(batch) for batch in self._batches()])
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, features=found)
        try:
            work.mkdir(parents=True, exist_ok=True)
            write_whole(path, buffer.getvalue())
        except OSError as error:
            raise InputError(f"{work} cannot be written: {error.strerror or error}; give another with --work") from None
        return found

    def _batches(self) -> Iterator[Array]:
        """Pictures of one size at a time."""
        batch: list[Array] = []
        for row in range(len(self)):
            image = self._one(row)
            if batch and (len(batch) == _BATCH or image.shape != batch[0].shape):
                yield np.stack(batch)
                batch = []
            batch.append(image)
        yield np.stack(batch)

    def _one(self, row: int) -> Array:
        """The central square of a picture, uint8 [S, S, 3]."""
        image = read_image(self.files[row]) if self.array is None else np.asarray(self.array[row])
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return np.ascontiguousarray(image[top : top + side, left : left + side])

    def _state(self) -> str:
        """What changes when the pictures do."""
        files = self.files if self.array is None else (Path(getattr(self.array, "filename", self.folder)),)
        stats = [(str(path), path.stat()) for path in files]
        return str([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def _array(path: Path) -> Array:
    try:
        found: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())[:120]}") from None
    if found.dtype != np.uint8 or found.ndim != 4 or found.shape[-1] != 3 or len(found) < 2 or 0 in found.shape:
        raise InputError(f"{path} holds {found.dtype} {list(found.shape)}: uint8 [N, S, S, 3] of 2 or more is expected")
    return found
