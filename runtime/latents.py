"""Seeds, latents, truncation, style mixing and noise as NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

import numpy as np

from anycost.errors import InputError

Array = np.ndarray
MOST_SEEDS = 10_000
LARGEST_SEED = 2**32 - 1


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """Whole numbers from 0 to 2^32 - 1, at least 1 and at most 10 000 of them. Raises InputError."""
    if len(seeds) == 0:
        raise InputError("no seeds were given: give at least one, such as 0")
    if len(seeds) > MOST_SEEDS:
        raise InputError(f"{len(seeds)} seeds are more than the {MOST_SEEDS} of one call: split the list")
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed <= LARGEST_SEED:
            raise InputError(f"seed {seed!r} is not a whole number from 0 to {LARGEST_SEED}")
    return [int(seed) for seed in seeds]


def latents(seeds: Sequence[int], style_dim: int) -> Array:
    """z float32 [N, style_dim]: ``RandomState(seed).standard_normal`` for each seed, the custom of StyleGAN's tools."""
    rows = [np.random.RandomState(seed).standard_normal(style_dim) for seed in check_seeds(seeds)]
    return np.stack(rows).astype(np.float32)


def check_psi(psi: float) -> float:
    """Truncation in [-2, 2]: 0 is the mean image, 1 none, below 0 the opposite of a latent. Raises InputError."""
    if not np.isfinite(psi) or not -2 <= psi <= 2:
        raise InputError(f"psi {psi:g} is outside -2..2: 1 is no truncation, 0.7 is usual, 0 the mean image")
    return float(psi)


def truncate(w: Array, mean: Array, psi: float) -> Array:
    """(1 - psi) * mean + psi * w, w [N, style_dim] or [N, rows, style_dim], mean [1, style_dim]."""
    if psi == 1:
        return w
    return ((1 - psi) * mean.reshape(-1) + psi * w).astype(np.float32)


def mix(w: Array, n_style: int, inject_index: int | None = None) -> Array:
    """w [N, style_dim] or [N, K, style_dim], K = 1, 2 (rows below inject_index take the first) or n_style -> w+."""
    if w.ndim == 2:
        w = w[:, None]
    rows = w.shape[1]
    if rows == n_style:
        return w
    if rows == 1:
        return np.repeat(w, n_style, axis=1)
    if rows == 2:
        at = n_style // 2 if inject_index is None else inject_index
        if not 0 <= at <= n_style:
            raise InputError(f"inject_index {at} is outside 0..{n_style}")
        return np.concatenate([np.repeat(w[:, :1], at, axis=1), np.repeat(w[:, 1:], n_style - at, axis=1)], axis=1)
    raise InputError(f"{rows} style rows: give 1, 2 (mixing) or {n_style}")


def noise_sides(resolution: int) -> list[int]:
    """Side in pixels of every noise input of a sub-network, in order: 4, 8, 8, 16, 16, ..."""
    return [4] + [8 << block for block in range(int(log2(resolution)) - 2) for _ in range(2)]


def random_noise(seed: int, batch: int, resolution: int) -> list[Array]:
    """One float32 [batch, 1, H, H] a 3x3 convolution. Image i has ``RandomState(seed + i)``, drawn layer by layer, so that
    neither the batch nor a split of a long list changes it."""
    layers = [np.empty((batch, 1, side, side), np.float32) for side in noise_sides(resolution)]
    for i in range(batch):
        state = np.random.RandomState((seed + i) % (LARGEST_SEED + 1))
        for layer in layers:
            layer[i] = state.standard_normal(layer.shape[1:])
    return layers


def as_images(output: Array) -> Array:
    """Network output [N, 3, H, W], nominally in [-1, 1] -> uint8 [N, H, W, 3], rounded and clipped.

    Raises InputError for a NaN or an infinity: the latents were out of any range, and there is no picture to show.
    """
    if not np.isfinite(output).all():
        raise InputError("the network gave a NaN or an infinity: the latents, or its weights, are out of range")
    scaled = np.clip(output * np.float32(127.5) + np.float32(128), 0, 255)  # + 127.5 + 0.5: rounds by truncation
    return np.ascontiguousarray(scaled.astype(np.uint8).transpose(0, 2, 3, 1))
