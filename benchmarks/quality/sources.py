"""Images of the same seeds from everything that is compared: the PyTorch reference of each sub-network, and each engine.

w+ is computed once, by the reference's mapping, and given to all of them, and all have the stored noise: the comparison is one
of synthesis. The engines of the mapping are checked apart, by ``anycost verify``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anycost.export.deploy import bind, noise_bindings, static_synthesis, synthesis_bindings
from anycost.networks.channels import Subnet
from anycost.networks.stylegan2 import fir_kernel
from anycost.runtime import latents as latent
from anycost.runtime.bundle import Bundle
from anycost.runtime.runtime import Runtime
from anycost.weights.checkpoint import read

Array = np.ndarray
_MOST_BATCH, _BATCH_PIXELS = 16, 1 << 20


class Source:
    """Of one bundle that has a generator. threads: of every engine; those of PyTorch are the process's own."""

    def __init__(self, bundle: Bundle, threads: int | None = None):
        self.bundle = bundle
        self._runtime = Runtime(bundle, threads=threads)
        record = bundle.generator
        self._generator = read(bundle.path(record.weights)).generator()
        self.arch = self._generator.arch
        self.full = self.arch.full()
        self.nets = {net.name: self.arch.subnet(net.resolution, net.channels, net.name) for net in record.subnets}
        self._state = self._generator.state_dict()
        self._bound: tuple[Subnet, dict[str, Tensor]] | None = None

    def is_full(self, name: str) -> bool:
        net = self.nets[name]
        return (net.resolution, net.channels) == (self.full.resolution, self.full.channels)

    @torch.no_grad()
    def codes(self, seeds: Sequence[int], psi: float = 1.0) -> Array:
        """w+ float32 [N, n_style, style_dim]."""
        parts = [seeds[i : i + latent.MOST_SEEDS] for i in range(0, len(seeds), latent.MOST_SEEDS)]
        z = np.concatenate([latent.latents(part, self.arch.style_dim) for part in parts])
        w = self._generator.mapping(torch.from_numpy(z)).numpy()
        return latent.mix(latent.truncate(w, self._runtime.mean_style(), psi), self.arch.n_style)

    @torch.no_grad()
    def synthesize(self, net: Subnet, w_plus: Tensor) -> Tensor:
        """w+ [N, n_style, style_dim] -> images float32 [N, 3, R, R] of the reference.

        By the static-weight form, in real arithmetic the paper's own formulation and several times faster.
        """
        if self._bound is None or self._bound[0] != net:
            self._bound = net, bind(synthesis_bindings(self.arch, net) | noise_bindings(net), self._state)
        return static_synthesis(net, self._bound[1], w_plus, None, fir_kernel(4.0)[None, None])[-1]

    def reference(self, net: Subnet, w_plus: Array) -> Array:
        """w+ -> uint8 [N, R, R, 3]."""
        parts = [
            latent.as_images(self.synthesize(net, torch.from_numpy(some)).numpy()) for some in _batches(net, w_plus)
        ]
        return np.concatenate(parts)

    def engine(self, name: str, w_plus: Array) -> Array:
        """w+ -> uint8 [N, R, R, 3] of the engine called SUBNET/BACKEND."""
        subnet, backend = name.rsplit("/", 1)
        session = self._runtime.session(subnet, backend)
        parts = [latent.as_images(session.synthesize(some, None)) for some in _batches(self.nets[subnet], w_plus)]
        return np.concatenate(parts)


def _batches(net: Subnet, w_plus: Array) -> list[Array]:
    """Of a size that depends on nothing but the sub-network, as the last bits of an image may depend on it."""
    size = max(1, min(_MOST_BATCH, _BATCH_PIXELS // net.resolution**2))
    return [w_plus[i : i + size] for i in range(0, len(w_plus), size)]
