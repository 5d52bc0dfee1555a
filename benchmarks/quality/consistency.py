"""Attribute consistency: whether a sub-network's image shows what the full network's image shows.

Source: Lin et al., Anycost GANs, arXiv 2103.03243, whose measure is the share of equal decisions of an attribute predictor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anycost.errors import InputError

Array = np.ndarray
UNSURE = 0.2


@dataclass(frozen=True)
class Consistency:
    """share: of the confident decisions that are kept, None where there are none; decisions: how many they are.

    share_of_all: of all decisions, as in the paper.
    """

    share: float | None
    decisions: int
    share_of_all: float


def consistency(reference: Array, logits: Array, unsure: float = UNSURE) -> Consistency:
    """reference, logits [N, attributes, 2] (no, yes): of the full network's and the sub-network's images of the same seeds.

    A decision is an attribute of an image, yes where its probability, the softmax of the two logits, is above 0.5. It is
    confident where the reference's probability lies outside [unsure, 1 - unsure]. The paper counts every decision, also those
    where the predictor is of two minds about the full network's own image, which says more of the predictor than of the
    sub-network; it draws with truncation 0.5. Raises InputError.
    """
    if reference.shape != logits.shape or reference.ndim != 3 or reference.shape[2] != 2 or not reference.size:
        raise InputError(
            f"logits {list(reference.shape)} and {list(logits.shape)}: two [N, attributes, 2] of the same seeds are expected"
        )
    if not 0 < unsure <= 0.5:
        raise InputError(f"unsure {unsure:g} is not above 0 and at most 0.5: 0.2 leaves out probabilities 0.2 to 0.8")
    before, after = (np.asarray(x[..., 1], np.float64) - x[..., 0] for x in (reference, logits))
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise InputError("logits hold a NaN or an infinity: look at the images")
    # A probability above 1 - u is a difference of the logits above log((1 - u) / u).
    sure = np.abs(before) > np.log((1 - unsure) / unsure)
    kept = (before > 0) == (after > 0)
    decisions = int(sure.sum())
    return Consistency(float(kept[sure].mean()) if decisions else None, decisions, float(kept.mean()))
