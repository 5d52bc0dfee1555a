"""Writing images as PNG files."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from anycost.errors import InputError
from anycost.runtime.files import write_whole

LARGEST_SHEET = 1 << 28  # pixels: 0.8 GB of memory


def save_images(images: np.ndarray, seeds: Sequence[int], folder: Path, *, sheet: bool = False) -> list[Path]:
    """uint8 [N, H, W, 3] -> seed0007.png and so on, or one sheet.png. Raises InputError where the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if sheet:
            return [_save(contact_sheet(images), folder / "sheet.png")]
        return [_save(image, folder / f"seed{seed:04d}.png") for image, seed in zip(images, seeds, strict=True)]
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"images cannot be written to {folder}: {reason}; give another folder with -o") from None


def contact_sheet(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """uint8 [N, H, W, 3] -> one picture [rows * H, columns * W, 3], near square unless ``columns`` is given."""
    count, height, width, _ = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    filled = np.full((rows * columns, height, width, 3), 255, np.uint8)
    filled[:count] = images
    grid = filled.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, 3)


def save_png(image: np.ndarray, path: Path) -> None:
    """uint8 [H, W, 3] -> one PNG. Raises InputError where it cannot be written."""
    try:
        _save(image, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; give another file") from None


def _save(image: np.ndarray, path: Path) -> Path:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())
    return path
