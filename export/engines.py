"""Engines of a build: compiled, loaded as the runtime will, compared with the reference, and only then given their name."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

import onnx
import torch
from pydantic import ValidationError
from safetensors import safe_open

from anycost._version import __version__
from anycost.errors import ParityError
from anycost.export import compilers
from anycost.export.graph_engine import GraphEngine
from anycost.export.jobs import Job
from anycost.export.trace import Traced
from anycost.export.variants import Variant
from anycost.runtime import backends
from anycost.runtime.backends import Engine
from anycost.runtime.bundle import Weights
from anycost.runtime.files import record_of, write_whole
from anycost.runtime.manifest import EngineRecord, ParityRecord
from anycost.runtime.parity import compare, views
from anycost.runtime.usable import unusable
from anycost.runtime.verify import misfit

ENGINE_RECORD = "engine.json"


@dataclass(frozen=True)
class EngineShop:
    """key(weights, **what) -> hash of all that a part is made from. changing: called before a finished part is replaced. graphs:
    parity of graphs by job and ``Job.form``, for engines that cannot run here."""

    folder: Path
    threads: int
    key: Callable[..., str]
    changing: Callable[[], None]
    graphs: dict[tuple[str, str], ParityRecord] = field(default_factory=dict)

    def finished(self, job: Job, variant: Variant) -> EngineRecord | None:
        """The engine from an earlier run, if it is whole and was made from the same."""
        folder = self.folder / _place(job, variant)
        try:
            record = EngineRecord.model_validate_json((folder / ENGINE_RECORD).read_bytes())
        except (OSError, ValidationError):
            return None
        same = record.key == self._key(job, variant)
        whole = all(
            (folder / path).is_file() and record_of(folder / path) == file for path, file in record.files.items()
        )
        return record if same and whole else None

    def make(self, job: Job, variant: Variant, traced: Traced, reference: Path) -> EngineRecord:
        """Compile into a hidden folder, compare with the outputs in ``reference``, rename. Raises ParityError, and leaves
        nothing then.

        An engine that cannot run on this machine is checked by its graph, which ONNX Runtime runs.
        """
        final = self.folder / _place(job, variant)
        hidden = final.with_name(f".{final.name}.part")
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
        weights = Weights(self.folder / job.weights)
        try:
            compilers.write(traced, variant, hidden)
            record = EngineRecord(
                network=job.name,
                backend=variant.backend,
                targets=variant.targets,
                precision=variant.precision,
                fused=variant.fused,
                batch=variant.batch,
                inputs=_shapes(traced.model.graph.input),
                outputs=_shapes(traced.model.graph.output),
                folder=_place(job, variant),
                key=self._key(job, variant),
                versions=_versions(variant.backend, traced.opset),
                files={path.name: record_of(path) for path in sorted(hidden.iterdir())},
                weights_bytes=sum(binding.bytes for binding in traced.bindings.values()),
                parity=ParityRecord(max_abs=0.0, psnr_db=0.0, ssim=0.0),
            )
            runs_here = not unusable(record)
            form = job.form(variant.precision, variant.fused)
            parity = None if runs_here else self.graphs.get((job.name, form))
            if parity is None:
                if runs_here:
                    engine = backends.load(variant.backend, hidden, weights.bind, self.threads)
                else:
                    engine = GraphEngine(traced, weights.bind, self.threads)
                with safe_open(reference, framework="numpy") as file:
                    expected = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                parity = compare(views(job.run(engine)), expected)
            if not runs_here:
                self.graphs[job.name, form] = parity
            problem = misfit(parity, variant.precision)
            if problem:
                raise ParityError(
                    f"engine {job.name}/{variant.name} failed its parity check: {problem}; it was not kept"
                )
            record = record.model_copy(update={"parity": parity, "checked": "engine" if runs_here else "graph"})
            write_whole(hidden / ENGINE_RECORD, record.model_dump_json(indent=1).encode())
            self.changing()
            shutil.rmtree(final, ignore_errors=True)
            os.replace(hidden, final)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        return record

    def open(self, job: Job, variant: Variant, record: EngineRecord) -> Engine:
        """A finished engine or, where it cannot run here, its graph."""
        weights = Weights(self.folder / job.weights)
        if unusable(record):
            return GraphEngine(job.trace(variant.precision), weights.bind, self.threads)
        return backends.load(variant.backend, self.folder / record.folder, weights.bind, self.threads)

    def _key(self, job: Job, variant: Variant) -> str:
        return self.key(
            job.weights,
            part="engine",
            variant=asdict(variant),
            version=compilers.compiler_version(variant.backend),
            onnx=onnx.__version__,
            sources=_sources(),
            graph=job.basis,
            network=job.name,
        )


@cache
def _sources() -> str:
    """Of what writes graphs and kernels: between two versions that have one number an engine would else be kept."""
    digest = hashlib.sha256()
    for package in ("anycost.export", "anycost.kernels"):
        folder = Path(str(resources.files(package)))
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def _versions(backend: str, opset: int) -> dict[str, str]:
    found = {
        "anycost-runtime": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "opset": str(opset),
    }
    return found | compilers.compiler_version(backend)


def _shapes(values: Iterable[onnx.ValueInfoProto]) -> dict[str, tuple[int, ...]]:
    """Without the batch."""
    return {value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim[1:]) for value in values}


def _place(job: Job, variant: Variant) -> str:
    return f"engines/{job.name}/{variant.backend}-{variant.form}"
