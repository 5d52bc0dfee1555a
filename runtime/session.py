"""One sub-network loaded on one backend: the way from z to an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anycost.runtime import backends
from anycost.runtime import latents as latent
from anycost.runtime.manifest import SubnetRecord

Array = np.ndarray


@dataclass
class Session:
    """A loaded sub-network of one variant (backend and precision), with the mapping beside it."""

    subnet: SubnetRecord
    variant: str
    mapping: backends.Engine
    synthesis: backends.Engine
    n_style: int
    stored_noise: list[Array] | None

    def image(self, z: Array) -> Array:
        """z [N, style_dim] -> images float32 [N, 3, R, R] with stored noise: the whole way that a profile times."""
        w = self.mapping.run({"z": z})["w"]
        return self.synthesize(latent.mix(w, self.n_style), None)

    def synthesize(self, w_plus: Array, noise: Sequence[Array] | None) -> Array:
        """w+ [N, n_style, style_dim] -> images. noise: one [1 or N, 1, H, H] a 3x3 convolution, None for the stored."""
        inputs = {"w_plus": np.ascontiguousarray(w_plus, dtype=np.float32)}
        if self.stored_noise is not None:
            for i, layer in enumerate(self.stored_noise if noise is None else noise):
                shape = (len(w_plus), *layer.shape[1:])
                inputs[f"noise_{i}"] = np.ascontiguousarray(np.broadcast_to(layer, shape), dtype=np.float32)
        return self.synthesis.run(inputs)["image"]
