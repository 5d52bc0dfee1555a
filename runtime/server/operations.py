"""What a worker can do, with plain values and arrays on both sides. Runs in the worker's process, one call at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anycost.errors import AnycostError, InputError
from anycost.runtime import latents as latent
from anycost.runtime.manifest import MAPPING
from anycost.runtime.networks import LoadedNetwork
from anycost.runtime.pipelines.encode import encode
from anycost.runtime.runtime import Runtime
from anycost.runtime.segments import ReachedStore, steps

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Task:
    """The part of a job that travels: arguments as plain values, arrays by name."""

    arguments: Mapping[str, Any]
    arrays: Mapping[str, Array]


@dataclass(frozen=True)
class Outcome:
    """What became of one task: its arrays and the engine that made them, or the error in words.

    elapsed_ms: of the engine's call with all tasks that shared it, without loading the engine. loaded: whether the time is no
    measure of the engine: something had to be loaded for it, or a part of it had been computed before.
    """

    arrays: Mapping[str, Array] = field(default_factory=dict)
    engine: str = ""
    elapsed_ms: float = 0.0
    loaded: bool = False
    error: str = ""


class Operations:
    """Over one runtime. ``run`` never raises what a user caused: each task has its own outcome."""

    def __init__(self, runtime: Runtime):
        self.runtime = runtime
        self._directions: Any = None
        self._known: set[str] = set()
        self._reached = ReachedStore()
        self._operations: dict[str, Callable[[Mapping[str, Any], Sequence[Task]], list[Outcome]]] = {
            "pictures": self._pictures,
            "encode": self._encode,
            "inpaint": self._inpaint,
            "translate": self._translate,
            "infer": self._infer,
        }

    def run(self, operation: str, how: Mapping[str, Any], tasks: Sequence[Task]) -> list[Outcome]:
        """how: ``subnet`` and ``variant`` of the engine and the most rows (``chunk``) of one call for pictures, and whether by
        ``segments``, from what the same codes came to; ``model`` for a network beside the generator. Where a call of several
        tasks fails, each is tried alone."""
        try:
            return self._operations[operation](how, tasks)
        except AnycostError as error:
            if len(tasks) == 1:
                return [Outcome(error=str(error))]
        return [self.run(operation, how, [task])[0] for task in tasks]

    def load(self, subnet: str, variant: str) -> bool:
        """Load an engine and run it once. Returns whether it was not loaded before."""
        name = f"{subnet}/{variant}"
        if name in self._known and self.runtime.holds(subnet, variant):
            return False
        session = self.runtime.session(subnet, variant)
        session.image(np.zeros((1, self.runtime.bundle.generator.architecture.style_dim), np.float32))
        self._known.add(name)
        return True

    def load_segments(self, subnet: str, variant: str) -> None:
        """Open the engines of a chain, and run each once."""
        mean = latent.mix(self.runtime.mean_style(), self.runtime.bundle.generator.architecture.n_style)
        for reached in steps(self.runtime, mean, subnet, variant, segments=True):
            self._known.add(_by_segments(reached.subnet, variant))

    def _pictures(self, how: Mapping[str, Any], tasks: Sequence[Task]) -> list[Outcome]:
        """Seeds or codes, edited or not -> uint8 [N, R, R, 3] each, all of them in calls of ``chunk`` rows."""
        subnet, variant, chunk = how["subnet"], how["variant"], int(how["chunk"])
        if how.get("segments"):
            return [self._by_segments(subnet, variant, task) for task in tasks]
        loaded = self.load(subnet, variant)
        session = self.runtime.session(subnet, variant)
        started = time.perf_counter()
        codes = [self._codes(task, lambda z: session.mapping.run({"z": z})["w"]) for task in tasks]
        w_plus = np.concatenate(codes)
        noise = self._noise(tasks, [len(rows) for rows in codes], session.subnet.resolution)
        made = []
        for start in range(0, len(w_plus), chunk):
            part = slice(start, start + chunk)
            layers = None if noise is None else [x if len(x) == 1 else x[part] for x in noise]
            made.append(latent.as_images(session.synthesize(w_plus[part], layers)))
        images = np.concatenate(made)
        elapsed = (time.perf_counter() - started) * 1e3
        ends = np.cumsum([len(rows) for rows in codes])[:-1]
        return [Outcome({"images": x}, f"{subnet}/{variant}", elapsed, loaded) for x in np.split(images, ends)]

    def _by_segments(self, subnet: str, variant: str, task: Task) -> Outcome:
        """One sub-network's pictures, with stored noise. What they are made of is kept for the segments behind."""
        name = _by_segments(subnet, variant)
        loaded = name not in self._known
        started = time.perf_counter()
        codes = self._codes(task, lambda z: self.runtime.mapping(z, backend=variant))
        start = self._reached.of(codes, variant)
        *_, reached = steps(self.runtime, codes, subnet, variant, start=start, segments=True)
        self._reached.keep(reached)
        self._known.add(name)
        elapsed = (time.perf_counter() - started) * 1e3
        images = latent.as_images(reached.image)
        return Outcome({"images": images}, reached.engine, elapsed, loaded or start is not None)

    def _codes(self, task: Task, mapping: Callable[[Array], Array]) -> Array:
        """w+ [N, n_style, style_dim] of a task: its seeds through the mapping, or its codes; truncated, then edited."""
        architecture = self.runtime.bundle.generator.architecture
        psi = latent.check_psi(float(task.arguments.get("psi", 1.0)))
        if "w_plus" in task.arrays:
            w = _codes_given(task.arrays["w_plus"], architecture.n_style, architecture.style_dim)
        else:
            seeds = latent.check_seeds(task.arguments["seeds"])
            w = mapping(latent.latents(seeds, architecture.style_dim))
        if psi != 1:
            w = latent.truncate(w, self.runtime.mean_style(), psi)
        codes = latent.mix(w, architecture.n_style)
        values = task.arguments.get("values")
        if not values:
            return codes
        if self._directions is None:
            self._directions = self.runtime.directions()
        return self.runtime.edit(codes, values, directions=self._directions)

    def _noise(self, tasks: Sequence[Task], rows: Sequence[int], resolution: int) -> list[Array] | None:
        """The layers for all tasks, whose kind of noise is the same; None for the stored one."""
        kind = tasks[0].arguments.get("noise", "stored")
        if kind == "stored":
            return None
        if self.runtime.bundle.generator.noise == "stored":
            raise InputError("this bundle was built with stored noise: leave noise out")
        if kind == "none":
            return [np.zeros((1, 1, side, side), np.float32) for side in latent.noise_sides(resolution)]
        if kind != "random":
            raise InputError(f"noise {kind!r} is not stored, random or none")
        drawn = [
            latent.random_noise(latent.check_seeds([task.arguments.get("noise_seed", 0)])[0], count, resolution)
            for task, count in zip(tasks, rows, strict=True)
        ]
        return [np.concatenate(layers) for layers in zip(*drawn, strict=True)]

    def _encode(self, how: Mapping[str, Any], tasks: Sequence[Task]) -> list[Outcome]:
        """image uint8 [H, W, 3] -> w_plus float32 [1, n_style, style_dim]."""
        network = self.runtime.network("encoder", how.get("model"))
        fit = tasks[0].arguments.get("fit", "crop")
        images = [task.arrays["image"] for task in tasks]
        codes, name, elapsed, loaded = self._timed(network, "", lambda: encode(network, images, fit))
        return [Outcome({"w_plus": codes[i : i + 1]}, name, elapsed, loaded) for i in range(len(tasks))]

    def _inpaint(self, how: Mapping[str, Any], tasks: Sequence[Task]) -> list[Outcome]:
        """image uint8 [H, W, 3], mask bool [H, W] or as text -> image uint8 [H, W, 3]."""
        from anycost.runtime.pipelines.inpaint import ANYWHERE, CENTRAL

        network = self.runtime.one_of((ANYWHERE, CENTRAL), how.get("model"))
        found = []
        for task in tasks:
            mask = task.arrays["mask"] if "mask" in task.arrays else task.arguments["mask"]
            made, name, elapsed, loaded = self._timed(
                network,
                "",
                lambda task=task, mask=mask: self.runtime.inpaint(  # type: ignore[misc]
                    task.arrays["image"], mask, seed=task.arguments.get("seed", 0), name=network.record.name
                ),
            )
            found.append(Outcome({"image": made}, name, elapsed, loaded))
        return found

    def _translate(self, how: Mapping[str, Any], tasks: Sequence[Task]) -> list[Outcome]:
        """image uint8 [H, W, 3], seeds of styles or none -> images uint8 [K, S, S, 3]."""
        from anycost.runtime.pipelines.translate import KINDS, STYLED

        network = self.runtime.one_of(KINDS, how.get("model"))
        last = "decode" if network.record.kind == STYLED else ""
        found = []
        for task in tasks:
            made, name, elapsed, loaded = self._timed(
                network,
                last,
                lambda task=task: self.runtime.translate(  # type: ignore[misc]
                    task.arrays["image"],
                    seeds=task.arguments.get("seeds"),
                    fit=task.arguments.get("fit", "crop"),
                    name=network.record.name,
                ),
            )
            found.append(Outcome({"images": made}, name, elapsed, loaded))
        return found

    def _infer(self, how: Mapping[str, Any], tasks: Sequence[Task]) -> list[Outcome]:
        """Raw tensors of a model by name: ``mapping``, a sub-network (w_plus -> image) or a part."""
        model = str(how["model"])
        names = list(tasks[0].arrays)
        joined = {name: np.concatenate([task.arrays[name] for task in tasks]) for name in names}
        part = self.runtime.bundle.part(model)
        if part is not None:
            record, short = part
            network = self.runtime.network(record.kind, record.name)
            outputs, name, elapsed, loaded = self._timed(network, short, lambda: network.run(short, joined))
        else:
            outputs, name, elapsed, loaded = self._generator_part(model, str(how["variant"]), joined)
        ends = np.cumsum([len(next(iter(task.arrays.values()))) for task in tasks])[:-1]
        split = {key: np.split(value, ends) for key, value in outputs.items()}
        return [
            Outcome({key: rows[i] for key, rows in split.items()}, name, elapsed, loaded) for i in range(len(tasks))
        ]

    def _generator_part(
        self, model: str, variant: str, given: Mapping[str, Array]
    ) -> tuple[dict[str, Array], str, float, bool]:
        architecture = self.runtime.bundle.generator.architecture
        name = f"{model}/{variant}"
        if model == MAPPING:
            loaded = name not in self._known
            started = time.perf_counter()
            outputs = {"w": self.runtime.mapping(given["z"], backend=variant)}
            self._known.add(name)
        else:
            loaded = self.load(model, variant)
            codes = _codes_given(given["w_plus"], architecture.n_style, architecture.style_dim)
            session = self.runtime.session(model, variant)
            started = time.perf_counter()
            outputs = {"image": session.synthesize(codes, None)}
        return outputs, name, (time.perf_counter() - started) * 1e3, loaded

    def _timed(self, network: LoadedNetwork, part: str, call: Callable[[], Any]) -> tuple[Any, str, float, bool]:
        """The result of a call, the engine of the part, milliseconds, and whether it was the engine's first call."""
        name = network.chosen(network.record.part(part).name).name
        loaded = name not in self._known
        started = time.perf_counter()
        made = call()
        self._known.add(name)
        return made, name, (time.perf_counter() - started) * 1e3, loaded


def _by_segments(subnet: str, variant: str) -> str:
    return f"{subnet}/{variant} by segments"


def _codes_given(codes: Array, n_style: int, style_dim: int) -> Array:
    if codes.ndim != 3 or codes.shape[1:] != (n_style, style_dim) or not len(codes) or codes.dtype.kind != "f":
        raise InputError(f"w_plus of shape {list(codes.shape)} is not float [N, {n_style}, {style_dim}]")
    if not np.isfinite(codes).all():
        raise InputError("w_plus holds a NaN or an infinity")
    return np.ascontiguousarray(codes, dtype=np.float32)
