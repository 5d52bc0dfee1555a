"""The work of a measurement in pieces that any process can do, each a file that is kept: a run that is stopped goes on.

A shard is a range of seeds. For every subject, which is a sub-network's reference or an engine, it holds the features of the
images and how far each image is from its references. What it holds depends on the bundle, the tools and the seeds alone, and
so the figures do not depend on who did what.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from anycost._version import __version__
from anycost.benchmarks.quality.features import AvatarFeatures, Extractor
from anycost.benchmarks.quality.kept import read_arrays
from anycost.benchmarks.quality.pairs import HIGHEST_PSNR_DB, Distance, pairwise
from anycost.benchmarks.quality.path_length import path_length, squared
from anycost.benchmarks.quality.pools import Pool
from anycost.benchmarks.quality.sources import Source
from anycost.benchmarks.quality.tools import Tools
from anycost.errors import InputError
from anycost.runtime.bundle import Bundle, read_manifest
from anycost.runtime.files import write_whole

Array = np.ndarray
Steps = Callable[[str, int, int], None]
FULL = "full"
FIGURES = ("psnr_db", "ssim", "distance")
_MOST_SEEDS, _LEAST_SEEDS, _SHARD_PIXELS = 100, 8, 1 << 25
_KEY = "key"
# FIGURES of identical images.
_IDENTICAL = np.array([[HIGHEST_PSNR_DB], [1.0], [0.0]])
# End points of path lengths are of other seeds than the images.
_PATH_SEEDS = 1 << 31


def reference(subnet: str) -> str:
    """Name of the subject; FULL is the full network, which need not be one of the bundle's."""
    return f"reference:{subnet}"


def engine(name: str) -> str:
    return f"engine:{name}"


@dataclass(frozen=True)
class Task:
    """A shard: seeds first .. first + count - 1. basis: hash of all that the result depends on beside the other fields.

    subnets, engines: what is measured beside the full network. threads: of engines and PyTorch.
    """

    bundle: Path
    basis: str
    tools: Tools
    first: int
    count: int
    psi: float
    subnets: tuple[str, ...]
    engines: tuple[str, ...]
    threads: int

    def __str__(self) -> str:
        return f"seeds {self.first} to {self.first + self.count - 1}"

    @property
    def name(self) -> str:
        return f"shard-{self.first:06d}"

    @property
    def key(self) -> str:
        return _hash([self.basis, "shard", self.first, self.count, self.psi, self.subnets, self.engines])

    def arrays(self) -> dict[str, Array]:
        """SUBJECT|features [N, D] and SUBJECT|full, SUBJECT|own [3, N], the rows in the order of FIGURES; SUBJECT|logits
        [N, A, 2] of references, where there is a predictor."""
        source, tools = _source(self.bundle, self.basis, self.threads), _tools(self.tools)
        w_plus = source.codes(range(self.first, self.first + self.count), self.psi)
        full = source.reference(source.full, w_plus)
        found: dict[str, Array] = tools.of(full, reference(FULL))
        for name in self.subnets:
            net, subject = source.nets[name], reference(name)
            same = source.is_full(name)
            images = full if same else source.reference(net, w_plus)
            if same:
                found |= {f"{subject}|{key}": found[f"{reference(FULL)}|{key}"] for key in tools.kept}
            else:
                found |= tools.of(images, subject)
            found[f"{subject}|full"] = tools.pair(images, full)
            for engine_name in (one for one in self.engines if one.rsplit("/", 1)[0] == name):
                made = source.engine(engine_name, w_plus)
                known = {what: found[f"{subject}|{what}"] for what in ("features", "full")}
                found |= {f"{engine(engine_name)}|{k}": v for k, v in tools.engine(made, images, full, known).items()}
        return found


@dataclass(frozen=True)
class PathTask:
    """The path length of one sub-network's reference, over ``pairs`` pairs of latents, without truncation as in the paper."""

    bundle: Path
    basis: str
    tools: Tools
    subnet: str
    pairs: int
    threads: int

    def __str__(self) -> str:
        return f"PPL of {self.subnet}"

    @property
    def name(self) -> str:
        return f"path-{self.subnet}"

    @property
    def key(self) -> str:
        return _hash([self.basis, "path", self.subnet, self.pairs])

    def arrays(self) -> dict[str, Array]:
        """ppl: []."""
        source = _source(self.bundle, self.basis, self.threads)
        seeds = range(_PATH_SEEDS, _PATH_SEEDS + 2 * self.pairs)
        ends = torch.from_numpy(source.codes(seeds))
        net = source.nets[self.subnet]
        length = path_length(
            lambda w: source.synthesize(net, w), ends[0::2], ends[1::2], squared(_tools(self.tools).distance)
        )
        return {"ppl": np.array(length)}


