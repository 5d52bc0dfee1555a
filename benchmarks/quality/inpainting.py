"""Inpainting: how near a filling is to what was there, for three kinds of masks, beside the simplest filling there is.

The masks are those of ``anycost.runtime.masks``, as the pipeline and the command line make them: the central box, three random
boxes, and free-form strokes (Yu et al., arXiv 1806.03589).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anycost.benchmarks.quality.pairs import psnr_and_ssim
from anycost.benchmarks.quality.pixels import levels
from anycost.errors import InputError
from anycost.runtime.masks import Mask, Pixels, brush_strokes, central_box, paste, random_boxes

Array = np.ndarray
Steps = Callable[[str, int, int], None]
# (picture uint8 [H, W, 3], mask bool [H, W], True where missing) -> the filled picture; what is known is pasted over it.
Fill = Callable[[Pixels, Mask], Pixels]
# (height, width, seed) -> mask.
MASKS: dict[str, Callable[[int, int, int], Mask]] = {
    "central": lambda h, w, seed: central_box(h, w),
    "random": lambda h, w, seed: random_boxes(h, w, 3, seed),
    "free form": brush_strokes,
}
FIGURES = ("psnr_db", "ssim", "mae", "rmse")
BORDER_MEAN = "border mean"


def inpainting(fill: Fill, pictures: Array, seed: int = 0, progress: Steps | None = None) -> dict[str, float]:
    """pictures uint8 [N, H, W, 3], 11 px or more -> means over the pictures as "KIND.FIGURE", "KIND.border mean.FIGURE".

    KIND: central, random, free form; picture i has the masks of seed + i. psnr_db and ssim are of the whole picture, known
    pixels too, as papers have it, and so depend on the size of the masks: "KIND.missing" is the mean share of the picture
    that is missing. mae and rmse are of the missing pixels alone, in levels 0..255. border mean is the filling by
    ``border_mean`` under the same masks. Raises InputError.
    """
    if not len(pictures):
        raise InputError("no pictures were given to fill")
    height, width = pictures.shape[1:3]
    found: dict[str, float] = {}
    for done, (kind, make) in enumerate(MASKS.items()):
        masks = [make(height, width, seed + i) for i in range(len(pictures))]
        for name, way in ((kind, fill), (f"{kind}.{BORDER_MEAN}", border_mean)):
            rows = [_figures(way, *pair) for pair in zip(pictures, masks, strict=True)]
            found |= {f"{name}.{figure}": float(x) for figure, x in zip(FIGURES, np.mean(rows, axis=0), strict=True)}
        found[f"{kind}.missing"] = float(np.mean(masks))
        if progress:
            progress("masks", done + 1, len(MASKS))
    return found | {"pictures": float(len(pictures))}


def border_mean(picture: Pixels, mask: Mask) -> Pixels:
    """The missing pixels have the mean colour of the known ones that touch them, by side or corner."""
    height, width = mask.shape
    padded = np.pad(mask, 1)
    around = np.zeros_like(mask)
    for dy in range(3):
        for dx in range(3):
            around |= padded[dy : dy + height, dx : dx + width]
    colour = picture[around & ~mask].mean(axis=0).round().astype(np.uint8)
    return paste(picture, np.broadcast_to(colour, picture.shape), mask)


def _figures(fill: Fill, picture: Pixels, mask: Mask) -> tuple[float, float, float, float]:
    # What is missing is blacked out, so that nothing of it can be used.
    hidden = np.where(mask[..., None], np.uint8(0), picture)
    filled = paste(picture, fill(hidden, mask), mask)
    psnr_db, ssim = psnr_and_ssim(levels(filled[None]), levels(picture[None]))
    error = filled[mask].astype(np.float64) - picture[mask]
    return float(psnr_db), float(ssim), float(np.abs(error).mean()), float(np.sqrt(np.square(error).mean()))
