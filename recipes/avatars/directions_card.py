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


CARD = """# Editing directions of the embedded model

`avatars.directions.safetensors` holds {count} directions in W, found by `recipes/avatars/directions.py` with the rules of
`editing/find.py` on 6000 seeds. Everything below was measured on 2000 other seeds (pictures: {pictured} of them), with the
slider at its ends, as `editing/apply.py` moves codes: rows 0 to 11, which are all that this generator has, scale 0.6.

![Each direction at slider -100, -50, 0, 50 and 100](avatars.directions.png)

The strip has seeds {seeds}. {least_shown}

| direction | rule kept | accuracy | strength | gained | lost | others changed | seen in pictures | gained at strength 1 |
|---|---|--:|--:|--:|--:|--:|--:|--:|
{kept}

- *accuracy*: balanced, of the direction as a classifier of the option that the latent asks for; 0.5 is chance.
- *gained*: share of the seeds without the option whose winner in w becomes it; *lost*: of those with it, those that lose it.
- *others changed*: how many of the ten other attributes change their winner for a seed, on average.
- *seen in pictures*: of faces without the option, the share whose picture at +100 is nearer to the picture of the same face
  with it than with any other option of that attribute. Rule and strength were chosen with these faces in view, so this is
  the one figure that is a little too kind.

## Why the directions have a strength
Every option of this W is one coordinate at about 1.41, so that |w| is 4.6 and two options lie 2.0 apart. The published editor's
step of 0.6 along a unit vector crosses no border between them: see the last column. The vectors are stored as unit normals,
as published boundaries are, and `strength` says how many of them a slider's step is long: 1.2 or 1.6 times what just crosses
for nine seeds of ten, whichever shows the option in clearly more pictures. The border is all or nothing for most seeds,
because most codes are exactly one-hot. What lies between is a blend.

## Which rule finds what
Gained / lost of every rule's vector at one strength for all (*at*), a quarter over the shortest that works for any of them:

| direction | at | {rules} |
|---|--:|{marks}
{tried}

- Lasso ends at the wanted coordinates alone and so changes no other attribute; InterFaceGAN's rule and least squares come to
  the same plus a little of the opposite in the rest of the block, which takes the old option away and often looks better.
  InterFaceGAN's scores are the latent's own lead of the wanted options: there is no attribute predictor for these drawings.
- Logistic regression and the SVM on tags are as accurate, but their margin is mostly against the other options, unevenly, and
  up to a fifth of the squared length lies outside the block, fitted to the few undecided codes: they need a longer step, which
  this comparison at one length counts against them.
- SVD of the tag's codes fails for tags of several options (sunglasses, long hair): the codes with such a tag differ most by
  which of the options they have, so the first singular vector runs from one to another: it gains but never loses, its
  accuracy is chance. The mean of the codes moves too little to be the largest part, as for any tag near a half-space.
- Opposing pairs leave options at neither end as they are: only faces at the other end change within this length.
- SeFa knows no names and its factors mix attributes that style the same layers; the best of 120 (of coarse, middle, fine and
  all layers) seldom is a direction for one option.
- Conditional projection (of the least-squares vector, on those of related options): the mapping keeps attributes apart, so
  only options of one attribute are related (largest correlation of the kept ones {related:.2f}, `avatars.correlation.png`). Not
  moving the related option leaves it where it was, so that a face that has it gets a blend: it was {conditional}.

## What does not work
- Towards -100 there is less of an option than none: where the face does not have it, the generator extrapolates (light
  smears for glasses, complementary colours for hair). Down to -50 this is mild; the minus end is for faces that have it.
- Colours add up: they go beyond the palette at +100 for faces that already are near it; fair on dark
  hair turns olive, and blue on a peach background mint.
- An old option is not removed by adding a new one. Where shapes exclude each other (a hat on long hair), traces of the old
  one stay.
- Hair colour shows nothing on bald or covered heads, beards and eyes little under sunglasses or hoods.
"""


def card(all_kept: Sequence[Kept], seeds: Sequence[int], related: float, pictured: int) -> str:
    """The Markdown table of what was found, with what it means."""
    rules = list(dict.fromkeys(rule for kept in all_kept for rule in kept.tried))
    rows = []
    for kept in all_kept:
        found = kept.effect
        figures = [f"{kept.accuracy:.3f}", f"{kept.strength:.1f}", f"{found.gained:.2f}", f"{found.lost:.2f}"]
        figures += [f"{found.others:.3f}", f"{kept.pictured:.2f}", f"{kept.plain.gained:.2f}"]
        rows.append(f"| {kept.wanted.name} | {kept.rule} | {' | '.join(figures)} |")
    tried = []
    for kept in all_kept:
        cells = [f"{e.gained:.2f} / {e.lost:.2f}" if (e := kept.tried.get(rule)) else "" for rule in rules]
        tried.append(f"| {kept.wanted.name} | {kept.compared:.1f} | {' | '.join(cells)} |")
    conditional = [kept.wanted.name for kept in all_kept if kept.rule == "conditional"]
    least = min(all_kept, key=lambda kept: kept.pictured)
    return CARD.format(
        count=len(all_kept),
        pictured=pictured,
        seeds=", ".join(map(str, seeds)),
        least_shown=f"Hardest to see is {least.wanted.name} ({least.pictured:.0%} of the faces).",
        kept="\n".join(rows),
        rules=" | ".join(rules),
        marks="--:|" * len(rules),
        tried="\n".join(tried),
        related=related,
        conditional=f"kept for {', '.join(conditional)}" if conditional else "kept for none",
    )
