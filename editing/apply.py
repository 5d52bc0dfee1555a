"""Moving style codes along directions by slider values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from anycost.editing.directions import Directions
from anycost.errors import InputError

Array = np.ndarray
LARGEST_VALUE = 100.0
SCALE = 0.6  # length of the step in W at a slider's end, as the published editor has it
ROWS = range(12)  # the rows it edits, of 18 at 1024 px: up to the first layer at 256 px; the finer ones hold colour


def check_value(name: str, value: float) -> float:
    """A slider's value in [-100, 100]: 0 leaves the image, 100 is a whole step. Raises InputError."""
    if not np.isfinite(value) or abs(value) > LARGEST_VALUE:
        raise InputError(f"{name}={value:g} is outside -100..100: 0 leaves the image as it is, 100 is a whole step")
    return float(value)


def parse_values(text: str) -> dict[str, float]:
    """ "smiling=60,young=-20" -> {"smiling": 60.0, "young": -20.0}. Raises InputError, also for a name given twice."""
    values: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            value = None
        if not name or not equals or value is None:
            raise InputError(f"{part.strip()!r} is not name=value: give a list such as smiling=60,young=-20")
        if name in values:
            raise InputError(f"{name} is given twice: give one value")
        values[name] = check_value(name, value)
    return values


def edit(
    w_plus: Array,
    directions: Directions,
    values: Mapping[str, float],
    rows: Iterable[int] = ROWS,
    scale: float = SCALE,
) -> Array:
    """w+[:, rows] + sum of value / 100 * scale * direction: the rule of Anycost GAN's editor (arXiv 2103.03243).

    w_plus is float [N, n_style, style_dim], truncated already if at all; values are sliders in
    [-100, 100] by name of direction; rows count from 0, and those that a smaller generator does not have are left out;
    scale is the step's length in W at 100. Returns a new float32 array of the same shape. Raises InputError.
    """
    w_plus = np.asarray(w_plus)
    if w_plus.ndim != 3 or w_plus.shape[2] != directions.style_dim or not np.issubdtype(w_plus.dtype, np.floating):
        raise InputError(
            f"style codes {w_plus.dtype} {list(w_plus.shape)}: float [N, n_style, {directions.style_dim}] was expected"
        )
    if not np.isfinite(w_plus).all():
        raise InputError("the style codes hold NaN or infinity")
    if not np.isfinite(scale):
        raise InputError(f"scale {scale:g} is not a finite number")
    chosen = sorted(set(rows))
    if chosen and chosen[0] < 0:
        raise InputError(f"row {chosen[0]}: rows count from 0")
    step = np.zeros(directions.style_dim)
    for name, value in values.items():
        step += check_value(name, value) / 100 * scale * directions[name].astype(np.float64)
    edited = w_plus.astype(np.float32)  # astype copies
    edited[:, [row for row in chosen if row < w_plus.shape[1]]] += step.astype(np.float32)
    return edited
