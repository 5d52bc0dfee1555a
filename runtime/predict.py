"""Time and memory of engines that were not profiled, from what is known of the others and from their size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from anycost.runtime.bundle import Bundle
from anycost.runtime.manifest import EngineRecord
from anycost.runtime.profile import Profile, default_threads, synthesis_engines
from anycost.runtime.usable import GPU_BACKENDS

LEAST_FITTED = 3  # as many measured engines as a fit has coefficients
_LEAST_MS = 1e-3

# Rough rates, right within a factor of a few: multiply-adds a millisecond (of one CPU thread, or of a GPU), bytes a
# millisecond, and milliseconds of a call. Half precision and int8 double the first, fp16 on CPUs excepted:
# it is computed in float32 there.
_CPU_MACS, _GPU_MACS = 4e7, 1e10
_CPU_BYTES, _GPU_BYTES = 1e7, 5e8
_CALL_MS = 0.5
_SLOWER = {"onnxruntime": 1.6}
# Megabytes of a process with its libraries, and bytes of working memory for a pixel of the image.
_PROCESS_MB, _PIXEL_BYTES = 150.0, 1024


@dataclass(frozen=True)
class Prediction:
    """What an engine probably takes: p95_ms and memory_mb as a Measurement's, basis: what they were predicted from."""

    p95_ms: float
    memory_mb: float
    basis: str


def predict(
    bundle: Bundle,
    profile: Profile | None,
    *,
    threads: int | None = None,
    times: Mapping[str, float] | None = None,
) -> dict[str, Prediction]:
    """A prediction of each of the generator's engines that can run here and has no measurement, by engine name.

    From three measured engines of the same variant on, p95 and memory are fitted to them: a non-negative number of
    milliseconds (megabytes) for a multiply-add, for a byte of the engine with its weights, and for a call, with the
    smallest sum of squared relative errors. With fewer, rough rates give the shape, and those engines, else all measured
    ones of the same kind of device, the scale. With none, rough rates alone: expect a factor of a few.
    times: p95 in ms by engine name, of engines without a measurement too (seen while running); default: the profile's.
    An engine that could not be measured has no prediction: it would not run.
    """
    measured = dict(profile.engines) if profile else {}
    known = {name: found.p95_ms for name, found in measured.items()} if times is None else dict(times)
    failed = set(profile.failed) if profile else set()
    runnable = set(synthesis_engines(bundle))
    nets = {net.name: net for net in bundle.generator.subnets}
    engines = {e.name: e for e in bundle.manifest.engines if e.network in nets and e.name in {*runnable, *known}}
    wanted = [e for e in engines.values() if e.name in runnable and e.name not in measured and e.name not in failed]
    if not wanted:
        return {}
    used = threads or (profile.threads if profile else default_threads())
    sizes = {e.name: (float(nets[e.network].macs), float(e.size + e.weights_bytes), 1.0) for e in engines.values()}
    rough = {e.name: rough_ms(e, nets[e.network].macs, used) for e in engines.values()}
    usual = {e.name: _rough_mb(e, nets[e.network].resolution) for e in engines.values()}
    memory = {name: found.memory_mb for name, found in measured.items() if found.memory_mb > 0}
    found = {}
    for engine in wanted:
        same = [e for e in engines.values() if e.variant == engine.variant]
        alike = [e for e in engines.values() if _on_gpu(e) == _on_gpu(engine)]
        p95, basis = _estimate(engine, same, alike, sizes, rough, known)
        megabytes, _ = _estimate(engine, same, alike, sizes, usual, memory)
        found[engine.name] = Prediction(max(p95, _LEAST_MS), megabytes, basis)
    return found


def rough_ms(engine: EngineRecord, macs: int, threads: int) -> float:
    """Milliseconds of one image by rates that are right within a factor of a few."""
    rate, byte_rate = (_GPU_MACS, _GPU_BYTES) if _on_gpu(engine) else (_CPU_MACS * threads, _CPU_BYTES)
    faster = 1.0 if engine.precision == "fp32" or (engine.precision == "fp16" and not _on_gpu(engine)) else 2.0
    compute = macs / (rate * faster) * _SLOWER.get(engine.backend, 1.0)
    return compute + (engine.size + engine.weights_bytes) / byte_rate + _CALL_MS


def fit(features: Sequence[Sequence[float]], values: Sequence[float]) -> np.ndarray:
    """Non-negative coefficients [K] for features [N, K] and positive values [N]: the smallest sum of squared relative
    errors. Exact: with few coefficients, every choice of those that are not zero can be tried."""
    target = np.asarray(values, np.float64)
    columns = np.asarray(features, np.float64) / target[:, None]
    scale = np.abs(columns).max(axis=0)
    scale[scale == 0] = 1.0
    columns = columns / scale
    count = columns.shape[1]
    best, least = np.zeros(count), float(len(target))
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            part = columns[:, chosen]
            solved = np.linalg.lstsq(part, np.ones(len(target)), rcond=None)[0]
            error = float(((part @ solved - 1) ** 2).sum())
            # More coefficients have to earn their place: a tie is rounding.
            if (solved >= 0).all() and error < least * (1 - 1e-9) - 1e-12:
                best, least = np.zeros(count), error
                best[list(chosen)] = solved
    found: np.ndarray = best / scale
    return found


def _estimate(
    engine: EngineRecord,
    same: Iterable[EngineRecord],
    alike: Iterable[EngineRecord],
    sizes: Mapping[str, Sequence[float]],
    rough: Mapping[str, float],
    known: Mapping[str, float],
) -> tuple[float, str]:
    """The figure of an engine, and what it was predicted from."""
    own = [e.name for e in same if known.get(e.name, 0) > 0]
    if len(own) >= LEAST_FITTED:
        coefficients = fit([sizes[name] for name in own], [known[name] for name in own])
        return float(coefficients @ np.asarray(sizes[engine.name])), f"{len(own)} known engines of {engine.variant}"
    names = own or [e.name for e in alike if known.get(e.name, 0) > 0]
    if not names:
        return rough[engine.name], "rough rates"
    scale = math.exp(sum(math.log(known[name] / rough[name]) for name in names) / len(names))
    return rough[engine.name] * scale, f"rough rates and {len(names)} known engines"


def _rough_mb(engine: EngineRecord, resolution: int) -> float:
    return _PROCESS_MB + 2 * (engine.size + engine.weights_bytes) / 1e6 + resolution**2 * _PIXEL_BYTES / 1e6


def _on_gpu(engine: EngineRecord) -> bool:
    return engine.backend in GPU_BACKENDS
