"""Images from seeds by the generators that have no sub-networks: DCGAN, LSGAN, the digit generators, TransGAN, StyleGAN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anycost.errors import InputError
from anycost.runtime.latents import check_psi, latents
from anycost.runtime.manifest import PartRecord
from anycost.runtime.networks import LoadedNetwork
from anycost.runtime.pipelines.common import BATCH, Array, check_batch, check_kind, part_of, pictures

DIGITS, STYLED = "mnist-digits", "stylegan1"
KINDS = ("dcgan", "lsgan", "mnist-cnn", DIGITS, "mlp-gan", "transgan", STYLED)
_MAPPING = "mapping"


def choices(network: LoadedNetwork) -> tuple[str, ...]:
    """What can be asked of the network beside seeds: digits, or resolutions; empty where there is one thing only."""
    check_kind(network, *KINDS)
    names = [part.name[len(network.record.name) + 1 :] for part in network.record.parts]
    return tuple(name for name in names if name and name != _MAPPING)


def sample(
    network: LoadedNetwork,
    seeds: Sequence[int] | int,
    which: str | None = None,
    psi: float = 1.0,
    *,
    batch: int = BATCH,
) -> Array:
    """seeds -> uint8 [N, S, S, 3]; gray pictures have three equal channels.

    The latent of a seed is ``RandomState(seed).standard_normal``. which: one of ``choices``; by default the highest
    resolution, and for the set of digits the digit that a seed ends in. psi: truncation, of StyleGAN only, towards the
    mean of w over 1000 seeds. Its noise is that of the seed as well. Raises InputError.
    """
    check_batch(batch)
    known = choices(network)
    if which is not None and which not in known:
        listed = f"one of {', '.join(known)}" if known else "nothing of the kind"
        raise InputError(f"{network.record.name} makes {listed}, not {which!r}")
    if check_psi(psi) != 1 and network.record.kind != STYLED:
        raise InputError(f"psi {psi:g}: {network.record.name} has no mean style to be truncated towards")
    listed_seeds = [seeds] if isinstance(seeds, int) else list(seeds)
    if network.record.kind == DIGITS and which is None:
        return np.concatenate([sample(network, [seed], str(seed % 10)) for seed in listed_seeds])
    part = which if which is not None else (known[-1] if known else "")
    found = [
        _images(network, part, listed_seeds[start : start + batch], psi) for start in range(0, len(listed_seeds), batch)
    ]
    return np.concatenate(found)


def _images(network: LoadedNetwork, name: str, seeds: Sequence[int], psi: float) -> Array:
    part = part_of(network, name)
    first = part.inputs[0]
    codes = latents(seeds, first.shape[0])
    if network.record.kind == STYLED:
        codes = network.run(_MAPPING, {"z": codes})["w"]
        if psi != 1:
            mean = network.run(_MAPPING, {"z": latents(range(1000), first.shape[0])})["w"].mean(0)
            codes = mean + psi * (codes - mean)
    port = part.outputs[0]
    output = network.run(name, {first.name: codes, **_noise(part, seeds)})[port.name]
    # A gray picture is shown as one of three equal channels.
    return pictures(network, np.repeat(output, 3 // output.shape[1], axis=1), port)


def _noise(part: PartRecord, seeds: Sequence[int]) -> dict[str, Array]:
    """Noise of its own for every image, the same in any batch."""
    found = {}
    for i, port in enumerate(part.inputs[1:]):
        rows = [np.random.RandomState([seed, i]).standard_normal(port.shape) for seed in seeds]
        found[port.name] = np.stack(rows).astype(np.float32)
    return found
