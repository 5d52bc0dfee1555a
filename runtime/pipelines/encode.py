"""Pictures to style codes of the generator."""

from __future__ import annotations

import numpy as np

from anycost.runtime.networks import LoadedNetwork
from anycost.runtime.pipelines.common import BATCH, Array, Images, check_kind, run_on

KIND = "encoder"


def encode(network: LoadedNetwork, image: Images, fit: str = "crop", *, batch: int = BATCH) -> Array:
    """A picture of any source of ``read_image``, or a list of N -> w+ float32 [N, n_style, style_dim].

    fit: "crop", "stretch" or "pad" to the network's square. The code is the encoder's guess, without truncation.
    Raises InputError.
    """
    check_kind(network, KIND)
    return np.concatenate([outputs["w_plus"] for outputs in run_on(network, image, fit, batch=batch)])
