"""Turning a run of inpainting.py into the embedded model, its sheet and its card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from anycost.runtime.masks import paste
from anycost.runtime.pipelines.inpaint import inpaint
from anycost.weights.checkpoint import read_any
from anycost.weights.save import save
from recipes.avatars.data import Pictures
from recipes.avatars.inpainting import BATCH, KIND, MASKS, Loaded, Run, figures, mask_of

NAME = "avatars-inpainting"
CREDIT = (
    "Trained on pictures rendered from 'Avataaars' by Pablo Stanley (https://avataaars.com/, free for personal and commercial "
    "use), as remixed by DiceBear (https://www.dicebear.com/)."
)
CARD = """# avatars-inpainting: the embedded context encoder

{credit}

| | |
|---|---|
| network | context encoder with skips (`context-encoder`) |
| shape | picture of 128 px in, patch of 64 px out, {features} features (as published: 64) |
| parameters | {parameters:.2f} million; fp16, {size:.1f} MB |
| data | {pictures} pictures rendered by `recipes/avatars/render.mjs`; {held_out} more that were held out |
| training | {steps} steps of {batch} pictures; CPU |
| licence | Apache-2.0 for the weights as for the code; the credit line above stays with them |

![masked, filled and original, for each kind of mask]({name}.png)

## Recipe
The network sees x (1 - M) + M c with c = 0 (the middle gray, the runtime's default) and answers with a patch that is resized
to the bounding box of the mask M; known pixels stay those of the picture. A fifth of the masks are the central box, two fifths
one to three random boxes, two fifths free-form strokes. Loss: L1 on the patch, the known pixels in it with a tenth of the
weight; in the last three tenths of the steps an adversarial loss as well (cross entropy of a narrow discriminator with
self-attention that sees the patch with its known pixels put back, under noise; L1 weighs 500 times as much). The weights are a
running average of those trained, with batch-norm statistics measured for that average.

```
.venv/bin/python -m recipes.avatars.inpainting train --data data/avataaars-1 data/avataaars-2 --out data/inpainting
.venv/bin/python -m recipes.avatars.inpainting ship  --data data/avataaars-1 data/avataaars-2 --out data/inpainting
```

## Figures
Of the shipped fp16 weights on {held_out} held-out pictures with one mask each, filled and pasted by the runtime's own pipeline.
Values are scaled to 0..1. PSNR (of the mean squared error over all pictures), SSIM (7x7 windows), MAE and RMSE are of the whole
picture after pasting, so a small hole is worth many decibels; "MAE in hole" is of the hidden pixels alone. Border fill is the
baseline: the mean colour of the known pixels that touch the hole.

{table}

## Limits
Made for pictures like those it was trained on: one avatar of this style, filling a picture of 128 px, with holes of at most
half of each side or strokes. In a larger picture the runtime shows it a part, at a scale that it has never seen: make the
picture smaller first. What is hidden wholly cannot be known (the other eyes, another mouth are as likely), and L1 answers with
something between them, so such parts are soft or missing. All other pictures are filled badly.
"""


def write_sheet(path: Path, network: nn.Module, pictures: np.ndarray) -> None:
    """For each mask kind three rows: masked, filled, original. pictures: uint8 [N, SIDE, SIDE, 3], a column each."""
    loaded, rows = Loaded(network), []
    for kind in MASKS:
        masks = [mask_of(kind, 1000 + seed) for seed in range(len(pictures))]
        gray = np.full_like(pictures[0], 128)
        rows.append([paste(picture, gray, mask) for picture, mask in zip(pictures, masks, strict=True)])
        rows.append([inpaint(loaded, picture, mask) for picture, mask in zip(pictures, masks, strict=True)])
        rows.append(list(pictures))
    Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows])).save(path, optimize=True)


def table(values: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = ["| mask | method | PSNR, dB | SSIM | MAE | RMSE | MAE in hole |", "|---|---|---|---|---|---|---|"]
    for kind, methods in values.items():
        for method, by in methods.items():
            lines.append(f"| {kind} | {method} | " + " | ".join(str(value) for value in by.values()) + " |")
    return "\n".join(lines)


def ship(run: Run, pictures: Pictures, held_out: Pictures, folder: Path, count: int = 1000) -> None:
    """Writes folder/avatars-inpainting.safetensors, .png and .md."""
    path = folder / f"{NAME}.safetensors"
    tensors = {name: t.half() for name, t in run.settled(pictures).state_dict().items() if t.is_floating_point()}
    arguments = json.dumps({"features": run.features})
    save(path, tensors, {"network": KIND, "arguments": arguments, "credit": CREDIT, "recipe": "recipes/avatars"})
    network = read_any(path).module()
    pixels = held_out.pixels(np.arange(min(count, len(held_out))))
    # The sheet shows pictures that the figures do not count, where there are any.
    write_sheet(path.with_suffix(".png"), network, held_out.pixels(np.arange(len(held_out))[-10:]))
    card = CARD.format(
        name=NAME,
        credit=CREDIT,
        features=run.features,
        parameters=sum(p.numel() for p in network.parameters()) / 1e6,
        size=path.stat().st_size / 1e6,
        pictures=len(pictures),
        held_out=len(pixels),
        steps=run.step,
        batch=BATCH,
        table=table(figures(network, pixels)),
    )
    path.with_suffix(".md").write_text(card)
