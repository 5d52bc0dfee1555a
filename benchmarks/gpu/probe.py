"""Whether a backend can build and run anything here: one engine of 8 px, taken through every step."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anycost.benchmarks.gpu.engine_contender import engine_variant
from anycost.benchmarks.gpu.job import Emit, Job
from anycost.benchmarks.gpu.measure import one_line
from anycost.errors import AnycostError
from anycost.export import compilers
from anycost.export.reference import Reference
from anycost.export.trace import Traced, trace_synthesis
from anycost.export.variants import Variant
from anycost.runtime import backends
from anycost.runtime.bundle import Weights
from anycost.runtime.manifest import EngineRecord, ParityRecord
from anycost.runtime.parity import compare, views
from anycost.runtime.usable import unusable
from anycost.runtime.verify import misfit
from anycost.weights.random_init import random_checkpoint
from anycost.weights.save import serialize

Array = np.ndarray
# Of TensorRT-RTX: the device at hand, whatever it is.
CURRENT = "CURRENT"
_WEIGHTS = "weights.safetensors"


def probe(job: Job, emit: Emit) -> None:
    """Finding: ``probe`` for the device's own capability, and for TensorRT-RTX one built for CURRENT. The engine's inputs are
    those of the benchmark's."""
    torch.set_num_threads(job.threads)
    checkpoint = random_checkpoint("tiny")
    net = checkpoint.arch.subnet(8, 0.25)
    generator = checkpoint.generator()
    reference = Reference(generator, torch.zeros(1, checkpoint.arch.style_dim), stored_noise=True)
    expected = views({"image": reference.synthesis(net)})
    traced = trace_synthesis(checkpoint.arch, net, generator.state_dict(), True, job.precision)
    home = Path(job.folder) / f"probe-{job.name}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    (home / _WEIGHTS).write_bytes(serialize(checkpoint.tensors, {}))
    for target in [job.target, CURRENT] if job.name == "tensorrt_rtx" else [job.target]:
        trial = _Trial(replace(job, target=target), traced, home)
        trial.run(reference.latents["w_plus"], expected)
        emit("probe", backend=job.name, target=target, **trial.found)


class _Trial:
    """found: unusable (what the runtime says beforehand), built, runs, parity, reason (of the first step that failed, else
    empty), seconds."""

    def __init__(self, job: Job, traced: Traced, home: Path):
        self.job, self._traced, self._home = job, traced, home
        self.found: dict[str, Any] = {"unusable": "", "built": False, "runs": False, "parity": None, "reason": ""}

    def run(self, w_plus: Array, expected: dict[str, Array]) -> None:
        started = time.perf_counter()
        try:
            variant = engine_variant(self.job, self.job.name)
            self.found["unusable"] = unusable(_record(variant))
            folder = self._home / f"engine-{self.job.target.lower()}"
            folder.mkdir()
            compilers.write(self._traced, variant, folder)
            self.found["built"] = True
            bind = Weights(self._home / _WEIGHTS).bind
            engine = backends.load(variant.backend, folder, bind, self.job.threads)
            image = engine.run({"w_plus": w_plus})["image"]
            self.found["runs"] = True
            parity = compare(views({"image": image}), expected)
            self.found["parity"] = parity.model_dump()
            self.found["reason"] = misfit(parity, variant.precision)
        except AnycostError as error:
            self.found["reason"] = str(error)
        except Exception as error:  # A library's own; the other target may do better.
            self.found["reason"] = one_line(error)
        self.found["seconds"] = round(time.perf_counter() - started, 1)


def _record(variant: Variant) -> EngineRecord:
    """What ``unusable`` asks of an engine that was built here."""
    return EngineRecord.model_validate(
        {
            "network": "probe",
            "backend": variant.backend,
            "targets": variant.targets,
            "precision": variant.precision,
            "inputs": {},
            "outputs": {},
            "folder": "probe",
            "key": "0" * 64,
            "versions": {variant.backend: backends.installed(variant.backend) or ""},
            "files": {},
            "weights_bytes": 0,
            "parity": ParityRecord(max_abs=0.0, psnr_db=0.0, ssim=0.0),
        }
    )
