"""Measuring engines, each in a process of its own, so that its peak memory and load time are its own.

``python -m anycost.runtime.measure BUNDLE ENGINE --threads N`` prints one Measurement as JSON; with ``--chain``, those of the
chain of segments that ends with the engine's sub-network (measure_chains.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from anycost.errors import AnycostError, BackendError
from anycost.runtime.bundle import Bundle
from anycost.runtime.measure_chains import measure_chain, runnable_chains
from anycost.runtime.networks import LoadedNetwork
from anycost.runtime.profile import (
    ChainMeasurement,
    Measurement,
    Profile,
    device_name,
    part_engines,
    runnable_engines,
    store_profile,
    stored_profile,
)
from anycost.runtime.samples import inputs_of

WARM_UP_RUNS = 3
LEAST_RUNS = 10
MOST_RUNS = 200
LEAST_SECONDS = 0.5
_PROCESS_LIMIT_S = 600
_CHAINS = TypeAdapter(dict[str, ChainMeasurement])
Progress = Callable[[str, int, int], None]


def measure(bundle: Bundle, engine: str, threads: int) -> Measurement:
    """Load one engine here and time it. Call it in a fresh process: memory is the process's peak."""
    network, variant = engine.rsplit("/", 1)
    started = time.perf_counter()
    run = _once(bundle, network, variant, threads)
    run()
    load_ms = (time.perf_counter() - started) * 1e3
    for _ in range(WARM_UP_RUNS):
        run()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < LEAST_RUNS or (len(times) < MOST_RUNS and time.perf_counter() - began < LEAST_SECONDS):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    p50, p95 = np.percentile(times, [50, 95])
    return Measurement(
        p50_ms=round(float(p50), 3),
        p95_ms=round(float(p95), 3),
        load_ms=round(load_ms, 1),
        memory_mb=round(peak_memory_mb(), 1),
        runs=len(times),
    )


def _once(bundle: Bundle, network: str, variant: str, threads: int) -> Callable[[], object]:
    """Load an engine and return what runs it once: from z to the image for a sub-network, one sample for a part."""
    from anycost.runtime.runtime import Runtime  # the runtime imports this module to profile

    found = bundle.part(network)
    if found:
        record, short = found
        loaded = LoadedNetwork(bundle, record, None, threads, variant)
        inputs = inputs_of(record.part(short), 1)
        return lambda: loaded.run(short, inputs)
    z = np.random.RandomState(0).standard_normal((1, bundle.generator.architecture.style_dim)).astype(np.float32)
    session = Runtime(bundle, threads=threads).session(network, variant)
    return lambda: session.image(z)


def peak_memory_mb() -> float:
    """Peak resident memory of this process in 10^6 bytes."""
    try:
        # Not getrusage: on Linux its peak begins with that of the process that started this one.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def profile(
    bundle: Bundle,
    threads: int,
    *,
    refresh: bool = False,
    parts: bool = True,
    progress: Progress | None = None,
) -> Profile:
    """Measure every runnable engine that has no stored measurement (all of them with ``refresh``) and store the result.

    parts: those of the networks beside the generator too; chains of segments are measured after the engines.
    progress(name, done, total) is called before each and once at the end. An engine that fails is remembered as such, and tried
    again with ``refresh`` only. Raises BackendError when none runs.
    """
    stored = None if refresh else stored_profile(bundle, threads)
    found = dict(stored.engines) if stored else {}
    failed = dict(stored.failed) if stored else {}
    chains = dict(stored.chains) if stored else {}
    chained = [name for name in runnable_chains(bundle) if name not in chains and _chain_of(name) not in failed]
    names = (runnable_engines(bundle) if bundle.manifest.generator else []) + (part_engines(bundle) if parts else [])

    def result() -> Profile:
        return Profile(
            device=device_name(),
            threads=threads,
            bundle_sha256=bundle.manifest_sha256,
            engines=found,
            failed=failed,
            chains=chains,
        )

    total = len(names) + len(chained)
    for done, name in enumerate(names):
        if name in found or name in failed:
            continue
        if progress:
            progress(name, done, total)
        try:
            printed = _in_own_process(bundle.folder, name, threads)
            found[name] = Measurement.model_validate_json(printed)
        except BackendError as error:
            failed[name] = str(error)
        store_profile(bundle, result())
    for done, name in enumerate(chained, start=len(names)):
        if progress:
            progress(_chain_of(name), done, total)
        try:
            chains |= _CHAINS.validate_json(_in_own_process(bundle.folder, name, threads, "--chain"))
        except BackendError as error:
            failed[_chain_of(name)] = str(error)
        store_profile(bundle, result())
    if progress:
        progress("", total, total)
    if not any(name in found for name in names):
        first = next((failed[name] for name in names if name in failed), "there is none")
        raise BackendError(f"no engine of {bundle.folder} could be measured: {first}")
    return result()


def _chain_of(name: str) -> str:
    return f"segments to {name}"


def _in_own_process(folder: Path, engine: str, threads: int, *options: str) -> str:
    """What measuring printed. Raises BackendError."""
    command = [
        sys.executable,
        "-m",
        "anycost.runtime.measure",
        str(folder.resolve()),
        engine,
        "--threads",
        str(threads),
        *options,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROCESS_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise BackendError(f"{engine} was not measured within {_PROCESS_LIMIT_S} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"the process ended with code {done.returncode}"]
        raise BackendError(f"{engine} could not be measured: {lines[-1]}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    from anycost.runtime.bundle import read_manifest

    parser = argparse.ArgumentParser(prog="python -m anycost.runtime.measure", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("engine", help="such as 0.5@64/openvino")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--chain", action="store_true", help="measure its segments instead")
    args = parser.parse_args(arguments)
    try:
        # The parent has checked the files.
        manifest, sha256 = read_manifest(args.bundle)
        bundle = Bundle(args.bundle, manifest, sha256)
        if args.chain:
            chains = measure_chain(bundle, args.engine, args.threads)
            print(_CHAINS.dump_json(chains).decode())
            return 0
        result = measure(bundle, args.engine, args.threads)
    except AnycostError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(result.model_dump()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