def tasks(
    bundle: Bundle,
    tools: Tools,
    seeds: range,
    *,
    psi: float,
    subnets: Sequence[str],
    engines: Sequence[str],
    threads: int,
    size: int | None = None,
) -> list[Task]:
    """size: images of a shard; by default 100, fewer of large images."""
    pixels = bundle.generator.architecture.resolution**2
    size = size or max(_LEAST_SEEDS, min(_MOST_SEEDS, _SHARD_PIXELS // pixels))
    shared = (psi, tuple(subnets), tuple(engines), threads)
    basis, folder = basis_of(bundle, tools), bundle.folder.resolve()
    starts = range(seeds.start, seeds.stop, size)
    return [Task(folder, basis, tools, first, min(size, seeds.stop - first), *shared) for first in starts]


def basis_of(bundle: Bundle, tools: Tools) -> str:
    """Hash of the bundle, what figures are measured with, and the versions of what computes them."""
    content = [bundle.manifest_sha256, tools.described(), tools.extractor().identity, __version__, torch.__version__]
    return _hash(content)


def perform(task: Task | PathTask) -> bytes:
    """The file of a task: the same task gives the same bytes. Its only input beside the task is the bundle."""
    if torch.get_num_threads() != task.threads:
        torch.set_num_threads(task.threads)
    buffer = io.BytesIO()
    # Not pickled: names of subjects hold no character that a zip's cannot.
    np.savez(buffer, allow_pickle=False, **{_KEY: np.array(task.key)}, **task.arrays())
    return buffer.getvalue()


def run(
    wanted: Sequence[Task | PathTask], folder: Path, pool: Pool, progress: Steps | None = None, total: int | None = None
) -> list[dict[str, Array]]:
    """Do what is not in ``folder`` yet, then read all, in the order of the tasks. progress(what, done, total).

    Raises InputError where the folder cannot be written, and what the tasks raise.
    """
    steps = progress or (lambda what, done, total: None)
    threads = torch.get_num_threads()
    total = total or len(wanted)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        missing = [task for task in wanted if _read(folder, task) is None]
        done = len(wanted) - len(missing)
        steps(str(missing[0]) if missing else "", done, total)
        with closing(pool.run(perform, missing)) as results:
            for task, data in results:
                write_whole(folder / f"{task.name}.npz", data)
                done += 1
                steps(f"{task} done", done, total)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written: {error.strerror or error}; give another folder with --work"
        ) from None
    finally:
        torch.set_num_threads(threads)
        _source.cache_clear()
        _tools.cache_clear()
    found = [_read(folder, task) for task in wanted]
    if any(arrays is None for arrays in found):
        raise InputError(f"files in {folder} were changed while they were in use: give each run its own folder")
    return [arrays for arrays in found if arrays is not None]


def joined(shards: Sequence[dict[str, Array]], name: str) -> Array:
    """An array of all shards; images are the last axis of FIGURES and the first of everything else."""
    return np.concatenate([shard[name] for shard in shards], axis=1 if name.endswith(("|own", "|full")) else 0)


def _read(folder: Path, task: Task | PathTask) -> dict[str, Array] | None:
    """None where it is not there, damaged, or of another task."""
    found = read_arrays(folder / f"{task.name}.npz")
    return None if str(found.pop(_KEY, "")) != task.key else found


class _Tools:
    """What is made of Tools, and what it says of images."""

    def __init__(self, given: Tools):
        self.extract: Extractor = given.extractor()
        self.distance: Distance = given.distance()
        self.predictor: AvatarFeatures | None = given.attributes()
        self.kept = ("features", "logits") if self.predictor else ("features",)

    def of(self, images: Array, subject: str) -> dict[str, Array]:
        features = self.extract(images)
        found = {f"{subject}|features": features}
        if self.predictor:
            same = self.predictor.identity == self.extract.identity
            found[f"{subject}|logits"] = self.predictor.logits(features if same else self.predictor(images))
        return found

    def pair(self, images: Array, references: Array) -> Array:
        """[3, N]."""
        if np.array_equal(images, references):
            return np.repeat(_IDENTICAL, len(images), axis=1)
        figures = pairwise(images, references, self.distance)
        return np.stack([figures[name] for name in FIGURES])

    def engine(self, made: Array, images: Array, full: Array, known: dict[str, Array]) -> dict[str, Array]:
        """Of the images that an engine made; known: features and full of its reference's images, which it mostly equals to
        the last pixel."""
        found = {name: array.copy() for name, array in known.items()}
        found["own"] = np.repeat(_IDENTICAL, len(made), axis=1)
        other = np.flatnonzero((made != images).any(axis=(1, 2, 3)))
        if len(other):
            found["features"][other] = self.extract(made[other])
            found["own"][:, other] = self.pair(made[other], images[other])
            found["full"][:, other] = self.pair(made[other], full[other])
        return found


# Between the tasks that a process does, of one measurement.
@lru_cache(maxsize=1)
def _source(folder: Path, basis: str, threads: int) -> Source:
    # The files were checked by the process that made the tasks.
    manifest, sha256 = read_manifest(folder)
    return Source(Bundle(folder, manifest, sha256), threads)


@lru_cache(maxsize=1)
def _tools(given: Tools) -> _Tools:
    return _Tools(given)


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
