"""Building a bundle: weights, reference samples, engines, parity, manifest, in that order and each whole or not at all.

A build that is killed goes on where it stopped: a finished part lies under its final name together with the hash of all
that it was made from, and the manifest comes last.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import math
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from pydantic import ValidationError
from safetensors import safe_open

from anycost._version import __version__
from anycost.errors import BuildError, ParityError
from anycost.export import compilers, parts
from anycost.export.reference import Reference
from anycost.export.trace import OPSET, Traced, trace_mapping, trace_synthesis
from anycost.networks.channels import Subnet, macs, parameters
from anycost.runtime import backends
from anycost.runtime.bundle import Weights
from anycost.runtime.files import record_of, write_whole
from anycost.runtime.manifest import (
    MANIFEST_NAME,
    MAPPING,
    ArchitectureRecord,
    EngineRecord,
    FileRecord,
    Manifest,
    SubnetRecord,
)
from anycost.runtime.parity import compare, views
from anycost.runtime.profile import default_threads
from anycost.runtime.verify import misfit
from anycost.weights.checkpoint import Checkpoint

WEIGHTS = "weights.safetensors"
LATENTS = "reference/latents.safetensors"
_ENGINE_RECORD = "engine.json"
_STORED_TYPES = (torch.float16, torch.float32)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """What to build. backends: names, in the order they are built. stored_noise: engines hold the stored noise."""

    name: str
    subnets: Sequence[Subnet]
    backends: Sequence[str]
    stored_noise: bool = False
    threads: int = field(default_factory=default_threads)


def build(checkpoint: Checkpoint, plan: Plan, folder: Path, progress: Progress | None = None) -> Manifest:
    """Write the bundle into ``folder``, which may not exist, be empty, or hold an earlier build of the same.

    progress(what, done, total). Raises BuildError: folder in use by something else or not writable, disk full, a failed
    parity (ParityError, with the figures; that engine is left out of the folder), a missing backend (BackendError).
    """
    for backend in plan.backends:
        backends.require(backend)
    try:
        parts.claim(folder, {MANIFEST_NAME, WEIGHTS, "engines", "reference"})
        return _Builder(checkpoint, plan, folder, progress or _silent).run()
    except OSError as error:
        raise BuildError(parts.explain(error, folder)) from None


class _Builder:
    def __init__(self, checkpoint: Checkpoint, plan: Plan, folder: Path, progress: Progress):
        self.checkpoint, self.plan, self.folder = checkpoint, plan, folder
        self.generator = checkpoint.generator()
        mean = self.generator.mean_style() if checkpoint.mean_style is None else checkpoint.mean_style
        self.reference = Reference(self.generator, mean, plan.stored_noise)
        self.total = 2 + (len(plan.subnets) + 1) * (1 + len(plan.backends))
        self.done = 0
        self._progress = progress
        # What every part depends on.
        self.basis = {
            "weights": checkpoint.sha256,
            "arch": asdict(checkpoint.arch),
            "stored_noise": plan.stored_noise,
            "anycost": __version__,
            "torch": torch.__version__,
        }

    def step(self, what: str) -> None:
        self._progress(what, self.done, self.total)
        self.done += 1

    def run(self) -> Manifest:
        parts.remove_unfinished(self.folder)
        files: dict[str, FileRecord] = {}
        self.step("weights")
        files[WEIGHTS] = self._weights()
        self.step("latents")
        files[LATENTS] = self._tensors(LATENTS, lambda: (self.reference.latents, {}))[0]
        records, engines, references = [], [], {}
        failures: list[ParityError] = []
        for net in [None, *self.plan.subnets]:
            network = net.name if net else MAPPING
            self.step(f"{network}: reference")
            path = f"reference/{network}.safetensors"
            files[path], notes = self._tensors(path, functools.partial(self._sample, net))
            references[network] = path
            if net:
                records.append(self._subnet(net, float(notes["distance"])))
            traced: Traced | None = None
            for backend in self.plan.backends:
                self.step(f"{network}: {backend}")
                engine = self._finished(network, backend, net)
                if engine is None:
                    traced = traced or self._trace(net)
                    try:
                        engine = self._engine(network, backend, net, traced, path)
                    except ParityError as error:
                        failures.append(error)
                        continue
                engines.append(engine)
            gc.collect()
        if failures:
            raise ParityError(
                f"{failures[0]}" + (f" (and {len(failures) - 1} engines more)" if len(failures) > 1 else "")
            )
        manifest = Manifest(
            name=self.plan.name,
            credit=self.checkpoint.metadata.get("credit", ""),
            source=self.checkpoint.source,
            source_sha256=self.checkpoint.sha256,
            architecture=ArchitectureRecord(**asdict(self.checkpoint.arch)),
            noise="stored" if self.plan.stored_noise else "input",
            weights=WEIGHTS,
            latents=LATENTS,
            references=references,
            subnets=tuple(records),
            engines=tuple(engines),
            files=files,
        )
        # The manifest of a larger build goes before the parts that it names and this one does not.
        write_whole(self.folder / MANIFEST_NAME, manifest.model_dump_json(indent=1).encode())
        self._remove_others(manifest)
        self._progress("", self.total, self.total)
        return manifest

    def _changing(self) -> None:
        """Before anything is written: the manifest of an earlier build no longer describes the folder."""
        (self.folder / MANIFEST_NAME).unlink(missing_ok=True)

    def _key(self, **more: object) -> str:
        return hashlib.sha256(json.dumps(self.basis | more, sort_keys=True).encode()).hexdigest()

    def _weights(self) -> FileRecord:
        """The checkpoint's tensors in their own type; what NumPy has no type for is widened."""
        path = self.folder / WEIGHTS
        key = self._key(part=WEIGHTS)
        if parts.notes_of(path, key) is None:
            self._changing()
            tensors = {
                name: tensor if tensor.dtype in _STORED_TYPES else tensor.float()
                for name, tensor in self.checkpoint.tensors.items()
            }
            parts.write(path, tensors, self.checkpoint.metadata, key)
        return record_of(path)

    def _tensors(
        self, relative: str, make: Callable[[], tuple[Mapping[str, np.ndarray], dict[str, str]]]
    ) -> tuple[FileRecord, dict[str, str]]:
        """A small file of arrays and notes, made unless it is there from an earlier run."""
        path = self.folder / relative
        key = self._key(part=relative)
        notes = parts.notes_of(path, key)
        if notes is None:
            arrays, notes = make()
            self._changing()
            path.parent.mkdir(exist_ok=True)
            tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
            parts.write(path, tensors, notes, key)
        return record_of(path), notes

    def _sample(self, net: Subnet | None) -> tuple[Mapping[str, np.ndarray], dict[str, str]]:
        if net is None:
            return views(self.reference.mapping()), {}
        return views(self.reference.synthesis(net)), {"distance": repr(round(self.reference.distance(net), 6))}

    def _subnet(self, net: Subnet, distance: float) -> SubnetRecord:
        style_dim = self.checkpoint.arch.style_dim
        return SubnetRecord(
            name=net.name,
            resolution=net.resolution,
            channels=net.channels,
            ratio=net.ratio,
            macs=macs(net, style_dim),
            parameters=parameters(net, style_dim),
            distance=distance,
        )

    def _trace(self, net: Subnet | None) -> Traced:
        state = self.generator.state_dict()
        if net is None:
            return trace_mapping(self.checkpoint.arch, state)
        return trace_synthesis(self.checkpoint.arch, net, state, self.plan.stored_noise)

    def _engine_key(self, backend: str, net: Subnet | None) -> str:
        return self._key(
            part="engine",
            backend=backend,
            version=backends.installed(backend),
            onnx=onnx.__version__,
            net=net and asdict(net),
        )

    def _versions(self, backend: str) -> dict[str, str]:
        found = {
            "anycost-runtime": __version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "opset": str(OPSET),
        }
        return found | {backend: backends.installed(backend) or ""}

    def _finished(self, network: str, backend: str, net: Subnet | None) -> EngineRecord | None:
        """The engine from an earlier run, if it is whole and was made from the same."""
        folder = self.folder / _engine_folder(network, backend)
        try:
            record = EngineRecord.model_validate_json((folder / _ENGINE_RECORD).read_bytes())
        except (OSError, ValidationError):
            return None
        same = record.key == self._engine_key(backend, net)
        whole = all(
            (folder / path).is_file() and record_of(folder / path) == file for path, file in record.files.items()
        )
        return record if same and whole else None

    def _engine(self, network: str, backend: str, net: Subnet | None, traced: Traced, reference: str) -> EngineRecord:
        """Compile into a hidden folder, load it as the runtime will, compare, and only then give it its name."""
        final = self.folder / _engine_folder(network, backend)
        hidden = final.with_name(f".{final.name}.part")
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
        weights = Weights(self.folder / WEIGHTS)
        try:
            compilers.write(backend, traced, hidden)
            output = self._run(backend, hidden, weights, net)
            with safe_open(self.folder / reference, framework="numpy") as file:
                expected = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            parity = compare(views(output), expected)
            problem = misfit(parity)
            if problem:
                raise ParityError(f"engine {network}/{backend} failed its parity check: {problem}; it was not kept")
            record = EngineRecord(
                network=network,
                backend=backend,
                target=f"cpu-{platform.machine().lower()}",
                precision="fp32",
                folder=_engine_folder(network, backend),
                key=self._engine_key(backend, net),
                versions=self._versions(backend),
                files={path.name: record_of(path) for path in sorted(hidden.iterdir())},
                weights_bytes=sum(4 * math.prod(binding.shape) for binding in traced.bindings.values()),
                parity=parity,
            )
            write_whole(hidden / _ENGINE_RECORD, record.model_dump_json(indent=1).encode())
            self._changing()
            shutil.rmtree(final, ignore_errors=True)
            os.replace(hidden, final)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        return record

    def _run(self, backend: str, folder: Path, weights: Weights, net: Subnet | None) -> np.ndarray:
        """The engine's output for the reference samples, one at a time as on a device."""
        engine = backends.load(backend, folder, weights.bind, self.plan.threads)
        stored = self.reference.latents
        if net is None:
            return engine.run({"z": stored["z"]})
        noise = [] if self.plan.stored_noise else self.reference.noise(net)
        outputs = []
        for i in range(len(stored["w_plus"])):
            inputs = {"w_plus": stored["w_plus"][i : i + 1]}
            inputs |= {f"noise_{k}": np.ascontiguousarray(layer[i : i + 1]) for k, layer in enumerate(noise)}
            outputs.append(engine.run(inputs))
        return np.concatenate(outputs)

    def _remove_others(self, manifest: Manifest) -> None:
        """Engines and samples of an earlier build that this one does not name."""
        kept = {self.folder / path for path in manifest.all_files()}
        for path in [*self.folder.glob("engines/*/*"), *self.folder.glob("reference/*")]:
            if path.is_dir() and not any(file.is_relative_to(path) for file in kept):
                shutil.rmtree(path)
            elif path.is_file() and path not in kept:
                path.unlink()


def _silent(what: str, done: int, total: int) -> None:
    """No progress."""


def _engine_folder(network: str, backend: str) -> str:
    return f"engines/{network}/{backend}-fp32"
