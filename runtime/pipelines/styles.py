"""Styles of a translator: a few numbers that say in which manner, from a seed or a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from anycost.errors import InputError
from anycost.runtime import latents
from anycost.runtime.pipelines.common import Array

STYLE_DIM = 8  # of GANs N' Roses
MOST_STYLES = latents.MOST_SEEDS
LARGEST = 1000.0  # they are of a standard normal distribution: beyond, decoders overflow
_NPY = b"\x93NUMPY"


def style_from_seed(seeds: int | Sequence[int], dim: int = STYLE_DIM) -> Array:
    """A seed or K of them -> float32 [K, dim], ``RandomState(seed).standard_normal(dim)`` each. Raises InputError."""
    return latents.latents(seeds if isinstance(seeds, Sequence) else [seeds], dim)


def read_style(path: str | os.PathLike[str], dim: int = STYLE_DIM) -> Array:
    """A .npy file, or a safetensors file with the tensor ``style``, of [dim] or [K, dim] -> float32 [K, dim].

    Which of the two it is, is told from the content. Raises InputError.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(len(_NPY))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the name") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return check_style(_npy(path) if start == _NPY else _safetensors(path), dim, str(path))


def _npy(path: Path) -> Any:
    try:
        # Mapped, so that a header that promises more than the file has is refused before memory is taken for it.
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, OverflowError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is no array of numbers ({reason[:120]}): save it with numpy.save") from None


def _safetensors(path: Path) -> Any:
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            if "style" in names:
                return file.get_tensor("style")
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: a type of numbers that NumPy does not have
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is neither .npy nor safetensors that can be read ({reason[:120]})") from None
    raise InputError(f"{path} has no tensor named style: it has {', '.join(map(repr, names[:5])) or 'none'}")


def check_style(style: Any, dim: int, name: str = "the style") -> Array:
    """[dim] or [K, dim] of numbers -> float32 [K, dim], K from 1 to MOST_STYLES. Raises InputError."""
    styles = np.asarray(style)
    if styles.dtype.kind not in "fiu" or styles.ndim not in (1, 2) or styles.shape[-1] != dim:
        raise InputError(f"{name} is {styles.dtype} {list(styles.shape)}: give numbers of shape [{dim}] or [K, {dim}]")
    styles = styles.reshape(-1, dim)
    if not 1 <= len(styles) <= MOST_STYLES:
        raise InputError(f"{name} has {len(styles)} rows: give 1 to {MOST_STYLES}")
    largest = float(np.abs(styles.astype(np.float64)).max())
    if not largest <= LARGEST:  # also refuses NaN
        raise InputError(
            f"{name} has the value {largest:g}: styles are finite and at most {LARGEST:g}, usually within 3"
        )
    return np.ascontiguousarray(styles, dtype=np.float32)
