"""The engines of a bundle, built for the benchmark as a user's are."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from anycost.benchmarks.gpu.case import Case, Loaded
from anycost.benchmarks.gpu.job import Job
from anycost.benchmarks.gpu.machine import Call
from anycost.errors import AnycostError, BackendError
from anycost.export.build import Plan, build
from anycost.export.variants import Variant, variants
from anycost.networks.channels import Subnet
from anycost.runtime import backends
from anycost.runtime.bundle import Bundle, open_bundle
from anycost.runtime.manifest import MANIFEST_NAME, MAPPING
from anycost.runtime.runtime import Runtime
from anycost.runtime.verify import verify

Array = np.ndarray


class EngineLoaded:
    def __init__(self, case: Case, engine: Any):
        self._case, self._engine = case, engine

    def on_device(self, batch: int) -> Call | None:
        machine = self._case.machine
        if machine.device == "cpu":
            return self.through_host(batch)
        if not hasattr(self._engine, "run_device"):
            return None
        inputs = {"w_plus": torch.from_numpy(self._case.codes(batch)).to(machine.device)}
        return lambda: self._engine.run_device(inputs, stream=machine.stream)

    def through_host(self, batch: int) -> Call:
        w_plus = self._case.codes(batch)
        return lambda: self.run(w_plus)

    def run(self, w_plus: Array) -> Array:
        found: Array = self._engine.run({"w_plus": w_plus})["image"]
        return found

    def sizes(self) -> dict[str, int]:
        size = getattr(self._engine, "device_bytes", None)
        return {} if size is None else {"engine": int(size)}


class EngineContender:
    """The engines of a bundle that is built for it. Raises AnycostError when none can be built."""

    def __init__(self, case: Case, backend: str):
        self.case, self._backend = case, backend
        started = time.perf_counter()
        self.failed: Mapping[str, str]
        self._bundle, self.failed = _built(case, engine_variant(case.job, backend))
        self._build_s = time.perf_counter() - started
        self._weights = self._bundle.weights()

    def load(self, net: Subnet) -> Loaded:
        (record,) = self._bundle.engines(net.name)
        folder = self._bundle.path(record.folder)
        engine = backends.load(self._backend, folder, self._weights.bind, self.case.job.threads)
        return EngineLoaded(self.case, engine)

    def load_all(self, nets: Sequence[Subnet]) -> list[Loaded]:
        return [self.load(net) for net in nets]

    def notes(self) -> dict[str, Any]:
        """Also what ``anycost verify`` says of every engine."""
        try:
            checks = verify(Runtime(self._bundle, threads=self.case.job.threads))
            said: Any = {
                check.engine: {
                    "parity": check.parity.model_dump() if check.parity else None,
                    "passed": check.passed,
                    "problem": check.problem,
                }
                for check in checks
            }
        except AnycostError as error:
            said = str(error)
        records = self._bundle.manifest.engines
        return {
            "targets": sorted({target for record in records for target in record.targets}),
            "checked": {record.name: record.checked for record in records if record.network != MAPPING},
            "bytes of files": {record.name: record.size for record in records},
            "build_s": round(self._build_s, 1),
            "verify": said,
        }


def engine_variant(job: Job, backend: str) -> Variant:
    """As ``anycost build`` makes it, for batches from 1 to the largest asked for. Raises BackendError, BuildError."""
    backends.require(backend)
    batch = f"1:1:{max(job.batches)}"
    if not job.target:
        return variants([backend], [job.precision], [], batch)[0]
    if job.target.startswith("sm_"):
        return variants([backend], [job.precision], [job.target], batch)[0]
    return replace(variants([backend], [job.precision], [], batch)[0], targets=(job.target,))


def _built(case: Case, variant: Variant) -> tuple[Bundle, dict[str, str]]:
    """-> the bundle, and why sub-networks are not in it. Raises AnycostError when none is."""
    folder = case.job.bundle
    if not folder.exists():
        # Reference samples are the same in all: a build goes on from what it finds.
        for other in sorted(folder.parent.glob(f"*-{case.job.precision}/{MANIFEST_NAME}")):
            shutil.copytree(other.parent, folder)
            break

    def made(nets: Sequence[Subnet]) -> None:
        plan = Plan("benchmark", nets, [variant], stored_noise=True, threads=case.job.threads)
        build(case.checkpoint, plan, folder, lambda what, done, total: print(f"{done}/{total} {what}", flush=True))

    failed: dict[str, str] = {}
    try:
        made(case.nets)
    except AnycostError as first:
        if len(case.nets) == 1:
            raise
        print(f"not all at a time: {first}", flush=True)
        good: list[Subnet] = []
        for net in case.nets:
            try:
                made([*good, net])
            except AnycostError as error:
                failed[net.name] = str(error)
            else:
                good.append(net)
        if not good:
            raise BackendError(failed[case.nets[0].name]) from None
        made(good)  # Whole again, whatever the last one left.
    return open_bundle(folder), failed
