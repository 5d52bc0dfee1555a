"""Measuring a bundle: shards of images by a pool of processes, then the figures of all of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from anycost.benchmarks.quality import networks, reduce, shards
from anycost.benchmarks.quality.consistency import consistency
from anycost.benchmarks.quality.data import Pictures
from anycost.benchmarks.quality.features import AVATAR_DATA, AvatarFeatures, Extractor, embedded_data
from anycost.benchmarks.quality.frechet import Gaussian, gaussian
from anycost.benchmarks.quality.pools import LocalPool, Pool
from anycost.benchmarks.quality.sources import Source
from anycost.benchmarks.quality.tools import Tools, embedded, with_files
from anycost.errors import InputError
from anycost.runtime.bundle import Bundle
from anycost.runtime.files import record_of
from anycost.runtime.latents import LARGEST_SEED, check_psi
from anycost.runtime.manifest import SubnetRecord
from anycost.runtime.pipelines.translate import STYLED
from anycost.runtime.profile import cache_folder, runnable_engines
from anycost.runtime.quality import EngineQuality, NetworkQuality, Quality, SubnetQuality
from anycost.weights import catalogue

Array = np.ndarray
Steps = Callable[[str, int, int], None]
_OF_ENGINES = ("features", "own", "full")
# Below, to start processes takes longer than the work.
_WORTH_PROCESSES = 1 << 17
EMBEDDED_DATA = "held-out pictures of the embedded model's recipe"


@dataclass(frozen=True)
class Settings:
    """images, first_seed, psi: the images are of seeds first_seed .. first_seed + images - 1 at this truncation.

    data: pictures for fd_data, and for the networks beside the generator. target: those that translators translate to.
    path_pairs: pairs of a path length, 0 for none. engines, others: measure the engines, and the other networks. stand_in:
    where there is no data, the full network's images of the next seeds take its place. work: where shards are kept; by
    default in the user's cache until the measurement is finished. shard: images of a shard. rounds: of the bootstrap.
    """

    images: int = 2000
    first_seed: int = 0
    psi: float = 1.0
    tools: Tools = field(default_factory=Tools)
    data: Path | None = None
    target: Path | None = None
    path_pairs: int = 500
    engines: bool = True
    others: bool = True
    stand_in: bool = False
    work: Path | None = None
    shard: int | None = None
    rounds: int | None = None

    def __post_init__(self) -> None:
        check_psi(self.psi)
        if not 2 <= self.images <= 1_000_000:
            raise InputError(f"images {self.images} is outside 2..1000000: 2000 are usual here, 50000 in papers")
        if not 0 <= self.first_seed <= LARGEST_SEED - 2 * self.images:
            raise InputError(f"first seed {self.first_seed} is not a whole number from 0 to {LARGEST_SEED}")


def measure(bundle: Bundle, settings: Settings, pool: Pool | None = None, progress: Steps | None = None) -> Quality:
    """Of every sub-network's reference, every engine that runs here and the other networks that there is a measure for.

    progress(what, done, total). Raises InputError where there is nothing to measure, and what else cannot be used.
    """
    return _Measurement(bundle, settings, pool or LocalPool(1), progress or (lambda what, done, total: None)).quality()


def work_folder(bundle: Bundle, settings: Settings) -> Path:
    """Where finished parts are kept: the folder that was given, else one of the cache for exactly these settings."""
    if settings.work is not None:
        return settings.work
    tools = with_files(settings.tools, bundle).described()
    own = [bundle.manifest_sha256, tools, settings.images, settings.first_seed, settings.psi]
    own += [settings.engines, settings.stand_in, settings.shard, settings.path_pairs, str(settings.data)]
    return cache_folder() / "quality" / hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:32]


class _Measurement:
    def __init__(self, bundle: Bundle, settings: Settings, pool: Pool, progress: Steps):
        self.bundle, self.settings, self.pool, self._progress = bundle, settings, pool, progress
        self.tools = with_files(settings.tools, bundle)
        self.pictures = Pictures.open(settings.data) if settings.data else None
        self.others = networks.measured(bundle) if settings.others else []
        # Opened here, so that a wrong folder is not found out after an hour.
        self.target = Pictures.open(settings.target) if settings.target else None
        if self.target and not any(record.kind == STYLED for record in self.others):
            raise InputError(
                f"{bundle.folder} holds no translator in many styles: pictures to translate to mean nothing"
            )
        self.subnets = [net.name for net in bundle.manifest.generator.subnets] if bundle.manifest.generator else []
        self.engines = runnable_engines(bundle) if self.subnets and settings.engines else []
        self.done, self.total = 0, len(self.subnets) + len(self.others)

    def quality(self) -> Quality:
        if not self.subnets and not self.others:
            held = ", ".join(record.kind for record in self.bundle.manifest.networks)
            raise InputError(f"{self.bundle.folder} holds nothing that there is a measure for: it has {held}")
        data, text, count = self._data()
        subnets, engines = self._generator(data) if self.subnets else ({}, {})
        if self.settings.stand_in and self.subnets and data is None:
            text, count = self._stand_in_text(), self.settings.images
        others = self._networks()
        if not subnets and not others:
            raise InputError(
                f"{self.bundle.folder} has no generator to make pictures with: give some with --data FOLDER"
            )
        quality = Quality(
            images=self.settings.images,
            first_seed=self.settings.first_seed,
            psi=self.settings.psi,
            measure=self.extract.measure if subnets or "extract" in self.__dict__ else "",
            distance=self.tools.distance().name,
            data=text,
            data_count=count,
            source_sha256=self.bundle.source_sha256,
            subnets=subnets,
            engines=engines,
            networks=others,
        )
        if self.settings.work is None:
            shutil.rmtree(self.work, ignore_errors=True)
        self._progress("", self.total, self.total)
        return quality

    @cached_property
    def extract(self) -> Extractor:
        return self.tools.extractor()

    @cached_property
    def work(self) -> Path:
        return work_folder(self.bundle, self.settings)

    def step(self, what: str) -> None:
        self.done += 1
        self._progress(what, self.done, self.total)

    def _data(self) -> tuple[Gaussian | None, str, int]:
        """What fd_data is to, in words, and of how many pictures."""
        if not self.subnets:
            return None, "", 0
        if self.pictures:
            self._progress(f"features of {len(self.pictures)} pictures", 0, self.total)
            found = gaussian(self.pictures.features(self.extract, self.work))
            return found, str(self.settings.data), found.count
        if self.bundle.source_sha256 != _embedded_generator() or not isinstance(self.extract, AvatarFeatures):
            return None, "", 0
        # Only the embedded network's features of them are kept.
        if self.settings.tools.features or not embedded(AVATAR_DATA):
            return None, "", 0
        found = gaussian(embedded_data(self.extract))
        return found, EMBEDDED_DATA, found.count

    def _stand_in_text(self) -> str:
        first = self.settings.first_seed + self.settings.images
        last = first + self.settings.images - 1
        return f"the full network's images of seeds {first} to {last}, which stand in for data"

    def _generator(self, data: Gaussian | None) -> tuple[dict[str, SubnetQuality], dict[str, EngineQuality]]:
        chosen, threads = self.settings, self.pool.threads
        seeds = range(chosen.first_seed, chosen.first_seed + chosen.images)

        def tasks(seeds: range, subnets: Sequence[str], engines: Sequence[str]) -> list[shards.Task]:
            return shards.tasks(
                self.bundle,
                self.tools,
                seeds,
                psi=chosen.psi,
                subnets=subnets,
                engines=engines,
                threads=threads,
                size=chosen.shard,
            )

        own = tasks(seeds, self.subnets, self.engines)
        beside = (
            tasks(range(seeds.stop, seeds.stop + chosen.images), (), ()) if chosen.stand_in and data is None else []
        )
        basis = own[0].basis
        paths = [
            shards.PathTask(own[0].bundle, basis, self.tools, name, chosen.path_pairs, threads)
            for name in (self.subnets if chosen.path_pairs else ())
        ]
        wanted: list[shards.Task | shards.PathTask] = [*own, *beside, *paths]
        self.total += len(wanted)
        found = shards.run(wanted, self.work, self.pool, self._progress, self.total)
        self.done = len(wanted)
        images, standing, lengths = found[: len(own)], found[len(own) : len(own) + len(beside)], found[-len(paths) :]
        if standing:
            data = gaussian(shards.joined(standing, f"{shards.reference(shards.FULL)}|features"))
        ppl = {task.subnet: float(found["ppl"]) for task, found in zip(paths, lengths, strict=True)} if paths else {}
        return self._reduced(images, data, ppl)

    def _reduced(
        self, images: Sequence[dict[str, Array]], data: Gaussian | None, ppl: Mapping[str, float]
    ) -> tuple[dict[str, SubnetQuality], dict[str, EngineQuality]]:
        full = shards.joined(images, f"{shards.reference(shards.FULL)}|features")

        def group(record: SubnetRecord) -> reduce.Group:
            subject = shards.reference(record.name)
            held = [one for one in self.bundle.engines(record.name) if one.name in self.engines]
            return reduce.Group(
                subnet=record.name,
                channels=record.channels,
                features=shards.joined(images, f"{subject}|features"),
                full=shards.joined(images, f"{subject}|full"),
                full_features=full,
                data=data,
                engines={
                    one.name: reduce.EngineImages(
                        one.key, *(shards.joined(images, f"{shards.engine(one.name)}|{what}") for what in _OF_ENGINES)
                    )
                    for one in held
                },
                ppl=ppl.get(record.name),
                consistency=self._consistency(images, subject),
                rounds=self.settings.rounds,
            )

        groups = [group(record) for record in self.bundle.generator.subnets]
        pool = self.pool if full.size >= _WORTH_PROCESSES else LocalPool(1)
        subnets: dict[str, SubnetQuality] = {}
        engines: dict[str, EngineQuality] = {}
        self._progress(str(groups[0]), self.done, self.total)
        with closing(pool.run(reduce.figures, groups)) as results:
            for one, (subnet, own) in results:
                subnets[one.subnet] = subnet
                engines |= own
                self.step(f"{one} done")
        return {name: subnets[name] for name in self.subnets}, {name: engines[name] for name in self.engines}

    def _consistency(self, images: Sequence[dict[str, Array]], subject: str) -> float | None:
        if self.tools.predictor is None:
            return None
        before = shards.joined(images, f"{shards.reference(shards.FULL)}|logits")
        return consistency(before, shards.joined(images, f"{subject}|logits")).share

    def _networks(self) -> dict[str, NetworkQuality]:
        if not self.others:
            return {}
        source = Source(self.bundle) if self.subnets else None
        target = None
        if self.target:
            target = gaussian(self.target.features(self.extract, self.work))
        inputs = networks.Inputs(self.pictures, source, self.settings.first_seed, target)
        found: dict[str, NetworkQuality] = {}
        for record in self.others:
            self._progress(record.name, self.done, self.total)
            figures = networks.figures(self.bundle, record, inputs, self.tools, lambda: self.extract, self.pool.threads)
            found |= {record.name: figures} if figures else {}
            self.step(f"{record.name} done")
        return found


def _embedded_generator() -> str:
    """sha256 of the embedded generator's file."""
    return record_of(catalogue.resolve(catalogue.EMBEDDED[0])).sha256
