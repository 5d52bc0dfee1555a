"""A bundle as a model repository of Triton Inference Server: every graph with its weights, and ensembles from codes to pictures.

Nothing here needs PyTorch. The repository appears under its name when it is whole.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anycost._version import __version__
from anycost.editing.directions import load as load_directions
from anycost.errors import BuildError
from anycost.export import triton_graphs as graphs
from anycost.export import triton_plan
from anycost.export.appearing import appearing
from anycost.export.triton_configs import Place, Port, Serving, Step, ensemble, model, safe_name, schema, text
from anycost.export.triton_variants import TritonVariant, triton_variants
from anycost.runtime.bundle import Bundle
from anycost.runtime.manifest import MAPPING

INDEX_NAME = "anycost.json"
_FORMAT = "anycost-triton"
LARGEST_BATCH, LARGEST_DELAY_US, MOST_INSTANCES = 256, 10_000_000, 64
Progress = Callable[[str, int, int], None]
Ports = Mapping[str, Port]


@dataclass(frozen=True)
class Entry:
    """One model of the repository. kind: ``engine``, ``step`` or ``ensemble``. network: of the bundle, empty for a step. engine:
    whose graph it is."""

    name: str
    kind: str
    network: str = ""
    engine: str = ""
    backend: str = ""


@dataclass
class Repository:
    """What was written, and what was not and why."""

    folder: Path
    models: list[Entry] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def export(
    bundle: Bundle,
    folder: Path,
    serving: Serving | None = None,
    *,
    segments: bool = False,
    progress: Progress | None = None,
) -> Repository:
    """Write the repository into ``folder``, which may not exist, be empty, or hold an earlier one, which is replaced.

    segments: also the engines of segments, which a client has to call one after the other. progress(what, done, total).
    Raises BuildError: a number out of range, a folder in use by something else, a full disk, no engine that is a graph;
    BackendError without the package tritonclient.
    """
    serving = serving or Serving()
    for name, value, least, most in (
        ("max-batch", serving.max_batch, 1, LARGEST_BATCH),
        ("delay-us", serving.delay_us, 0, LARGEST_DELAY_US),
        ("instances", serving.instances, 1, MOST_INSTANCES),
    ):
        if not least <= value <= most:
            raise BuildError(f"{name} {value} is outside {least}..{most}")
    schema()
    _check(folder)
    try:
        with appearing(folder) as hidden:
            found = _Exporter(bundle, hidden, serving, segments, progress or _silent).run()
    except OSError as error:
        reason = "its disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise BuildError(f"{folder} could not be written: {reason}; nothing was kept") from None
    return replace(found, folder=folder)


class _Exporter:
    def __init__(self, bundle: Bundle, folder: Path, serving: Serving, segments: bool, progress: Progress):
        self.bundle, self.folder, self.serving, self.segments = bundle, folder, serving, segments
        self.found = Repository(folder)
        self._progress = progress
        self._names: set[str] = set()
        # By network: its ways to run, and the model of the first, which is what ensembles take.
        self._variants: dict[str, list[TritonVariant]] = {}
        self._models: dict[str, str] = {}

    def run(self) -> Repository:
        no_plans = triton_plan.hindrance()
        for network in self._networks():
            if found := triton_variants(self.bundle.engines(network), not no_plans):
                self._variants[network] = found
        if not self._variants:
            backends = ", ".join(sorted({engine.backend for engine in self.bundle.manifest.engines}))
            raise BuildError(
                f"{self.bundle.folder} has no engine of ONNX Runtime, which is what Triton runs (it has {backends}): "
                "build it again with --backend onnxruntime as well"
            )
        self._explain(no_plans)
        todo = [(network, i, way) for network, ways in self._variants.items() for i, way in enumerate(ways)]
        for done, (network, i, variant) in enumerate(todo):
            self._progress(f"{network}: {variant.label}", done, len(todo))
            name = self._name(network if i == 0 else f"{network}_{variant.label}")
            self._models.setdefault(network, name)
            self._engine(name, variant)
        if self.bundle.manifest.generator:
            self._ensembles()
        self._index()
        self._progress("", len(todo), len(todo))
        return self.found

    def _networks(self) -> list[str]:
        networks = list(dict.fromkeys(engine.network for engine in self.bundle.manifest.engines))
        kept = [name for name in networks if self.segments or not self.bundle.segment(name)]
        if len(kept) < len(networks):
            count = len(networks) - len(kept)
            self._leave_out(f"{count} segments, since an ensemble answers once: --segments writes them as models")
        return kept

    def _explain(self, no_plans: str) -> None:
        """What of the bundle is not in the repository as it was built."""
        engines = self.bundle.manifest.engines
        for backend, why in (
            ("openvino", "the same networks run as ONNX"),
            ("cuda", "its programs are run by this package alone"),
        ):
            if any(engine.backend == backend for engine in engines):
                self._leave_out(f"engines of {backend}: {why}")
        if any(engine.fused for engine in engines):
            self._leave_out("fused engines: their plugins are this package's")
        if any(variant.place.accelerator for found in self._variants.values() for variant in found):
            why = no_plans or "they need engines of tensorrt, and ONNX of the same precision"
            self._leave_out(f"TensorRT plans ({why}): ONNX Runtime's TensorRT provider compiles in the server instead")
        lost = sorted({e.network for e in engines if not self.bundle.segment(e.network)} - set(self._variants))
        if lost:
            self._leave_out(f"{', '.join(lost)}: the bundle has no ONNX of them; build with --backend onnxruntime")

    def _engine(self, name: str, variant: TritonVariant) -> None:
        engine, serving = variant.engine, self.serving
        content = graphs.self_contained(self.bundle, variant.source, variant.place.kind == "cpu")
        if variant.place.plan:
            most = _most_batch(variant, serving.max_batch)
            serving = replace(serving, max_batch=most)
            # Triton may send any batch from 1 on.
            usual = min(engine.batch[1], most) if engine.batch else 1
            content = triton_plan.here(content, (1, usual, most))
        noise = graphs.noise_inputs(self.bundle, engine)
        inputs = {port: _float(*dims) for port, dims in engine.inputs.items() if port not in noise}
        outputs = {port: _float(*dims) for port, dims in engine.outputs.items()}
        notes = {"anycost_engine": variant.source.name}
        config = model(name, inputs, outputs, serving, variant.place, notes=notes)
        self._write(config, content, Entry(name, "engine", engine.network, variant.source.name, config.backend))

    def _ensembles(self) -> None:
        """For every sub-network: from z, and from w+ with sliders, to an image and a picture."""
        bundle, generator = self.bundle, self.bundle.generator
        arch = generator.architecture
        nets = [net for net in generator.subnets if net.name in self._models]
        if not nets:
            return
        codes = _float(arch.n_style, arch.style_dim)
        gpu = any(self._variants[net.name][0].place.kind == "gpu" for net in nets)
        pictures = self._step(
            "pictures",
            graphs.pictures(),
            {"image": _float(3, -1, -1)},
            {"picture": ("UINT8", (-1, -1, 3)), "unchanged": _float(3, -1, -1)},
            Place("gpu" if gpu else "cpu"),
        )
        # Name of the ensembles, what they take, the networks they need, and the steps before a sub-network with what they give.
        ways: list[tuple[str, Ports, list[str], list[Step], str, dict[str, str]]] = []
        if MAPPING in self._models:
            mean = bundle.tensors(generator.latents)["mean_style"]
            vector = {"w": _float(arch.style_dim), "psi": _float(1)}
            styles = self._step("styles", graphs.styles(arch.n_style, mean), vector, {"w_plus": codes})
            steps = [
                Step(self._models[MAPPING], {"z": "z"}, {"w": "w"}),
                Step(styles, {"w": "w", "psi": "psi"}, {"w_plus": "w_plus"}),
            ]
            takes: Ports = {"z": _float(arch.style_dim), "psi": _float(1)}
            ways.append(("generate", takes, [MAPPING], steps, "w_plus", {}))
        if generator.directions is None:
            self._leave_out("ensembles for edits: the bundle holds no directions; build it with --directions FILE")
        else:
            directions = load_directions(bundle.path(generator.directions))
            notes = {"directions": json.dumps(list(directions.names), ensure_ascii=False)}
            takes = {"w_plus": codes, "values": _float(len(directions.names))}
            content = graphs.sliders(arch.n_style, directions)
            sliders = self._step("sliders", content, takes, {"edited": codes}, notes=notes)
            steps = [Step(sliders, {"w_plus": "w_plus", "values": "values"}, {"edited": "edited"})]
            ways.append(("edit", takes, [], steps, "edited", notes))
        for net in nets:
            side = net.resolution
            gives: dict[str, Port] = {"image": _float(3, side, side), "picture": ("UINT8", (side, side, 3))}
            for word, takes, needed, steps, last, notes in ways:
                ends = [
                    Step(self._models[net.name], {"w_plus": last}, {"image": "made"}),
                    Step(pictures, {"image": "made"}, {"picture": "picture", "unchanged": "image"}),
                ]
                most = min(_most_batch(self._variants[name][0], self.serving.max_batch) for name in (*needed, net.name))
                name = self._name(f"{word}_{net.name}")
                config = ensemble(name, takes, gives, most, steps + ends, {"anycost_subnet": net.name, **notes})
                self._write(config, None, Entry(name, "ensemble", net.name))

    def _step(
        self,
        wanted: str,
        content: bytes,
        inputs: Ports,
        outputs: Ports,
        place: Place | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> str:
        """A small graph between two networks. -> its model's name."""
        name = self._name(wanted)
        serving = replace(self.serving, instances=1)
        config = model(name, inputs, outputs, serving, place or Place(), notes=notes, waits=False)
        self._write(config, content, Entry(name, "step", backend=config.backend))
        return name

    def _name(self, wanted: str) -> str:
        """A safe name that no other model has, on a file system without capitals either."""
        safe = safe_name(wanted)
        numbered = (safe if i == 1 else f"{safe}_{i}" for i in range(1, len(self._names) + 2))
        name = next(name for name in numbered if name.lower() not in self._names)
        self._names.add(name.lower())
        return name

    def _write(self, config: Any, content: bytes | None, entry: Entry) -> None:
        version = self.folder / entry.name / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(text(config), encoding="utf-8")
        if content is None:
            # Triton wants a folder for every version, and object stores and archives keep no empty one.
            (version / "ensemble.txt").write_text("The steps are in config.pbtxt.\n", encoding="utf-8")
        else:
            (version / config.default_model_filename).write_bytes(content)
        self.found.models.append(entry)

    def _leave_out(self, line: str) -> None:
        self.found.left_out.append(line)

    def _index(self) -> None:
        """Which model is what of the bundle. Triton reads folders alone."""
        models = {}
        for entry in self.found.models:
            models[entry.name] = {key: value for key, value in vars(entry).items() if value and key != "name"}
        index = {
            "format": _FORMAT,
            "anycost-runtime": __version__,
            "bundle": self.bundle.manifest.name,
            "manifest_sha256": self.bundle.manifest_sha256,
            "models": models,
            "left_out": self.found.left_out,
        }
        (self.folder / INDEX_NAME).write_text(json.dumps(index, indent=1, ensure_ascii=False), encoding="utf-8")


def _float(*dims: int) -> Port:
    return "FP32", dims


def _most_batch(variant: TritonVariant, wanted: int) -> int:
    """The most images of one call: a plan's profile ends somewhere."""
    return min(wanted, variant.engine.batch[2]) if variant.place.plan and variant.engine.batch else wanted


def _silent(what: str, done: int, total: int) -> None:
    """No progress."""


def _check(folder: Path) -> None:
    """Raises BuildError for a folder that holds anything else than a repository of ours."""
    if folder.exists() and not folder.is_dir():
        raise BuildError(f"{folder} is a file: give a new folder for the repository")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        ours = json.loads((folder / INDEX_NAME).read_bytes()).get("format") == _FORMAT
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        first = sorted(path.name for path in folder.iterdir())[0]
        raise BuildError(f"{folder} holds {first} and is no repository of this program: give a new or empty folder")
