"""Building a bundle: weights, reference samples, engines, parity, manifest, in that order and each whole or not at all.

A build that is killed goes on where it stopped: a finished part lies under its final name together with the hash of all
that it was made from, and the manifest comes last.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from anycost._version import __version__
from anycost.editing.directions import Directions, save
from anycost.errors import BuildError, ParityError
from anycost.export import compilers, parts
from anycost.export.alone import alone
from anycost.export.engines import ENGINE_RECORD, EngineShop
from anycost.export.figures import keep_quality
from anycost.export.jobs import Job, MappingJob, PartJob, SubnetJob, part_records
from anycost.export.reference import Reference
from anycost.export.segments import Arrays, Segment, SegmentJob, has_channels_last, takes_segments
from anycost.export.segments import chains as segment_chains
from anycost.export.trace import Traced
from anycost.export.variants import CALIBRATION_SAMPLES, Variant
from anycost.networks.channels import Subnet, macs, parameters
from anycost.networks.registry import BY_NAME
from anycost.runtime.bundle import sealed
from anycost.runtime.files import record_of, write_whole
from anycost.runtime.manifest import (
    MANIFEST_NAME,
    MAPPING,
    ArchitectureRecord,
    EngineRecord,
    FileRecord,
    GeneratorRecord,
    Manifest,
    NetworkRecord,
    SubnetRecord,
)
from anycost.runtime.parity import views
from anycost.runtime.profile import default_threads
from anycost.runtime.quality import Quality
from anycost.weights.checkpoint import Checkpoint, NetworkCheckpoint

WEIGHTS = "weights/generator.safetensors"
LATENTS = "reference/latents.safetensors"
DIRECTIONS = "directions.safetensors"
# Whose engines are the fused kernels of the generator: other networks have none.
GENERATOR_BACKENDS = ("cuda",)
_RESERVED = {"generator", "latents"}
_STORED_TYPES = (torch.float16, torch.float32)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """What to build. variants: backends and precisions, in the order they are built; a name is
    that backend in fp32. stored_noise: engines hold the stored noise.

    networks: what goes into the bundle beside the generator (or without one), by the names they get there. directions:
    for editing the generator's images. quality: what was measured of this checkpoint's sub-networks elsewhere. refresh: compile
    again what is finished. segments: also engines for what each sub-network adds to the one below (export/segments.py).
    """

    name: str
    subnets: Sequence[Subnet]
    variants: Sequence[Variant | str]
    stored_noise: bool = False
    threads: int = field(default_factory=default_threads)
    networks: Mapping[str, NetworkCheckpoint] = field(default_factory=dict)
    directions: Directions | None = None
    quality: Quality | None = None
    refresh: bool = False
    segments: bool = False

    @property
    def engines(self) -> list[Variant]:
        return [Variant(variant) if isinstance(variant, str) else variant for variant in self.variants]


def build(checkpoint: Checkpoint | None, plan: Plan, folder: Path, progress: Progress | None = None) -> Manifest:
    """Write the bundle into ``folder``, which may not exist, be empty, or hold an earlier build of the same.

    checkpoint: the elastic generator, None for a bundle without one. progress(what, done, total). Raises BuildError:
    folder in use by something else or not writable, disk full, a failed parity (ParityError, with the figures; that engine
    is left out of the folder), a missing backend (BackendError).
    """
    for variant in plan.engines:
        compilers.require(variant)
    if checkpoint is None and not plan.networks:
        raise BuildError("there is nothing to build: give a generator or another network")
    if checkpoint is None and all(variant.backend in GENERATOR_BACKENDS for variant in plan.engines):
        raise BuildError(
            f"backend {plan.engines[0].backend} runs generators, and there is none to build: add another to --backend"
        )
    if plan.segments and checkpoint is None:
        raise BuildError("segments are those of a generator, and there is none to build: leave --segments out")
    if plan.segments and not any(map(takes_segments, plan.engines)):
        raise BuildError(
            "segments are built in fp32, fp16 and bf16 for every backend but cuda and without fused kernels: add such an "
            "engine, or leave --segments out"
        )
    if plan.directions and (checkpoint is None or plan.directions.style_dim != checkpoint.arch.style_dim):
        needed = f"of style_dim {checkpoint.arch.style_dim}" if checkpoint else "without a generator"
        raise BuildError(f"directions of style_dim {plan.directions.style_dim} do not fit a bundle {needed}")
    try:
        parts.claim(folder)
        with alone(folder):
            return _Builder(checkpoint, plan, folder, progress or _silent).run()
    except OSError as error:
        raise BuildError(parts.explain(error, folder)) from None


class _Builder:
    def __init__(self, checkpoint: Checkpoint | None, plan: Plan, folder: Path, progress: Progress):
        self.checkpoint, self.plan, self.folder = checkpoint, plan, folder
        self.done, self.total = 0, 0
        self._progress = progress
        self.files: dict[str, FileRecord] = {}
        self.references: dict[str, str] = {}
        self.notes: dict[str, dict[str, str]] = {}
        self.engines: list[EngineRecord] = []
        self.failures: list[ParityError] = []
        # What every part depends on, and what those of each weights file do beside.
        self.common = {"anycost": __version__, "torch": torch.__version__}
        self.basis: dict[str, dict[str, object]] = {}
        self.shop = EngineShop(folder, plan.threads, self._key, self._changing)

    def step(self, what: str) -> None:
        self._progress(what, self.done, self.total)
        self.done += 1

    def run(self) -> Manifest:
        records = {name: part_records(name, BY_NAME[n.network], n.arguments) for name, n in self.plan.networks.items()}
        chains = segment_chains(self.plan.subnets) if self.plan.segments else []
        self._check_names([record.name for found in records.values() for record, _ in found], chains)
        parts.begin(self.folder)
        graphs = sum(map(len, records.values())) + (len(self.plan.subnets) + 1 if self.checkpoint else 0)
        self.total = len(records) + (2 if self.checkpoint else 0) + graphs * (1 + len(self.plan.engines))
        self.total += sum(map(len, chains)) * sum(map(takes_segments, self.plan.engines))
        generator = self._generator(self.checkpoint, chains) if self.checkpoint else None
        networks = []
        for name, checkpoint in self.plan.networks.items():
            path = f"weights/{name}.safetensors"
            self.step(f"{name}: weights")
            self._weights(path, checkpoint.tensors, checkpoint.described(), checkpoint.sha256, {})
            module = checkpoint.module()
            for record, part in records[name]:
                self._job(PartJob(record, module, part, path))
            networks.append(
                NetworkRecord(
                    name=name,
                    kind=checkpoint.network,
                    arguments=json.loads(json.dumps(checkpoint.arguments)),
                    labels=checkpoint.labels,
                    source=checkpoint.source,
                    source_sha256=checkpoint.sha256,
                    credit=checkpoint.metadata.get("credit", ""),
                    parameters=sum(parameter.numel() for parameter in module.parameters()),
                    weights=path,
                    parts=tuple(record for record, _ in records[name]),
                )
            )
        if self.failures:
            others = f" (and {len(self.failures) - 1} engines more)" if len(self.failures) > 1 else ""
            raise ParityError(f"{self.failures[0]}{others}")
        manifest = Manifest(
            name=self.plan.name,
            generator=generator,
            networks=tuple(networks),
            references=self.references,
            engines=tuple(self.engines),
            files=self.files,
        )
        # The manifest of a larger build goes before the parts that it names and this one does not.
        content = sealed(manifest)
        if not (self.folder / MANIFEST_NAME).is_file() or (self.folder / MANIFEST_NAME).read_bytes() != content:
            write_whole(self.folder / MANIFEST_NAME, content)
        self._remove_others(manifest)
        keep_quality(self.folder, manifest, self.plan.quality)
        parts.finish(self.folder)
        self._progress("", self.total, self.total)
        return manifest

    def _check_names(self, parts_of_networks: list[str], chains: Sequence[Sequence[Segment]]) -> None:
        """Raises BuildError, before anything is written, where two things would have one name."""
        taken = [MAPPING, *(net.name for net in self.plan.subnets)] if self.checkpoint else []
        taken += [segment.name for chain in chains for segment in chain]
        names = [*taken, *parts_of_networks]
        folded = [name.lower() for name in names]
        for name in [*self.plan.networks, *names]:
            if name.lower() in _RESERVED or name.lower().endswith(".part"):
                raise BuildError(f"the name {name} has a meaning of its own in a bundle: give another, as in NAME=FILE")
        for name in names:
            if folded.count(name.lower()) > 1:
                raise BuildError(f"two networks would be called {name}: give one another name, as in NAME=FILE")

    def _generator(self, checkpoint: Checkpoint, chains: Sequence[Sequence[Segment]]) -> GeneratorRecord:
        generator = checkpoint.generator()
        mean = generator.mean_style() if checkpoint.mean_style is None else checkpoint.mean_style
        reference = Reference(generator, mean, self.plan.stored_noise)
        self.step("weights")
        more = {"arch": asdict(checkpoint.arch), "stored_noise": self.plan.stored_noise}
        self._weights(WEIGHTS, checkpoint.tensors, checkpoint.described(), checkpoint.sha256, more)
        self.step("latents")
        self._tensors(LATENTS, WEIGHTS, lambda: (reference.latents, {}))
        self._job(MappingJob(checkpoint.arch, reference, WEIGHTS))
        for net in self.plan.subnets:
            self._job(SubnetJob(checkpoint.arch, net, reference, WEIGHTS))
        for chain in chains:
            self._chain(checkpoint, chain, reference)
        return GeneratorRecord(
            source=checkpoint.source,
            source_sha256=checkpoint.sha256,
            credit=checkpoint.metadata.get("credit", ""),
            architecture=ArchitectureRecord(**asdict(checkpoint.arch)),
            noise="stored" if self.plan.stored_noise else "input",
            weights=WEIGHTS,
            latents=LATENTS,
            directions=self._directions(),
            subnets=tuple(self._subnet(net, checkpoint.arch.style_dim) for net in self.plan.subnets),
            segments=tuple(segment.record(checkpoint.arch.style_dim) for chain in chains for segment in chain),
        )

    def _directions(self) -> str | None:
        if self.plan.directions is None:
            return None
        path, made = self.folder / DIRECTIONS, self.folder / f".{DIRECTIONS}.part"
        save(made, self.plan.directions)
        if path.is_file() and path.read_bytes() == made.read_bytes():
            made.unlink()
        else:
            self._changing()
            os.replace(made, path)
        self.files[DIRECTIONS] = record_of(path)
        return DIRECTIONS

    def _subnet(self, net: Subnet, style_dim: int) -> SubnetRecord:
        return SubnetRecord(
            name=net.name,
            resolution=net.resolution,
            channels=net.channels,
            ratio=net.ratio,
            macs=macs(net, style_dim),
            parameters=parameters(net, style_dim),
            distance=float(self.notes[net.name]["distance"]),
        )

    def _job(self, job: Job) -> None:
        """The reference sample of a graph and an engine for every backend."""
        self.step(f"{job.name}: reference")
        path = f"reference/{job.name}.safetensors"
        self.notes[job.name] = self._tensors(path, job.weights, lambda: _viewed(job))
        self.references[job.name] = path
        traced: dict[str, Traced] = {}
        for variant in self.plan.engines:
            self.step(f"{job.name}: {variant.name}")
            if variant.backend in GENERATOR_BACKENDS and isinstance(job, PartJob):
                continue
            self._engine(job, variant, path, traced)
        gc.collect()

    def _chain(self, checkpoint: Checkpoint, chain: Sequence[Segment], reference: Reference) -> None:
        """Engines of the segments of one ratio, each checked behind those below it by the reference of its sub-network."""
        traced: dict[str, dict[str, Traced]] = {segment.name: {} for segment in chain}
        for variant in filter(takes_segments, self.plan.engines):
            below: Callable[[], list[Arrays]] | None = None
            for segment in chain:
                self.step(f"{segment.name}: {variant.name}")
                job = SegmentJob(checkpoint.arch, segment, reference, WEIGHTS, below, has_channels_last(variant))
                path = self.references[segment.net.name]
                engine = self._engine(job, variant, path, traced[segment.name])
                if engine is None:
                    break
                below = partial(job.outputs, partial(self.shop.open, job, variant, engine))
            gc.collect()

    def _engine(self, job: Job, variant: Variant, reference: str, traced: dict[str, Traced]) -> EngineRecord | None:
        """The finished engine or a new one; None, with the reason kept, where it is too far from the reference. traced: graphs of
        this job by form, filled."""
        engine = None if self.plan.refresh else self.shop.finished(job, variant)
        if engine is None:
            # Tracing is most of a build's time: once for each graph, whatever number of backends takes it.
            form = job.form(variant.precision, variant.fused)
            if form not in traced:
                traced[form] = job.trace(variant.precision, variant.calibration or CALIBRATION_SAMPLES, variant.fused)
            try:
                engine = self.shop.make(job, variant, traced[form], self.folder / reference)
            except ParityError as error:
                self.failures.append(error)
                return None
        self.engines.append(engine)
        note = f"{engine.folder}/{ENGINE_RECORD}"
        self.files[note] = record_of(self.folder / note)
        return engine

    def _changing(self) -> None:
        """Before anything is written: the manifest of an earlier build no longer describes the folder."""
        (self.folder / MANIFEST_NAME).unlink(missing_ok=True)

    def _key(self, weights: str, **more: object) -> str:
        content = self.common | self.basis[weights] | more
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _weights(
        self,
        relative: str,
        tensors: Mapping[str, torch.Tensor],
        metadata: dict[str, str],
        sha256: str,
        more: dict[str, object],
    ) -> None:
        """The checkpoint's tensors in their own type, what NumPy has no type for widened; in half precision where no engine
        takes more."""
        halved = all(variant.precision != "fp32" for variant in self.plan.engines)
        self.basis[relative] = {"weights": sha256, "halved": halved, **more}
        path = self.folder / relative
        key = self._key(relative, part=relative, metadata=metadata)
        if parts.notes_of(path, key) is None:
            self._changing()
            path.parent.mkdir(exist_ok=True)
            stored = {name: _stored(x, halved) for name, x in tensors.items()}
            parts.write(path, stored, metadata, key)
        self.files[relative] = record_of(path)

    def _tensors(
        self, relative: str, weights: str, make: Callable[[], tuple[Mapping[str, np.ndarray], dict[str, str]]]
    ) -> dict[str, str]:
        """A small file of arrays and notes, made unless it is there from an earlier run; returns the notes."""
        path = self.folder / relative
        key = self._key(weights, part=relative)
        notes = parts.notes_of(path, key)
        if notes is None:
            arrays, notes = make()
            self._changing()
            path.parent.mkdir(exist_ok=True)
            tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
            parts.write(path, tensors, notes, key)
        self.files[relative] = record_of(path)
        return notes

    def _remove_others(self, manifest: Manifest) -> None:
        """Engines, samples and weights of an earlier build that this one does not name."""
        kept = {self.folder / path for path in manifest.all_files()}
        for pattern in ("engines/*/*", "reference/*", "weights/*", DIRECTIONS):
            for path in self.folder.glob(pattern):
                if path.is_dir() and not any(file.is_relative_to(path) for file in kept):
                    shutil.rmtree(path)
                elif path.is_file() and path not in kept:
                    path.unlink()


def _stored(tensor: torch.Tensor, halved: bool) -> torch.Tensor:
    if halved and tensor.is_floating_point() and tensor.abs().max() <= torch.finfo(torch.float16).max:
        return tensor.half()
    return tensor if tensor.dtype in _STORED_TYPES else tensor.float()


def _viewed(job: Job) -> tuple[Mapping[str, np.ndarray], dict[str, str]]:
    outputs, notes = job.sample()
    return views(outputs), notes


def _silent(what: str, done: int, total: int) -> None:
    """No progress."""
