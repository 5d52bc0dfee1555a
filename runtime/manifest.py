"""The bundle's manifest: what a reader may rely on, checked by pydantic. docs/bundle.md specifies the format."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"
MAPPING = "mapping"
_LONGEST_PATH, _LONGEST_NAME = 1000, 240  # what every usual file system takes


def _inside(path: str) -> str:
    """Only plain relative paths with forward slashes may name a file of a bundle."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in path or "\0" in path:
        raise ValueError(f"path {path!r} leaves the bundle's folder")
    if len(path) > _LONGEST_PATH or any(len(part) > _LONGEST_NAME for part in parts):
        raise ValueError(f"path {path[:40]!r}... of {len(path)} characters is too long")
    if str(PurePosixPath(path)) != path:
        raise ValueError(f"path {path!r} is not in its plain form")
    return path


def plain_name(name: str) -> str:
    """A name that is also the name of a folder on every system. Raises ValueError for any other."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9@._-]{0,199}", name):
        raise ValueError(f"name {name!r} may hold only letters, digits and @ . _ -")
    return name


BundlePath = Annotated[str, AfterValidator(_inside)]
Name = Annotated[str, AfterValidator(plain_name)]
Positive = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(Record):
    """sha256 (hex) and size in bytes of one file."""

    sha256: Sha256
    size: Annotated[int, Field(ge=0)]


class ArchitectureRecord(Record):
    """The full generator; the fields are those of ``networks.channels.Architecture``."""

    resolution: Annotated[int, Field(ge=8, le=1024)]
    channel_multiplier: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    channel_max: Positive
    style_dim: Positive
    n_mlp: Positive

    @property
    def n_style(self) -> int:
        return 2 * (self.resolution.bit_length() - 1) - 2


class SubnetRecord(Record):
    """One sub-network. macs: multiply-adds an image. distance: RMSE to the full network's images, values in [-1, 1]."""

    name: Name
    resolution: Annotated[int, Field(ge=8, le=1024)]
    channels: tuple[Positive, ...]
    ratio: Annotated[float, Field(gt=0, le=1)] | None
    macs: Positive
    parameters: Positive
    distance: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SegmentRecord(Record):
    """What a sub-network adds to another of its ratio, as engines of their own (runtime/segments.py). subnet: whose image it
    gives. below: the one whose features and image it takes, None for the first. macs: multiply-adds an image."""

    name: Name
    subnet: Name
    below: Name | None
    macs: Positive


class ParityRecord(Record):
    """Distance of an engine's output from the reference's: largest absolute difference, PSNR in dB (at most 200), SSIM."""

    max_abs: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    psnr_db: Finite
    ssim: Finite


class GeneratorRecord(Record):
    """The elastic generator of a bundle. noise: whether engines take it or hold the stored one. latents: file of z,
    w_plus and mean_style. directions: file of editing directions. source: the checkpoint's file name. segments: those of one
    ratio in the order they run."""

    source: str
    source_sha256: Sha256
    credit: str = ""
    architecture: ArchitectureRecord
    noise: Literal["input", "stored"]
    weights: BundlePath
    latents: BundlePath
    directions: BundlePath | None = None
    subnets: Annotated[tuple[SubnetRecord, ...], Field(min_length=1)]
    segments: tuple[SegmentRecord, ...] = ()

    @model_validator(mode="after")
    def _segments_are_chains(self) -> GeneratorRecord:
        sides = {net.name: net.resolution for net in self.subnets}
        reached: set[str] = set()
        for segment in self.segments:
            if segment.subnet not in sides or segment.subnet in reached:
                raise ValueError(
                    f"segment {segment.name!r} gives the image of no sub-network, or of one that has another"
                )
            if segment.below is not None and (
                segment.below not in reached or sides[segment.below] >= sides[segment.subnet]
            ):
                raise ValueError(f"segment {segment.name!r} does not follow on one before it")
            reached.add(segment.subnet)
        return self


class PortRecord(Record):
    """An input or output of a part: shape without the batch axis; values: what its samples are drawn from (samples.py)."""

    name: Name
    shape: tuple[Positive, ...]
    values: Literal["normal", "image", "unit", "onehot"] = "normal"


class PartRecord(Record):
    """One graph of a network; its name is that of its engines. macs: multiply-adds for one sample."""

    name: Name
    inputs: tuple[PortRecord, ...]
    outputs: tuple[PortRecord, ...]
    macs: Annotated[int, Field(ge=0)]


