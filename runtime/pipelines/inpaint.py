"""Filling the missing part of a picture.

A context encoder sees a small square with a hole and gives what belongs there. So a window is chosen around the hole's
bounding box, brought to the network's size with the hole filled by a constant, and the network's patch is brought to the
hole. The window is the natural size of the network or twice the hole, whichever is larger: smaller windows would only be
enlarged, and larger ones would shrink the hole below what the network was trained on.

* "context-encoder" (with skips): the window has the side min(shorter side, max(network's size, 2 x the box's longer side))
  and lies in the picture, its middle as near to the box's as the borders allow. A box that is longer than the picture is
  wide makes it longer in that direction only, and the picture is squeezed. The patch is the whole bounding box.
* "context-encoder-256" (without skips, central hole): the patch is always the middle half of the window, and all of it is
  hidden from the network, as it was trained so. The half has the side max(box's longer side, min(network's patch, half the
  shorter side)) and the box in its middle; near a border it is moved, as far as it still holds the box, to keep the window
  in the picture. What of the window lies beyond nevertheless is mirrored, with holes.

A square picture of the network's own size is the window itself in both, for the second where the box is the central one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from anycost.errors import InputError
from anycost.runtime.images import Source, read_image, resize
from anycost.runtime.masks import Mask, Pixels, bounding_box, check_mask, paste
from anycost.runtime.networks import LoadedNetwork
from anycost.runtime.pipelines.common import Array, check_kind, part_of, pictures, side_of

ANYWHERE, CENTRAL = "context-encoder", "context-encoder-256"


class Box(NamedTuple):
    """In pixels of the picture; may leave it."""

    top: int
    left: int
    height: int
    width: int


def inpaint(network: LoadedNetwork, image: Source, mask: Mask, constant: float = 0.0) -> Pixels:
    """image: any source of ``read_image``; mask: bool [H, W], True where it is missing -> a new picture, uint8 [H, W, 3].

    Pixels outside the mask are those of the picture, byte for byte, and what the picture has inside is never looked at.
    constant: what the network was trained to see in a hole, in [-1, 1]; 0 is the middle gray. One patch is made for all
    of the mask: fill holes that lie far apart one by one. Raises InputError.
    """
    check_kind(network, ANYWHERE, CENTRAL)
    if not (math.isfinite(constant) and -1 <= constant <= 1):
        raise InputError(f"constant {constant:g} is outside -1..1, the range of pictures: 0 is the middle gray")
    pixels = read_image(image)
    check_fits(mask, pixels)
    part = part_of(network)
    entering, leaving = part.inputs[0], part.outputs[0]
    size, patch = side_of(network, entering), side_of(network, leaving)
    left, top, width, height = bounding_box(mask)
    hole = Box(top, left, height, width)
    central = network.record.kind == CENTRAL
    if central:
        target = _half(hole, pixels, patch)
        window = Box(
            target.top - target.height // 2, target.left - target.width // 2, 2 * target.height, 2 * target.width
        )
    else:
        target, window = hole, _around(hole, pixels, size)
    seen = _masked(pixels, mask, window, size, constant)
    if central:
        edge = (size - patch) // 2
        seen[..., edge : edge + patch, edge : edge + patch] = constant
    made = pictures(network, network.run("", {entering.name: seen})[leaving.name], leaving)[0]
    filled = pixels.copy()
    rows, columns = slice(top, top + height), slice(left, left + width)
    filled[rows, columns] = _part(made, target, hole)
    return paste(pixels, filled, mask)


def check_fits(mask: Mask, pixels: Pixels) -> None:
    """Raises InputError where the mask is not bool [H, W] of the picture, or marks nothing or everything."""
    height, width = pixels.shape[:2]
    if not isinstance(mask, np.ndarray) or mask.dtype != bool:
        raise InputError(
            f"the mask is of {getattr(mask, 'dtype', type(mask).__name__)}: give a bool array, True where it is missing"
        )
    if mask.shape != (height, width):
        raise InputError(f"the mask has shape {list(mask.shape)}: the picture takes [{height}, {width}]")
    check_mask(mask, "the mask")


def _around(hole: Box, pixels: Pixels, size: int) -> Box:
    """The window of ANYWHERE: inside the picture, holds the hole."""
    sides = pixels.shape[:2]
    side = min(*sides, max(size, 2 * max(hole.height, hole.width)))
    height, width = max(side, hole.height), max(side, hole.width)
    top, left = hole.top + (hole.height - height) // 2, hole.left + (hole.width - width) // 2
    return Box(min(max(top, 0), sides[0] - height), min(max(left, 0), sides[1] - width), height, width)


def _half(hole: Box, pixels: Pixels, patch: int) -> Box:
    """What the patch of CENTRAL covers: a square that holds the hole. Its side is even, so that the window of twice the side
    has whole pixels around it."""
    height, width = pixels.shape[:2]
    side = max(hole.height, hole.width, min(patch, min(height, width) // 2))
    side += side % 2
    return Box(_placed(hole.top, hole.height, side, height), _placed(hole.left, hole.width, side, width), side, side)


def _placed(start: int, length: int, side: int, limit: int) -> int:
    """Where the half begins along one side of the picture: the window should lie inside, and the half must hold the hole."""
    if 2 * side > limit:
        wanted = (limit - side) // 2
    else:
        wanted = min(max(start + (length - side) // 2, side // 2), limit - side - side // 2)
    return min(max(wanted, start + length - side), start)


def _masked(pixels: Pixels, mask: Mask, window: Box, size: int, constant: float) -> Array:
    """The window as the network sees it: float32 [1, 3, size, size], x (1 - M) + M c, mirrored beyond the borders.

    The hole is filled before the picture is made smaller, so that nothing of it leaks into its surroundings, and once more
    after, so that the network sees the constant itself. Every pixel that touches the hole belongs to it.
    """
    rows, above, below = _overlap(window.top, window.height, pixels.shape[0], size)
    columns, before, after = _overlap(window.left, window.width, pixels.shape[1], size)
    inner = size - above - below, size - before - after
    hidden, gray = mask[rows, columns], round((constant + 1) * 127.5)
    known = np.where(hidden[..., None], np.uint8(gray), pixels[rows, columns])
    small = resize(np.ascontiguousarray(known), inner).astype(np.float32) / np.float32(127.5) - 1
    small[_touched(hidden, inner)] = constant
    whole = np.pad(small, ((above, below), (before, after), (0, 0)), mode="symmetric")
    return np.ascontiguousarray(whole.transpose(2, 0, 1)[None])


def _overlap(start: int, length: int, limit: int, size: int) -> tuple[slice, int, int]:
    """Which pixels 0..limit a window has along one side, and how many of its ``size`` scaled ones lie before and after."""
    low, high = max(start, 0), min(start + length, limit)
    first = min(round((low - start) * size / length), size - 1)
    last = max(round((high - start) * size / length), first + 1)
    return slice(low, high), first, size - last


def _touched(mask: Mask, size: tuple[int, int]) -> Mask:
    """The mask at another size: True for each pixel whose area holds any of it, however small the part."""
    for axis, (old, new) in enumerate(zip(mask.shape, size, strict=True)):
        # Counts along one axis after the other: the second time there is little left to count.
        counts = np.insert(mask.cumsum(axis, dtype=np.int32), 0, 0, axis)
        starts, ends = np.arange(new) * old // new, -(-np.arange(1, new + 1) * old // new)
        mask = counts.take(ends, axis) > counts.take(starts, axis)
    return mask


def _part(made: Pixels, target: Box, hole: Box) -> Pixels:
    """The patch covers ``target`` -> the part of it over ``hole``, of the hole's size. Only that part is enlarged."""
    scale = made.shape[0] / target.height, made.shape[1] / target.width
    top, left = (hole.top - target.top) * scale[0], (hole.left - target.left) * scale[1]
    bottom = min(top + hole.height * scale[0], made.shape[0])
    right = min(left + hole.width * scale[1], made.shape[1])
    part = Image.fromarray(made).resize(
        (hole.width, hole.height), Image.Resampling.LANCZOS, box=(left, top, right, bottom)
    )
    return np.asarray(part)
