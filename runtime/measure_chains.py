"""Measuring chains of segments beside whole engines, in turns in one process: what differs by a few percent is compared under the
same conditions.

``python -m anycost.runtime.measure BUNDLE 1@128/openvino --threads N --chain`` prints a ChainMeasurement for each sub-network of
the chain, by name, as JSON.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from anycost.errors import BackendError
from anycost.runtime.bundle import Bundle
from anycost.runtime.profile import ChainMeasurement, synthesis_engines
from anycost.runtime.segments import Reached, chain, chains

# Turns change often, so that what else the machine does falls on all alike; the first run of each is not counted.
_RUNS_A_TURN = 5
_LEAST_TURNS, _MOST_TURNS = 4, 20
_LEAST_SECONDS = 2.0


def runnable_chains(bundle: Bundle) -> list[str]:
    """``SUBNET/VARIANT`` of every chain's last sub-network whose engines can run here."""
    if not bundle.manifest.generator:
        return []
    runnable = set(synthesis_engines(bundle))
    variants = dict.fromkeys(engine.variant for engine in bundle.manifest.engines)
    found = [(subnet, variant) for subnet in chains(bundle) for variant in variants]
    return [
        f"{net}/{variant}" for net, variant in found if f"{net}/{variant}" in runnable and chain(bundle, net, variant)
    ]


def measure_chain(bundle: Bundle, name: str, threads: int) -> dict[str, ChainMeasurement]:
    """The chain that ends with ``SUBNET/VARIANT``, and each shorter one of more than one segment, by ``SUBNET/VARIANT``."""
    from anycost.runtime.runtime import Runtime  # the runtime imports this module to profile

    subnet, variant = name.rsplit("/", 1)
    links = chain(bundle, subnet, variant)
    if not links:
        raise BackendError(f"{bundle.folder} has no segments for {name}: build it with --segments")
    runtime = Runtime(bundle, threads=threads)
    arch = bundle.generator.architecture
    w_plus = np.random.RandomState(0).standard_normal((1, arch.n_style, arch.style_dim)).astype(np.float32)
    sessions = [runtime.session(link.subnet, variant) for link in links[1:]]
    step_times: list[list[float]] = [[] for _ in links]
    whole_times: list[list[float]] = [[] for _ in sessions]

    def run_chain() -> list[float]:
        at: Reached | None = None
        taken = []
        for link in links:
            start = time.perf_counter()
            at = runtime.segments.run(link, variant, w_plus, at)
            taken.append((time.perf_counter() - start) * 1e3)
        return taken

    def whole(i: int) -> Callable[[], list[float]]:
        def run() -> list[float]:
            start = time.perf_counter()
            sessions[i].synthesize(w_plus, None)
            return [(time.perf_counter() - start) * 1e3]

        return run

    subjects = [(run_chain, step_times)] + [(whole(i), [times]) for i, times in enumerate(whole_times)]
    began = time.perf_counter()
    turns = 0
    while turns < _LEAST_TURNS or (turns < _MOST_TURNS and time.perf_counter() - began < _LEAST_SECONDS):
        for run, lists in subjects:
            run()
            for _ in range(_RUNS_A_TURN):
                for times, taken in zip(lists, run(), strict=True):
                    times.append(taken)
        turns += 1
    steps = [round(float(np.median(times)), 4) for times in step_times]
    return {
        f"{link.subnet}/{variant}": ChainMeasurement(
            segments_ms=tuple(steps[: i + 2]),
            whole_ms=round(float(np.median(whole_times[i])), 4),
            runs=turns * _RUNS_A_TURN,
        )
        for i, link in enumerate(links[1:])
    }
