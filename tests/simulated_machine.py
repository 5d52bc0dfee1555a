"""A bundle that is only written down, and a machine with a clock of its own that runs its engines: nothing is loaded."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from anycost.runtime.bundle import Bundle
from anycost.runtime.controller import Controller
from anycost.runtime.manifest import (
    MAPPING,
    ArchitectureRecord,
    EngineRecord,
    GeneratorRecord,
    Manifest,
    ParityRecord,
    SubnetRecord,
)
from anycost.runtime.profile import Measurement, Profile

NETS = ("n0", "n1", "n2", "n3", "n4", "n5")  # the cheapest and worst first
PARITY = ParityRecord(max_abs=0, psnr_db=200, ssim=1)


def written_bundle(backends: tuple[str, ...] = ("openvino",), macs: tuple[int, ...] = ()) -> Bundle:
    """Six sub-networks (or as many as ``macs``), each with twice the multiply-adds of the one before; the last is the full."""
    counts = macs or tuple(10**8 * 2**i for i in range(len(NETS)))
    names = NETS[: len(counts)]
    subnets = tuple(
        SubnetRecord(
            name=name,
            resolution=64,
            channels=(8,) * 5,
            ratio=None,
            macs=count,
            parameters=count // 1000,
            distance=(len(names) - 1 - i) / 10,
        )
        for i, (name, count) in enumerate(zip(names, counts, strict=True))
    )
    engines = tuple(
        EngineRecord(
            network=network,
            backend=backend,
            targets=("cpu-x86_64",),
            precision="fp32",
            inputs={},
            outputs={},
            folder=f"engines/{network}-{backend}",
            key="0" * 64,
            versions={},
            files={},
            weights_bytes=size,
            parity=PARITY,
        )
        for backend in backends
        for network, size in [(MAPPING, 1000), *((net.name, 4 * net.parameters) for net in subnets)]
    )
    generator = GeneratorRecord(
        source="written",
        source_sha256="0" * 64,
        architecture=ArchitectureRecord(resolution=64, channel_multiplier=1, channel_max=8, style_dim=8, n_mlp=2),
        noise="stored",
        weights="weights",
        latents="latents",
        subnets=subnets,
    )
    manifest = Manifest.model_construct(
        name="written", generator=generator, networks=(), references={}, engines=engines, files={}
    )
    return Bundle(Path("/written"), manifest, "0" * 64)


def written_profile(times: Mapping[str, float], failed: Mapping[str, str] | None = None) -> Profile:
    """p95 in ms by engine name; 100 MB each."""
    engines = {
        name: Measurement(p50_ms=0.8 * p95, p95_ms=p95, load_ms=1, memory_mb=100, runs=10)
        for name, p95 in times.items()
    }
    return Profile(device="written", threads=1, bundle_sha256="0" * 64, engines=engines, failed=dict(failed or {}))


@dataclass
class Request:
    """at: seconds at its start."""

    at: float
    engine: str
    latency_ms: float


@dataclass
class Machine:
    """true: p95 in ms by engine name on the free machine. slowdown: a factor by seconds and engine name. sigma: of the
    logarithm of the noise, whose 95th percentile is 1. clock() gives ``time``."""

    true: Mapping[str, float]
    slowdown: Callable[[float, str], float] = lambda at, engine: 1.0
    sigma: float = 0.08
    seed: int = 0
    outliers: float = 0.0
    time: float = 0.0
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def clock(self) -> float:
        return self.time

    def run(self, engine: str) -> float:
        noise = self._random.lognormvariate(-1.645 * self.sigma, self.sigma) if self.sigma else 1.0
        if self._random.random() < self.outliers:
            noise *= 5
        return self.true[engine] * self.slowdown(self.time, engine) * noise

    def drive(self, controller: Controller, seconds: float, rate: float = 20.0) -> list[Request]:
        """Requests one after another, at most ``rate`` a second; gives those of this call."""
        end, first = self.time + seconds, len(self.requests)
        while self.time < end:
            engine = controller.choose().engine.name
            started, latency = self.time, self.run(engine)
            self.time += latency / 1e3
            controller.observe(engine, latency)
            self.requests.append(Request(started, engine, latency))
            self.time = max(self.time, started + 1 / rate)
        return self.requests[first:]
