"""Samples of a network's inputs that every device makes alike: what the reference outputs of a bundle were made from."""

from __future__ import annotations

import hashlib

import numpy as np

from anycost.runtime.manifest import PartRecord, PortRecord

Array = np.ndarray
SAMPLES = 2


def inputs_of(part: PartRecord, count: int = SAMPLES) -> dict[str, Array]:
    """``count`` samples of every input, float32 [count, ...], from seeds that the names give."""
    return {port.name: _values(port, part.name, count) for port in part.inputs}


def _values(port: PortRecord, part: str, count: int) -> Array:
    seed = int(hashlib.sha256(f"{part}:{port.name}".encode()).hexdigest()[:8], 16)
    rng = np.random.RandomState(seed)
    if port.values == "onehot":
        return np.eye(4)[rng.randint(0, 4, (count, port.shape[0] // 4))].reshape(count, -1).astype(np.float32)
    if port.values == "normal":
        return rng.standard_normal((count, *port.shape)).astype(np.float32)
    pictures = np.clip(_picture(rng, (count, *port.shape)), -1, 1)
    scaled: Array = pictures if port.values == "image" else (pictures + 1) / 2
    return scaled.astype(np.float32)


def _picture(rng: np.random.RandomState, shape: tuple[int, ...]) -> Array:
    """Blocks of 16 px and a little grain: large areas and edges, as photographs have and white noise has not."""
    n, channels, height, width = shape
    coarse = rng.standard_normal((n, channels, -(-height // 16), -(-width // 16)))
    blocks: Array = coarse.repeat(16, axis=2).repeat(16, axis=3)[:, :, :height, :width]
    return 0.5 * blocks + 0.1 * rng.standard_normal(shape)
