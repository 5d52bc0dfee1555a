"""Checking every engine on this device against the reference samples that travel in the bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anycost.errors import BackendError
from anycost.runtime import backends, latents
from anycost.runtime.manifest import MAPPING, EngineRecord, ParityRecord, SegmentRecord
from anycost.runtime.networks import LoadedNetwork
from anycost.runtime.parity import LEAST_PSNR_DB, compare, views
from anycost.runtime.profile import part_engines, runnable_engines
from anycost.runtime.samples import inputs_of
from anycost.runtime.segments import IMAGE, Reached, chain
from anycost.runtime.usable import unusable

if TYPE_CHECKING:
    from anycost.runtime.runtime import Runtime

Array = np.ndarray
NOISE_SEED = 1


@dataclass(frozen=True)
class EngineCheck:
    """The outcome for one engine. parity is None when it did not run; ``problem`` is empty when it passed.

    skipped: its backend is not installed here, so that nothing can be said of it.
    """

    engine: str
    parity: ParityRecord | None
    problem: str
    skipped: bool = False

    @property
    def passed(self) -> bool:
        return not self.problem

    @property
    def failed(self) -> bool:
        return bool(self.problem) and not self.skipped


def reference_noise(stored: list[Array], resolution: int) -> list[Array]:
    """Noise of the two reference samples: the stored noise, then ``random_noise(NOISE_SEED)``. Each [2, 1, H, H]."""
    random = latents.random_noise(NOISE_SEED, 1, resolution)
    return [np.concatenate([a, b]) for a, b in zip(stored, random, strict=True)]


def misfit(parity: ParityRecord, precision: str = "fp32") -> str:
    """Why these figures fail for a precision, empty when they pass."""
    least = LEAST_PSNR_DB[precision]
    if parity.psnr_db >= least:
        return ""
    return (
        f"PSNR {parity.psnr_db:.1f} dB is below {least:g} dB "
        f"(largest difference {parity.max_abs:.3g}, SSIM {parity.ssim:.6f})"
    )


def verify(runtime: Runtime, progress: Callable[[str, int, int], None] | None = None) -> list[EngineCheck]:
    """One check an engine, mapping first; those that cannot run here are marked as skipped.

    Raises BackendError when none can run here.
    """
    bundle = runtime.bundle
    if bundle.manifest.generator:
        runnable_engines(bundle)
    part_engines(bundle)
    engines = [*bundle.engines(MAPPING), *(engine for engine in bundle.manifest.engines if engine.network != MAPPING)]
    checks = []
    for done, engine in enumerate(engines):
        if progress:
            progress(engine.name, done, len(engines))
        segment = bundle.segment(engine.network)
        expected = bundle.tensors(bundle.manifest.references[segment.subnet if segment else engine.network])
        if reason := unusable(engine):
            checks.append(EngineCheck(engine.name, None, f"skipped: {reason}", skipped=True))
            continue
        try:
            parity = compare(views(_outputs(runtime, engine)), expected)
            checks.append(EngineCheck(engine.name, parity, misfit(parity, engine.precision)))
        except (BackendError, ValueError) as error:
            checks.append(EngineCheck(engine.name, None, str(error)))
    if progress:
        progress("", len(engines), len(engines))
    return checks


def _outputs(runtime: Runtime, engine: EngineRecord) -> dict[str, Array]:
    """What an engine makes of the stored samples."""
    bundle = runtime.bundle
    found = bundle.part(engine.network)
    if found:
        record, short = found
        loaded = LoadedNetwork(bundle, record, None, runtime.threads, engine.variant)
        return loaded.run(short, inputs_of(record.part(short)))
    stored = bundle.tensors(bundle.generator.latents)
    if engine.network == MAPPING:
        folder = bundle.path(engine.folder)
        return backends.load(engine.backend, folder, bundle.weights().bind, runtime.threads).run({"z": stored["z"]})
    if segment := bundle.segment(engine.network):
        return {IMAGE: _chained(runtime, segment, engine.variant, stored["w_plus"])}
    session = runtime.session(engine.network, engine.variant)
    noise = session.stored_noise
    layers = None if noise is None else reference_noise(noise, session.subnet.resolution)
    return {"image": session.synthesize(stored["w_plus"], layers)}


def _chained(runtime: Runtime, segment: SegmentRecord, variant: str, w_plus: Array) -> Array:
    """The image of the sub-network that a segment ends with, behind all those below it."""
    bundle = runtime.bundle
    links = chain(bundle, segment.subnet, variant)
    if not links:
        raise BackendError(f"{segment.name}/{variant} follows on segments that {bundle.folder} has not: build it again")
    noise = None
    if bundle.generator.noise == "input":
        record = bundle.subnet(segment.subnet)
        weights = bundle.weights()
        count = len(latents.noise_sides(record.resolution))
        noise = reference_noise([weights.tensor(f"noises.noise_{i}") for i in range(count)], record.resolution)
    at: Reached | None = None
    for link in links:
        at = runtime.segments.run(link, variant, w_plus, at, noise)
    assert at is not None
    return at.image
