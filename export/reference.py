"""Reference samples: fixed latents, what the PyTorch reference makes of them, and each sub-network's distance to the full one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anycost.export.deploy import bind, noise_bindings, static_synthesis, synthesis_bindings
from anycost.networks.channels import Subnet
from anycost.networks.stylegan2 import Generator, fir_kernel
from anycost.runtime.latents import latents
from anycost.runtime.verify import reference_noise

SEEDS = (0, 1)
_MIXED_SEEDS = tuple(range(2, 100))
_MOST_QUALITY_SAMPLES = 32
_QUALITY_PIXELS = 1 << 22


class Reference:
    """Samples of one generator. stored_noise: whether the engines hold the stored noise and take no other."""

    def __init__(self, generator: Generator, mean_style: Tensor, stored_noise: bool):
        self.generator = generator
        self.mean_style = mean_style
        self.stored_noise = stored_noise
        self._bound_for: Subnet | None = None
        self._bound: Mapping[str, Tensor] = {}

    @cached_property
    def latents(self) -> dict[str, np.ndarray]:
        """z [2, style_dim], w_plus [2, n_style, style_dim] and mean_style [1, style_dim].

        The second w+ has another latent in every row, so that rows that went to the wrong layer would show.
        """
        arch = self.generator.arch
        z = latents(SEEDS, arch.style_dim)
        with torch.no_grad():
            plain = self.generator.mapping(torch.from_numpy(z[:1]))[:, None].expand(-1, arch.n_style, -1)
            mixed = self.generator.mapping(torch.from_numpy(latents(_MIXED_SEEDS[: arch.n_style], arch.style_dim)))[
                None
            ]
        return {"z": z, "w_plus": torch.cat([plain, mixed]).numpy(), "mean_style": self.mean_style.numpy()}

    @torch.no_grad()
    def mapping(self) -> np.ndarray:
        """w [2, style_dim] of the stored z."""
        return self.generator.mapping(torch.from_numpy(self.latents["z"])).numpy()

    def noise(self, net: Subnet) -> list[np.ndarray]:
        """Noise of the two samples: stored for both where engines hold it, else stored and random."""
        stored = [layer.numpy() for layer in self.generator.noise("stored", net, 2)]
        return (
            [np.repeat(layer, 2, axis=0) for layer in stored]
            if self.stored_noise
            else reference_noise(stored, net.resolution)
        )

    @torch.no_grad()
    def synthesis(self, net: Subnet) -> np.ndarray:
        """Images [2, 3, R, R] of the stored w+ by the paper's formulation."""
        w_plus = torch.from_numpy(self.latents["w_plus"])
        noise = [torch.from_numpy(layer) for layer in self.noise(net)]
        # One at a time: a grouped convolution over two images doubles the peak memory and saves nothing.
        images = [self.generator.synthesis(w_plus[i : i + 1], [x[i : i + 1] for x in noise], net) for i in range(2)]
        return torch.cat(images).numpy()

    def distance(self, net: Subnet) -> float:
        """RMSE between a sub-network's images, enlarged bilinearly, and the full network's, both clipped to [-1, 1]."""
        side = self.generator.arch.resolution
        total = 0.0
        for w_plus, full in zip(self._quality_latents, self._full_images, strict=True):
            image = F.interpolate(self._image(net, w_plus), size=(side, side), mode="bilinear", align_corners=False)
            total += F.mse_loss(image.clamp(-1, 1), full).item()
        return float(np.sqrt(total / len(self._full_images)))

    @cached_property
    def _quality_latents(self) -> list[Tensor]:
        arch = self.generator.arch
        count = max(4, min(_MOST_QUALITY_SAMPLES, _QUALITY_PIXELS // arch.resolution**2))
        with torch.no_grad():
            w = self.generator.mapping(torch.from_numpy(latents(range(count), arch.style_dim)))
        return list(w[:, None].expand(-1, arch.n_style, -1).split(1))

    @cached_property
    def _full_images(self) -> list[Tensor]:
        full = self.generator.arch.full()
        return [self._image(full, w_plus).clamp(-1, 1) for w_plus in self._quality_latents]

    @torch.no_grad()
    def _image(self, net: Subnet, w_plus: Tensor) -> Tensor:
        """By the static-weight form, which is several times faster; parity is measured elsewhere."""
        if self._bound_for != net:
            self._bound_for, self._bound = (
                net,
                bind(synthesis_bindings(self.generator.arch, net) | noise_bindings(net), self._state),
            )
        return static_synthesis(net, self._bound, w_plus, None, fir_kernel(4.0)[None, None])[-1]

    @cached_property
    def _state(self) -> dict[str, Tensor]:
        return self.generator.state_dict()
