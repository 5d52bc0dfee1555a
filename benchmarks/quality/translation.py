"""Translation in many styles: are the translations of one picture as diverse as the target pictures, and how diverse at all.

Source: Chong and Forsyth, GANs N' Roses, arXiv 2106.06561, whose diversity FID compares the translations of a single picture,
instead of one translation each of many, with the data. Pairwise distances as a measure of diversity: Zhu et al., BicycleGAN,
arXiv 1711.11586.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from anycost.benchmarks.quality.features import Extractor
from anycost.benchmarks.quality.frechet import Gaussian, frechet_distance, gaussian
from anycost.benchmarks.quality.pairs import Distance
from anycost.benchmarks.quality.pixels import levels, signed
from anycost.errors import InputError

Array = np.ndarray
Steps = Callable[[str, int, int], None]
# (picture uint8 [H, W, 3], index of the picture) -> its translations uint8 [K, S, S, 3], K >= 2, in independent styles. A
# network that has no styles is given augmented copies of the picture instead.
Translate = Callable[[Array, int], Array]
_BATCH = 16


def translation(
    translate: Translate,
    pictures: Array,
    extract: Extractor,
    data: Gaussian,
    distance: Distance,
    progress: Steps | None = None,
) -> dict[str, float]:
    """pictures uint8 [N, H, W, 3]; data: of ``extract``'s features of the target pictures -> figures by name:

    * "D" and the extractor's measure, such as DFID (pytorch-fid resize) or DFD-avatar: the mean over pictures of the Frechet
      distance between the data and the K translations of the picture. K is usually far below the features' dimensions, and
      so it is too large by a part that depends on K: compare only equal K.
    * "diversity": the mean over pictures of the mean distance between K / 2 separate pairs of translations; 0 for a network
      that ignores its style.
    * "pictures" and "styles": N and K.

    Raises InputError.
    """
    if not len(pictures):
        raise InputError("no pictures were given to translate")
    distances, apart, counts = [], [], set()
    for i, picture in enumerate(pictures):
        made = translate(picture, i)
        if len(made) < 2:
            raise InputError(f"{len(made)} translations of a picture: diversity takes at least 2, and 100 are usual")
        distances.append(frechet_distance(gaussian(extract(made)), data))
        apart.append(_apart(made, distance))
        counts.add(len(made))
        if progress:
            progress("translations", i + 1, len(pictures))
    if len(counts) > 1:
        raise InputError(f"pictures have {min(counts)} to {max(counts)} translations: give each equally many")
    return {
        f"D{extract.measure}": float(np.mean(distances)),
        "diversity": float(np.mean(apart)),
        "pictures": float(len(pictures)),
        "styles": float(counts.pop()),
    }


def _apart(made: Array, distance: Distance) -> float:
    """The mean distance of first and second, third and fourth, ..."""
    images = signed(levels(made))[: len(made) // 2 * 2]
    with torch.no_grad():
        found = [
            distance(pairs[0::2], pairs[1::2])
            for pairs in (images[i : i + 2 * _BATCH] for i in range(0, len(images), 2 * _BATCH))
        ]
    return float(torch.cat(found).double().mean())
