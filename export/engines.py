"""Engines of a build: compiled, loaded as the runtime will, compared with the reference, and only then given their name."""

from __future__ import annotations

import math
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from pydantic import ValidationError
from safetensors import safe_open

from anycost._version import __version__
from anycost.errors import ParityError
from anycost.export import compilers
from anycost.export.jobs import Job
from anycost.export.trace import OPSET, Traced
from anycost.runtime import backends
from anycost.runtime.bundle import Weights
from anycost.runtime.files import record_of, write_whole
from anycost.runtime.manifest import EngineRecord
from anycost.runtime.parity import compare, views
from anycost.runtime.verify import misfit

ENGINE_RECORD = "engine.json"


@dataclass(frozen=True)
class EngineShop:
    """key(weights, **what) -> hash of all that a part is made from. changing: called before a finished part is replaced."""

    folder: Path
    threads: int
    key: Callable[..., str]
    changing: Callable[[], None]

    def finished(self, job: Job, backend: str) -> EngineRecord | None:
        """The engine from an earlier run, if it is whole and was made from the same."""
        folder = self.folder / _place(job, backend)
        try:
            record = EngineRecord.model_validate_json((folder / ENGINE_RECORD).read_bytes())
        except (OSError, ValidationError):
            return None
        same = record.key == self._key(job, backend)
        whole = all(
            (folder / path).is_file() and record_of(folder / path) == file for path, file in record.files.items()
        )
        return record if same and whole else None

    def make(self, job: Job, backend: str, traced: Traced, reference: Path) -> EngineRecord:
        """Compile into a hidden folder, compare with the outputs in ``reference``, rename. Raises ParityError, and leaves
        nothing then."""
        final = self.folder / _place(job, backend)
        hidden = final.with_name(f".{final.name}.part")
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
        weights = Weights(self.folder / job.weights)
        try:
            compilers.write(backend, traced, hidden)
            engine = backends.load(backend, hidden, weights.bind, self.threads)
            with safe_open(reference, framework="numpy") as file:
                expected = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            parity = compare(views(job.run(engine)), expected)
            problem = misfit(parity)
            if problem:
                raise ParityError(f"engine {job.name}/{backend} failed its parity check: {problem}; it was not kept")
            record = EngineRecord(
                network=job.name,
                backend=backend,
                target=f"cpu-{platform.machine().lower()}",
                precision="fp32",
                folder=_place(job, backend),
                key=self._key(job, backend),
                versions=_versions(backend),
                files={path.name: record_of(path) for path in sorted(hidden.iterdir())},
                weights_bytes=sum(4 * math.prod(binding.shape) for binding in traced.bindings.values()),
                parity=parity,
            )
            write_whole(hidden / ENGINE_RECORD, record.model_dump_json(indent=1).encode())
            self.changing()
            shutil.rmtree(final, ignore_errors=True)
            os.replace(hidden, final)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        return record

    def _key(self, job: Job, backend: str) -> str:
        return self.key(
            job.weights,
            part="engine",
            backend=backend,
            version=backends.installed(backend),
            onnx=onnx.__version__,
            graph=job.basis,
            network=job.name,
        )


def _versions(backend: str) -> dict[str, str]:
    found = {
        "anycost-runtime": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "opset": str(OPSET),
    }
    return found | {backend: backends.installed(backend) or ""}


def _place(job: Job, backend: str) -> str:
    return f"engines/{job.name}/{backend}-fp32"
