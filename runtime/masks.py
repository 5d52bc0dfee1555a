"""Masks for inpainting: bool [H, W], True where the picture is missing. Every maker leaves something of both kinds.

Random masks are the same for a seed on every machine: NumPy's RandomState, whose stream is frozen.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from anycost.errors import InputError
from anycost.runtime.images import read_image
from anycost.runtime.latents import check_seeds

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]

MOST_BOXES = 1000
KINDS = "center, box:X,Y,WIDTH,HEIGHT, boxes:COUNT, strokes or the name of a picture with white where it is missing"


def central_box(h: int, w: int, fraction: float = 0.5) -> Mask:
    """A box in the middle with ``fraction`` (0..1, both excluded) of each side, at least 1 pixel. Raises InputError."""
    if not 0 < fraction < 1:
        raise InputError(f"fraction {fraction:g} of a side is not between 0 and 1: 0.5 is usual")
    height, width = (min(max(round(fraction * side), 1), max(side - 1, 1)) for side in (h, w))
    return box(h, w, ((w - width) // 2, (h - height) // 2, width, height))


def box(h: int, w: int, box: tuple[int, int, int, int]) -> Mask:
    """A box of (x, y, width, height) in pixels from the upper left. Raises InputError where it leaves the picture."""
    _check_sides(h, w)
    x, y, width, height = box
    if width < 1 or height < 1:
        raise InputError(f"box {x},{y},{width},{height} is empty: width and height are at least 1")
    if x < 0 or y < 0 or x + width > w or y + height > h:
        raise InputError(f"box {x},{y},{width},{height} (x, y, width, height) leaves the picture of {w}x{h} pixels")
    mask = np.zeros((h, w), bool)
    mask[y : y + height, x : x + width] = True
    return check_mask(mask, "the mask")


def random_boxes(h: int, w: int, count: int, seed: int) -> Mask:
    """``count`` boxes (1 to MOST_BOXES) with sides of 1/8 to 1/2 of the picture's, anywhere; they may overlap.

    A box that would leave nothing known is not drawn. Raises InputError.
    """
    _check_sides(h, w)
    if not 1 <= count <= MOST_BOXES:
        raise InputError(f"{count} boxes: give 1 to {MOST_BOXES}")
    state = np.random.RandomState(check_seeds([seed])[0])
    mask = np.zeros((h, w), bool)
    for _ in range(count):
        height, width = (state.randint(max(side // 8, 1), max(side // 2, 1) + 1) for side in (h, w))
        y, x = state.randint(0, h - height + 1), state.randint(0, w - width + 1)
        grown = mask.copy()
        grown[y : y + height, x : x + width] = True
        if not grown.all():
            mask = grown
    return check_mask(mask, "the mask")


def brush_strokes(
    h: int,
    w: int,
    seed: int,
    *,
    strokes: tuple[int, int] = (1, 3),
    vertices: tuple[int, int] = (4, 11),
    brush: tuple[float, float] = (12, 40),
) -> Mask:
    """Free-form strokes in the manner of Yu et al. 2019 (arXiv 1806.03589).

    1. Draw the number of strokes in ``strokes``; for each the number of vertices and the brush's width.
    2. Start anywhere. Each next vertex lies at an angle around 2 pi / 5, on alternate sides, at a normal distance of mean
       diagonal / 8 and half of that as deviation, kept within the picture.
    3. Join the vertices by lines with round caps.

    Ranges are inclusive; ``brush`` is in pixels of a picture whose shorter side has 256 and scales with it. A stroke that
    would leave nothing known is not drawn, and of the first a single pixel. Raises InputError.
    """
    _check_sides(h, w)
    for name, (low, high) in {"strokes": strokes, "vertices": vertices, "brush": brush}.items():
        if not 1 <= low <= high:
            raise InputError(f"{name} {low:g}..{high:g} is not a range that starts at 1 or more")
    state = np.random.RandomState(check_seeds([seed])[0])
    mask = np.zeros((h, w), bool)
    for _ in range(state.randint(strokes[0], strokes[1] + 1)):
        points = _wander(state, h, w, state.randint(vertices[0], vertices[1] + 1))
        width = max(1, round(state.uniform(*brush) * min(h, w) / 256))
        grown = mask | _stroke(h, w, points, width)
        if grown.all() and not mask.any():
            grown = np.zeros((h, w), bool)
            grown[points[0][1], points[0][0]] = True
        if not grown.all():
            mask = grown
    return check_mask(mask, "the mask")


def _wander(state: np.random.RandomState, h: int, w: int, count: int) -> list[tuple[int, int]]:
    """count + 1 vertices (x, y) within the picture."""
    mean, spread = 2 * math.pi / 5, 2 * math.pi / 15
    low, high = mean - state.uniform(0, spread), mean + state.uniform(0, spread)
    reach = math.hypot(h, w) / 8
    points = [(int(state.randint(w)), int(state.randint(h)))]
    for i in range(count):
        angle = state.uniform(low, high) * (1 if i % 2 else -1)
        distance = float(np.clip(state.normal(reach, reach / 2), 0, 2 * reach))
        x, y = points[-1][0] + distance * math.cos(angle), points[-1][1] + distance * math.sin(angle)
        points.append((min(max(int(x), 0), w - 1), min(max(int(y), 0), h - 1)))
    return points


def _stroke(h: int, w: int, points: list[tuple[int, int]], width: int) -> Mask:
    canvas = Image.new("L", (w, h), 0)
    draw = ImageDraw.Draw(canvas)
    draw.line(points, fill=255, width=width)
    radius = width // 2
    for x, y in points:  # Pillow's lines end square and leave gaps at the joints
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(canvas) > 127


def read_mask(path: str | os.PathLike[str] | bytes, h: int, w: int) -> Mask:
    """A picture of any mode, white where the picture is missing -> bool [h, w]; the threshold is half of white.

    Transparent pixels count as black, so that white painted on a transparent layer works. Another size is brought to
    h x w by the nearest pixel. Raises InputError as read_image does and where nothing or all is missing.
    """
    _check_sides(h, w)
    gray = read_image(path, background=0).mean(axis=2)
    height, width = gray.shape
    rows, columns = (2 * np.arange(h) + 1) * height // (2 * h), (2 * np.arange(w) + 1) * width // (2 * w)
    name = "the mask" if isinstance(path, bytes) else str(path)
    return check_mask(gray[rows[:, None], columns] >= 127.5, name)


def check_mask(mask: Mask, name: str) -> Mask:
    """Returns it. Raises InputError where nothing or everything is missing."""
    if mask.all():
        raise InputError(
            f"{name} leaves nothing of the picture's {mask.shape[1]}x{mask.shape[0]} pixels: make it smaller"
        )
    if not mask.any():
        raise InputError(f"{name} marks nothing as missing: paint the missing part white")
    return mask


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """The smallest (x, y, width, height) that holds every missing pixel. Raises InputError for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        raise InputError("the mask marks nothing as missing, so that it has no box")
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def parse_mask(text: str, h: int, w: int, seed: int = 0) -> Mask:
    """What a person types -> bool [h, w]: "center", "box:x,y,width,height", "boxes:3", "strokes" or a file's name.

    Raises InputError. A file with such a name is reached as ./center.
    """
    kind, _, rest = text.partition(":")
    if text == "center":
        return central_box(h, w)
    if text == "strokes":
        return brush_strokes(h, w, seed)
    if kind not in ("box", "boxes"):
        if not text:
            raise InputError(f"the mask is empty: give {KINDS}")
        return read_mask(text, h, w)
    try:
        numbers = [int(number) for number in rest.split(",")]
    except ValueError:
        numbers = []
    if kind == "box" and len(numbers) == 4:
        return box(h, w, (numbers[0], numbers[1], numbers[2], numbers[3]))
    if kind == "boxes" and len(numbers) == 1:
        return random_boxes(h, w, numbers[0], seed)
    raise InputError(f"mask {text!r} is not understood: give {KINDS}")


def paste(image: Pixels, filled: Pixels, mask: Mask) -> Pixels:
    """image and filled uint8 [H, W, 3], mask [H, W] -> a new picture: ``filled`` where missing, else ``image`` byte for byte.

    Raises InputError where the sizes or types differ.
    """
    if image.dtype != np.uint8 or filled.dtype != np.uint8 or mask.dtype != bool:
        raise InputError(f"pictures are uint8 and masks bool, not {image.dtype}, {filled.dtype} and {mask.dtype}")
    if image.ndim != 3 or image.shape != filled.shape or image.shape[:2] != mask.shape:
        shapes = f"{list(image.shape)}, {list(filled.shape)} and {list(mask.shape)}"
        raise InputError(f"picture, filling and mask have different sizes: {shapes}")
    return np.where(mask[..., None], filled, image)


def _check_sides(h: int, w: int) -> None:
    if h < 1 or w < 1 or h * w < 2:
        raise InputError(f"a picture of {w}x{h} pixels cannot be masked: it takes at least two")