class NetworkRecord(Record):
    """Any other network: an encoder, a translator, ... kind: of ``anycost inspect --networks``. labels: what its outputs are
    called."""

    name: Name
    kind: Name
    arguments: dict[str, Any]
    labels: tuple[str, ...] = ()
    source: str
    source_sha256: Sha256
    credit: str = ""
    parameters: Annotated[int, Field(ge=0)]
    weights: BundlePath
    parts: Annotated[tuple[PartRecord, ...], Field(min_length=1)]

    def part(self, name: str = "") -> PartRecord:
        """The part called NETWORK.name, or the only one. Raises KeyError."""
        wanted = f"{self.name}.{name}" if name else self.name
        for part in self.parts:
            if part.name == wanted:
                return part
        raise KeyError(wanted)


Shape = tuple[Positive, ...]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)  # the most exact first


class EngineRecord(Record):
    """One compiled graph. network: a sub-network's name, a segment's, ``mapping``, or a part's. key: hash of all that it was
    made from.

    targets: what it was compiled for: ``cpu-x86_64``, or compute capabilities such as ``sm_89``. batch: the least, usual and
    largest batch of a graph with a profile, None where any is taken. inputs, outputs: shapes without the batch, all float32.
    weights_bytes: what it takes from the weights file, in
    the types that it takes. checked: whether parity is the engine's own or, where it was built on a machine that cannot run
    it, that of the graph which it was compiled from, run by ONNX Runtime. fused: whether a generator's layers are this project's
    own kernels, as plugins of TensorRT.
    """

    network: Name
    backend: Name
    targets: Annotated[tuple[Name, ...], Field(min_length=1)]
    precision: Precision
    fused: bool = False
    batch: tuple[Positive, Positive, Positive] | None = None
    inputs: dict[Name, Shape]
    outputs: dict[Name, Shape]
    folder: BundlePath
    key: Sha256
    versions: dict[str, str]
    files: dict[BundlePath, FileRecord]
    weights_bytes: Annotated[int, Field(ge=0)]
    parity: ParityRecord
    checked: Literal["engine", "graph"] = "engine"

    @property
    def variant(self) -> str:
        """The backend, with the precision where that is not fp32: ``openvino``, ``tensorrt-fp16-fused``."""
        precision = "" if self.precision == "fp32" else f"-{self.precision}"
        return f"{self.backend}{precision}{'-fused' if self.fused else ''}"

    @property
    def name(self) -> str:
        return f"{self.network}/{self.variant}"

    @property
    def size(self) -> int:
        """Bytes of its files, without the shared weights."""
        return sum(file.size for file in self.files.values())


class Manifest(Record):
    """Everything a device needs to know of a bundle. references: file of the expected outputs, by name of the sub-network,
    ``mapping`` or part. files: those outside the engines' own lists. sha256: of all the other fields (bundle.sealed)."""

    format: Literal["anycost-bundle"] = "anycost-bundle"
    format_version: Literal[2] = 2
    name: Name
    generator: GeneratorRecord | None
    networks: tuple[NetworkRecord, ...]
    references: dict[Name, BundlePath]
    engines: Annotated[tuple[EngineRecord, ...], Field(min_length=1)]
    files: dict[BundlePath, FileRecord]
    sha256: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if not self.generator and not self.networks:
            raise ValueError("it names no network")
        names = [part.name for network in self.networks for part in network.parts]
        paths = [network.weights for network in self.networks]
        if self.generator:
            names += [MAPPING, *(net.name for net in self.generator.subnets)]
            paths += [self.generator.weights, self.generator.latents]
            paths += [self.generator.directions] if self.generator.directions else []
        segments = [segment.name for segment in self.generator.segments] if self.generator else []
        if len({*names, *segments}) != len(names) + len(segments):
            raise ValueError("two networks have one name")
        for path in (*paths, *self.references.values()):
            if path not in self.files:
                raise ValueError(f"file {path!r} has no sha256")
        if len(set(paths)) != len(paths):
            raise ValueError("two networks have one file")
        if len({engine.name for engine in self.engines}) != len(self.engines):
            raise ValueError("two engines have one name")
        for engine in self.engines:
            if not engine.files:
                raise ValueError(f"engine {engine.name!r} has no files")
            if engine.network not in names and engine.network not in segments:
                raise ValueError(f"engine {engine.name!r} is of an unknown network")
        if set(self.references) != set(names):
            raise ValueError("reference samples and networks do not match")
        return self

    def all_files(self) -> dict[str, FileRecord]:
        """Every file of the bundle but the manifest, by path."""
        found = dict(self.files)
        for engine in self.engines:
            found |= {f"{engine.folder}/{path}": record for path, record in engine.files.items()}
        return found
