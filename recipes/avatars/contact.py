"""A contact sheet of rendered pictures: python -m recipes.avatars.contact --data DIR [DIR ...] -o contact.png

A row of eight pictures for every folder, and again, until there are four of each; folders of one seed show the same people in
their styles. Under every picture what its labels say of glasses, mouth, eyes, facial hair, hair and hat.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from recipes.avatars.data import Pictures

COLUMNS, ROUNDS, TILE, TEXT = 8, 2, 128, 46
SHOWN = ("top", "mouth", "eyes", "accessories", "facialHair")


def sheet(folders: list[Path]) -> Image.Image:
    """The sheet of the first pictures of every folder's training part."""
    found = Image.new("RGB", (COLUMNS * TILE, ROUNDS * (len(folders) * TILE + TEXT)), "white")
    draw, font = ImageDraw.Draw(found), ImageFont.load_default(9)
    y = 0
    for first in range(0, ROUNDS * COLUMNS, COLUMNS):
        rows = np.arange(first, first + COLUMNS)
        for folder in folders:
            pictures = Pictures.load([folder])
            for column, pixels in enumerate(pictures.pixels(rows)):
                found.paste(Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.BOX), (column * TILE, y))
            y += TILE
        attributes = json.loads((folders[0] / "data.json").read_text())["attributes"]
        labels = Pictures.load(folders[:1]).labels[rows]
        for column, label in enumerate(labels.tolist()):
            chosen = {a["name"]: a["slots"][slot] for a, slot in zip(attributes, label, strict=True)}
            lines = [f"{name} {chosen[name]}" for name in SHOWN if chosen[name] != "none"]
            draw.multiline_text((column * TILE + 3, y), "\n".join(lines), "black", font, spacing=0)
        y += TEXT
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="folders written by render.mjs with one seed"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    sheet(args.data).save(args.output, optimize=True)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
