"""How likely each attribute of a face is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from anycost.errors import InputError
from anycost.runtime.networks import LoadedNetwork
from anycost.runtime.pipelines.common import BATCH, Images, check_kind, names_of, part_of, run_on

KIND = "attributes"


def attributes(
    network: LoadedNetwork, images: Images, fit: str = "crop", *, batch: int = BATCH
) -> list[dict[str, float]]:
    """A picture or a list of N -> for each the probability 0..1 of "yes" by label, in the network's order.

    The labels are the record's, or "0", "1", ... where it has none. Raises InputError.
    """
    check_kind(network, KIND)
    port = part_of(network).outputs[0]
    names, found = names_of(network, port.shape[0]), []
    for outputs in run_on(network, images, fit, batch=batch):
        logits = outputs[port.name].astype(np.float64)
        # Softmax over (no, yes) is the logistic function of their difference; this form does not overflow.
        yes = np.exp(-np.logaddexp(0, logits[..., 0] - logits[..., 1]))
        found += [dict(zip(names, map(float, row), strict=True)) for row in yes]
    return found


def strongest(scores: Mapping[str, float], threshold: float = 0.5, most: int | None = None) -> list[tuple[str, float]]:
    """Those of at least ``threshold`` (0..1), the most likely first, at most ``most``; equal ones keep their order.

    Raises InputError.
    """
    if not 0 <= threshold <= 1:  # also refuses NaN
        raise InputError(f"threshold {threshold:g} is not a probability: give 0..1, 0.5 is usual")
    if most is not None and most < 1:
        raise InputError(f"most {most} is not a number of names: give at least 1, or None for all")
    kept = [(name, score) for name, score in scores.items() if score >= threshold]
    return sorted(kept, key=lambda pair: -pair[1])[:most]
