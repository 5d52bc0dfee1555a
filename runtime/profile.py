"""What was measured of a bundle's engines on this device, kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from platformdirs import user_cache_dir
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anycost.errors import BackendError
from anycost.runtime import backends
from anycost.runtime.bundle import Bundle
from anycost.runtime.cuda.devices import devices
from anycost.runtime.files import write_whole
from anycost.runtime.manifest import MAPPING, EngineRecord
from anycost.runtime.usable import unusable

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Measurement(BaseModel):
    """One engine at batch 1 on one device. p50_ms, p95_ms: from z to the float image, mapping included, for a
    sub-network; of one run for any other network.

    load_ms: opening the engine up to and with the first image. memory_mb: peak resident memory of the measuring process,
    in 10^6 bytes. runs: how many images the percentiles are over.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    p50_ms: Milliseconds
    p95_ms: Milliseconds
    load_ms: Milliseconds
    memory_mb: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    runs: Annotated[int, Field(ge=1)]


class ChainMeasurement(BaseModel):
    """A chain of segments beside the whole engine of its last sub-network, in turns in one process: medians of ``runs`` images
    from w+ to the float image at batch 1. segments_ms: of each segment, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    segments_ms: tuple[Milliseconds, ...]
    whole_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    runs: Annotated[int, Field(ge=1)]

    @property
    def overhead(self) -> float:
        """What the chain takes more than the whole engine, as a part of this; below 0 where it takes less."""
        return sum(self.segments_ms) / self.whole_ms - 1


class Profile(BaseModel):
    """Measurements by engine name, for one bundle on one device with a number of threads. failed: why an engine has none.
    chains: by sub-network and variant, as ``1@64/openvino``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    threads: int
    bundle_sha256: str
    engines: dict[str, Measurement]
    failed: dict[str, str] = {}
    chains: dict[str, ChainMeasurement] = {}


def default_threads() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device_name() -> str:
    """The processor, how many of it this process may use, GPUs, and the versions of the backends: what a time depends on."""
    versions = [f"{name} {version}" for name in backends.BACKENDS if (version := backends.installed(name))]
    gpus = [f"{gpu.name} ({gpu.target}), driver {gpu.driver[0]}.{gpu.driver[1]}" for gpu in devices()]
    return ", ".join([f"{_processor()} x{default_threads()}", *gpus, *versions])


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cache_folder() -> Path:
    """The user's cache, or the folder that the environment variable ANYCOST_CACHE names."""
    return Path(os.environ.get("ANYCOST_CACHE") or user_cache_dir("anycost"))


def profile_path(bundle: Bundle, threads: int) -> Path:
    device = hashlib.sha256(f"{device_name()}|{threads}".encode()).hexdigest()[:16]
    return cache_folder() / "profiles" / device / f"{bundle.manifest_sha256[:32]}.json"


def stored_profile(bundle: Bundle, threads: int) -> Profile | None:
    """What was measured before, or None. A damaged or foreign file counts as none: it is only a cache."""
    try:
        profile = Profile.model_validate_json(profile_path(bundle, threads).read_bytes())
    except (OSError, ValidationError):
        return None
    return profile if profile.bundle_sha256 == bundle.manifest_sha256 else None


def store_profile(bundle: Bundle, profile: Profile) -> Path | None:
    """Write it to the cache; None where that cannot be written, which costs only a new measurement next time."""
    path = profile_path(bundle, profile.threads)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, profile.model_dump_json(indent=1).encode())
    except OSError:
        return None
    return path


def runnable_engines(bundle: Bundle) -> list[str]:
    """``synthesis_engines``. Raises BackendError when there is none."""
    found = synthesis_engines(bundle)
    if not found:
        raise nothing_runs(bundle)
    return found


def synthesis_engines(bundle: Bundle) -> list[str]:
    """Names of the synthesis engines that can run here, as can the mapping of the same variant, cheapest first."""
    mapped = {engine.variant for engine in bundle.engines(MAPPING) if not unusable(engine)}
    return [
        engine.name
        for net in sorted(bundle.generator.subnets, key=lambda net: net.macs)
        for engine in bundle.engines(net.name)
        if engine.variant in mapped and not unusable(engine)
    ]


def part_engines(bundle: Bundle) -> list[str]:
    """Names of the engines of the networks beside the generator that can run here.

    Raises BackendError when the bundle has such networks and none of their engines runs here.
    """
    # Those without an engine were built beside a generator, for a backend that runs generators alone.
    named = {engine.network for engine in bundle.manifest.engines}
    parts = [part.name for network in bundle.manifest.networks for part in network.parts if part.name in named]
    found = [engine.name for part in parts for engine in bundle.engines(part) if not unusable(engine)]
    if parts and not found:
        raise nothing_runs(bundle)
    return found


def nothing_runs(bundle: Bundle) -> BackendError:
    return BackendError(f"no engine of {bundle.folder} can run here: {reasons(bundle.manifest.engines)}")


def reasons(engines: Iterable[EngineRecord]) -> str:
    """Why each variant of some engines cannot run here."""
    found = {engine.variant: unusable(engine) for engine in engines}
    return "; ".join(f"{variant}: {reason}" for variant, reason in found.items() if reason) or "there is none"
