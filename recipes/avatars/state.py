"""Everything a training run carries from one process to the next."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anycost.networks.stylegan2 import Generator, ModulatedConv2d

# 16 channels at 128 px, 32 at 64 px, and 256 at most: what two CPU cores can train in a few hours.
MULTIPLIER, CHANNEL_MAX, STYLE_DIM = 0.125, 256, 256
_VALUES = ("step", "images", "centre", "spread", "resolution")


@dataclass
class Run:
    """Networks, optimizer and the counter.

    The synthesis networks are trained on centred styles (w - centre) / spread: w has a large common mean, and the affines'
    gradients would be spent on it. ``folded`` gives the same networks on w itself, which is what ships.
    """

    generator: Generator
    ema: Generator
    optimizer: torch.optim.Adam
    centre: Tensor
    spread: Tensor
    step: int = 0
    images: int = 0

    @property
    def resolution(self) -> int:
        return self.generator.arch.resolution

    @classmethod
    def start(cls, device: torch.device, resolution: int) -> Run:
        torch.manual_seed(0)
        generator = Generator(resolution, MULTIPLIER, CHANNEL_MAX, STYLE_DIM).to(device)
        with torch.no_grad():
            for name, parameter in generator.named_parameters():
                # Start from one picture for every z and learn to differ: random affines would have to be unlearned first.
                if name.endswith("modulation.weight"):
                    parameter.mul_(0.1)
        synthesis = [p for name, p in generator.named_parameters() if not name.startswith("style.")]
        return cls(
            generator=generator,
            ema=copy.deepcopy(generator).requires_grad_(False),
            optimizer=torch.optim.Adam(synthesis, betas=(0.9, 0.99)),
            centre=torch.zeros(1, STYLE_DIM, device=device),
            spread=torch.ones((), device=device),
        )

    @torch.no_grad()
    def begin_from(self, path: Path) -> bool:
        """Take all that the checkpoint of another run has, at this resolution or a lower one; returns whether layers are new,
        which stay as they were made.

        The optimizer and the counters start anew.
        """
        parts = torch.load(path, weights_only=True, map_location="cpu")
        state = self.ema.state_dict()
        known = {name: tensor.shape for name, tensor in parts["ema"].items()}
        if any(name not in state or state[name].shape != shape for name, shape in known.items()):
            raise SystemExit(f"{path} holds no generator of this shape at {self.resolution} px or below")
        # Both start from the average: what the last steps did not settle need not be learned again.
        for network in (self.generator, self.ema):
            network.load_state_dict(state | parts["ema"])
        self.centre, self.spread = parts["centre"], parts["spread"]
        return len(known) < len(state)

    def rate(self, value: float) -> None:
        """Set the learning rate of this step."""
        for group in self.optimizer.param_groups:
            group["lr"] = value

    @torch.no_grad()
    def measure_styles(self) -> None:
        """Set centre [1, style_dim] and spread (one number) from many z."""
        w = self.generator.mapping(torch.randn(20_000, STYLE_DIM, device=self.centre.device))
        self.centre = w.mean(0, keepdim=True)
        self.spread = (w - self.centre).square().mean().sqrt()

    @torch.no_grad()
    def styles(self, z: Tensor) -> Tensor:
        """z [N, style_dim] -> centred w+ [N, n_style, style_dim]."""
        w = (self.generator.mapping(z) - self.centre) / self.spread
        return w[:, None].expand(-1, self.generator.arch.n_style, -1)

    @torch.no_grad()
    def folded(self) -> Generator:
        """The averaged generator on w itself: A (w - c) / s + b = (A / s) w + (b - A c / s)."""
        found = copy.deepcopy(self.ema)
        for module in found.modules():
            if isinstance(module, ModulatedConv2d):
                affine = module.modulation
                affine.weight /= self.spread
                affine.bias -= (affine.weight * affine.scale) @ self.centre[0]
        return found

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Move the EMA towards the generator."""
        averaged: dict[str, Tensor] = dict(self.ema.named_parameters())
        for name, parameter in self.generator.named_parameters():
            averaged[name].lerp_(parameter, 1 - decay)

    def reorder(self, order: Callable[[Generator], list[Tensor]]) -> None:
        """Permute the channels of the generator and of its average alike; the optimizer starts anew.

        order: sorts a generator in place and returns its permutations; the average has its own weights, so its own order would
        differ, and it takes the generator's weights instead.
        """
        order(self.generator)
        self.ema.load_state_dict(self.generator.state_dict())
        self.optimizer.state.clear()

    def values(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        parts = {name: getattr(self, name).state_dict() for name in self._stateful()}
        return parts | {name: getattr(self, name) for name in _VALUES} | {"rng": torch.get_rng_state()}

    def load(self, path: Path) -> None:
        parts = torch.load(path, weights_only=True, map_location="cpu")
        if parts["resolution"] != self.resolution:
            raise SystemExit(f"{path} is of {parts['resolution']} px: give --resolution {parts['resolution']}")
        for name in self._stateful():
            getattr(self, name).load_state_dict(parts[name])
        for name in _VALUES:
            if name != "resolution":
                setattr(self, name, parts[name])
        torch.set_rng_state(parts["rng"])

    @staticmethod
    def _stateful() -> tuple[str, ...]:
        return ("generator", "ema", "optimizer")
