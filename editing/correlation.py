"""Two measures of editing: how directions depend on each other, and whether sub-networks show the same attributes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anycost.editing.directions import Directions, check_name
from anycost.errors import BackendError, InputError
from anycost.runtime.files import write_whole

Array = np.ndarray

_MOST_DRAWN = 60  # names that a heat-map can still show


def correlation(directions: Directions) -> Array:
    """Attribute correlation n1.n2 / (|n1| |n2|), float64 [D, D] in [-1, 1] with ones on the diagonal (InterFaceGAN,
    arXiv 2005.09635). 0 is wanted: then a step along one direction leaves the other attribute alone."""
    vectors = directions.vectors.astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    matrix = np.clip(vectors @ vectors.T, -1, 1)
    matrix = (matrix + matrix.T) / 2  # products of rows in two orders may round differently
    np.fill_diagonal(matrix, 1)
    return np.asarray(matrix)


def consistency(full_scores: Array, subnet_scores: Array) -> tuple[Array, float]:
    """Attribute consistency (Anycost GAN, arXiv 2103.03243): the share of images of which the full network's and the
    sub-network's image get the same answer, float64 [A] by attribute in [0, 1], and its mean.

    Scores are float [N, A], positive meaning yes, or the attribute predictor's [N, A, 2], whose larger one is the
    answer; row i of both belongs to one latent and one noise. Raises InputError.
    """
    full, subnet = np.asarray(full_scores), np.asarray(subnet_scores)
    shape = full.shape
    if subnet.shape != shape or full.size == 0 or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != 2):
        raise InputError(f"scores {list(shape)} and {list(subnet.shape)}: twice [N, A] or [N, A, 2] was expected")
    if not np.isfinite(full).all() or not np.isfinite(subnet).all():
        raise InputError("the scores hold NaN or infinity")
    share = (_answers(full) == _answers(subnet)).mean(0)
    return share, float(share.mean())


def _answers(scores: Array) -> Array:
    # Of two equal scores argmax takes the first, which is no; so does > 0.
    return np.asarray(scores.argmax(2) == 1 if scores.ndim == 3 else scores > 0)


def table(names: Sequence[str], matrix: Array) -> str:
    """The matrix [D, D] as a Markdown table that also lines up as plain text; two decimals, a line for each direction."""
    matrix = _square(names, matrix)
    heads = [name.replace("|", "\\|") for name in names]
    first = max(len(head) for head in heads)
    widths = [max(len(head), 5) for head in heads]
    lines = ["| " + " | ".join([" " * first, *(f"{head:>{n}}" for head, n in zip(heads, widths, strict=True))]) + " |"]
    lines.append("|" + "|".join(["-" * (first + 2), *("-" * (n + 1) + ":" for n in widths)]) + "|")
    for head, row in zip(heads, matrix, strict=True):
        cells = [f"{_two_decimals(value):>{n}}" for value, n in zip(row, widths, strict=True)]
        lines.append("| " + " | ".join([f"{head:<{first}}", *cells]) + " |")
    return "\n".join(lines) + "\n"


def heat_map(names: Sequence[str], matrix: Array, path: Path, title: str = "Attribute correlation") -> None:
    """The matrix [D, D] as a PNG: blue below 0, white at 0, red above, the number in each cell. D at most 60.

    Raises InputError, and BackendError without matplotlib.
    """
    matrix = _square(names, matrix)
    if len(names) > _MOST_DRAWN:
        raise InputError(f"{len(names)} directions are more than the {_MOST_DRAWN} of one heat-map: choose some")
    data = io.BytesIO()
    # Without the version of matplotlib in it, the same drawing is the same file.
    figure = _draw(names, matrix, title)
    figure.savefig(data, format="png", dpi=150, bbox_inches="tight", pad_inches=0.15, metadata={"Software": None})
    try:
        write_whole(path, data.getvalue())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None


def _draw(names: Sequence[str], matrix: Array, title: str) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise BackendError("a heat-map needs matplotlib, which is not installed: pip install matplotlib") from None
    cell = 0.62 if len(names) <= 16 else 0.46  # inches
    size = 8.5 if len(names) <= 16 else 6.0  # points of the numbers: "-0.05" fits its cell
    longest = max(len(name) for name in names) * 0.085  # inches of the names at 9.5 points
    side = cell * len(names) + longest
    # Not through pyplot: its state is global, and its windows need a screen.
    figure = Figure(figsize=(side + 1.4, side + 0.9), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(
        range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=9.5, parse_math=False
    )
    axes.set_yticks(range(len(names)), names, fontsize=9.5, parse_math=False)  # "$" is a character of a name
    axes.set_xticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            ink = "white" if abs(value) > 0.6 else "#202124"
            axes.text(column, row, _two_decimals(value), ha="center", va="center", fontsize=size, color=ink)
    axes.set_title(title, fontsize=12, pad=10, parse_math=False)
    beside = axes.inset_axes((1 + 0.15 / len(names), 0, 0.2 / len(names) + 0.015, 1))  # as high as the matrix
    bar = figure.colorbar(image, cax=beside, ticks=[-1, -0.5, 0, 0.5, 1], format="%.1f")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8.5, length=0)
    return figure


def _square(names: Sequence[str], matrix: Array) -> Array:
    matrix = np.asarray(matrix, np.float64)
    if not names or matrix.shape != (len(names), len(names)):
        raise InputError(f"{len(names)} names and a matrix {list(matrix.shape)}: a square of as many was expected")
    if not np.isfinite(matrix).all():
        raise InputError("the matrix holds NaN or infinity")
    for name in names:
        check_name(name)
    return matrix


def _two_decimals(value: float) -> str:
    """-0.00 would look like a sign that means something."""
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text
