"""What is shown of the directions: a strip of pictures, and the card with the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anycost.editing.apply import edit
from anycost.editing.directions import Directions

if TYPE_CHECKING:
    from recipes.avatars.directions import Kept

Array = np.ndarray
VALUES = (-100, -50, 0, 50, 100)
TILE, GAP, LEFT, HEAD = 96, 14, 150, 30  # pixels


class Draws(Protocol):
    draw: Callable[[Array], Array]


def strip(path: Path, directions: Directions, faces: Array, pictures: Draws) -> None:
    """A row for every direction; for each face [F, style_dim] its pictures at the slider's ``VALUES``, side by side."""
    block = TILE * len(VALUES)
    sheet = Image.new("RGB", (LEFT + len(faces) * (block + GAP), HEAD + len(directions) * (TILE + 2)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    for face in range(len(faces)):
        for column, value in enumerate(VALUES):
            x = LEFT + face * (block + GAP) + column * TILE + TILE // 2
            pen.text((x, HEAD // 2), f"{value:+d}" if value else "0", "black", font, anchor="mm")
    for row, name in enumerate(directions.names):
        y = HEAD + row * (TILE + 2)
        pen.text((LEFT - 10, y + TILE // 2), name, "black", font, anchor="rm")
        codes = np.concatenate([edit(faces[:, None], directions, {name: value})[:, 0] for value in VALUES])
        for i, image in enumerate(pictures.draw(codes)):
            pixels = np.round((image.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
            tile = Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.BICUBIC)
            column, face = divmod(i, len(faces))
            sheet.paste(tile, (LEFT + face * (block + GAP) + column * TILE, y))
    sheet.save(path, optimize=True)


def card(all_kept: Sequence[Kept], seeds: Sequence[int], related: float, pictured: int) -> str:
    return ""
