"""The timed cases, run by pytest-benchmark through ``python -m benchmarks.latency`` (which fills ``SETTINGS``)."""

from __future__ import annotations

import gc
import time

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from anycost.benchmarks.contenders import CONTENDERS, Case
from anycost.benchmarks.gemm import gemm_gflops
from anycost.benchmarks.settings import SETTINGS
from anycost.networks.channels import Subnet

_SECONDS = 2.0
_ROUNDS = (3, 50)
# A contender whose picture differs is not a contender: at most this far from the first one's, of its range. In float32 60 dB,
# far looser than parity, far tighter than a fault. In bf16, with 8 significant bits, 50 dB are usual, and a pixel of millions
# is five times further off than most.
_AGREEMENT, _AGREEMENT_BF16 = 1e-3, 5e-2


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # Contenders of one sub-network run next to each other: the machine's mood is the same for all of them.
    pairs = [(net, name) for net in SETTINGS.subnets for name in SETTINGS.contenders]
    metafunc.parametrize(("net", "contender"), pairs, ids=[f"{net.name}: {name}" for net, name in pairs])


def test_latency(benchmark: BenchmarkFixture, net: Subnet, contender: str) -> None:
    assert SETTINGS.generator is not None and SETTINGS.runtime is not None
    arch = SETTINGS.generator.arch
    w_plus = np.random.RandomState(0).standard_normal((1, arch.n_style, arch.style_dim)).astype(np.float32)
    if net.name not in SETTINGS.gemm_gflops and contender.startswith("ours"):
        SETTINGS.gemm_gflops[net.name] = gemm_gflops(SETTINGS.threads)  # just before: a shared machine's rate changes
    case = Case(SETTINGS.generator, net, SETTINGS.runtime, w_plus, SETTINGS.threads)
    started = time.perf_counter()
    call = CONTENDERS[contender](case)
    image = call()
    prepared = time.perf_counter() - started
    expected = SETTINGS.references.setdefault(net.name, image)
    agreement = _AGREEMENT_BF16 if contender.endswith("bf16") else _AGREEMENT
    assert np.abs(image - expected).max() <= agreement * np.ptp(expected), f"{contender} gives another image"
    started = time.perf_counter()
    call()
    once = time.perf_counter() - started
    rounds = int(np.clip(_SECONDS / once, *_ROUNDS))
    benchmark.extra_info.update(subnet=net.name, contender=contender, prepare_s=prepared)
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=1)
    del call
    gc.collect()
