"""What a run of ``benchmarks.latency`` was asked for, where the timed cases find it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from anycost.networks.channels import Subnet
from anycost.networks.stylegan2 import Generator
from anycost.runtime.runtime import Runtime


@dataclass
class Settings:
    """references, gemm_gflops: by sub-network, the first contender's image and what the machine can do then; filled by the
    cases."""

    generator: Generator | None = None
    runtime: Runtime | None = None
    subnets: list[Subnet] = field(default_factory=list)
    contenders: list[str] = field(default_factory=list)
    threads: int = 1
    references: dict[str, np.ndarray] = field(default_factory=dict)
    gemm_gflops: dict[str, float] = field(default_factory=dict)


SETTINGS = Settings()
