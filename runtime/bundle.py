"""Opening a bundle: every way in which a folder can be wrong has its own error."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from anycost.errors import BundleError
from anycost.runtime.binding import Binding
from anycost.runtime.files import record_of
from anycost.runtime.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    MAPPING,
    EngineRecord,
    GeneratorRecord,
    Manifest,
    NetworkRecord,
    SegmentRecord,
    SubnetRecord,
)
from anycost.runtime.quality import QUALITY_NAME, Quality
from anycost.runtime.quality import read as read_quality

Array = np.ndarray


@dataclass(frozen=True)
class Bundle:
    """A folder whose files have been checked against its manifest."""

    folder: Path
    manifest: Manifest
    manifest_sha256: str

    def path(self, relative: str) -> Path:
        return self.folder / relative

    def tensors(self, relative: str) -> dict[str, Array]:
        """All tensors of a safetensors file of the bundle."""
        return read_tensors(self.path(relative))

    @property
    def generator(self) -> GeneratorRecord:
        """Raises BundleError when the bundle holds no elastic generator."""
        if self.manifest.generator is None:
            held = ", ".join(network.kind for network in self.manifest.networks)
            raise BundleError(f"{self.folder} holds no elastic generator: it has {held}")
        return self.manifest.generator

    @property
    def source_sha256(self) -> str:
        """Of the generator's checkpoint; without one, over those of the other networks."""
        if self.manifest.generator:
            return self.manifest.generator.source_sha256
        sources = sorted(network.source_sha256 for network in self.manifest.networks)
        return hashlib.sha256("\n".join(sources).encode()).hexdigest()

    @cached_property
    def quality(self) -> Quality | None:
        """What was measured and is still of this bundle's sub-networks, engines and networks; None where nothing was.

        Raises BundleError for a damaged file, or one of another checkpoint.
        """
        path = self.path(QUALITY_NAME)
        if not path.exists():
            return None
        found = read_quality(path)
        if found.source_sha256 != self.source_sha256:
            raise BundleError(
                f"{path} was measured of another checkpoint ({found.source_sha256[:12]}, not {self.source_sha256[:12]}): "
                "delete it, or measure again with 'anycost bench quality'"
            )
        return self._current(found)

    def with_quality(self, quality: Quality) -> Bundle:
        """The same bundle with this as its measured quality, whatever its folder holds."""
        bundle = replace(self)
        bundle.__dict__["quality"] = self._current(quality)
        return bundle

    def _current(self, quality: Quality) -> Quality:
        """Without what a later build has replaced."""
        nets = {net.name: net.channels for net in self.manifest.generator.subnets} if self.manifest.generator else {}
        keys = {engine.name: engine.key for engine in self.manifest.engines}
        networks = {(net.name, net.kind): net.source_sha256 for net in self.manifest.networks}
        kept = {
            "subnets": {k: v for k, v in quality.subnets.items() if k in nets and v.channels in (None, nets[k])},
            "engines": {k: v for k, v in quality.engines.items() if keys.get(k) == v.key},
            "networks": {
                k: v
                for k, v in quality.networks.items()
                if (k, v.kind) in networks and v.source_sha256 in (None, networks[k, v.kind])
            },
        }
        return quality.model_copy(update=kept)

    def network(self, kind: str, name: str | None = None) -> NetworkRecord:
        """The network of a kind, the one called ``name`` where there are several. Raises BundleError."""
        found = [net for net in self.manifest.networks if net.kind == kind and name in (None, net.name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise BundleError(
                f"{self.folder} holds several networks of kind {kind}: name one of {', '.join(net.name for net in found)}"
            )
        raise BundleError(
            f"{self.folder} holds no network of kind {kind}{f' called {name}' if name else ''}: "
            f"build it in with 'anycost build MODEL CHECKPOINT -o {self.folder}'"
        )

    def weights(self, network: str = MAPPING) -> Weights:
        """The weights that the engines of a sub-network, ``mapping`` or a part are made from."""
        found = self.part(network)
        return Weights(self.path(found[0].weights if found else self.generator.weights))

    def part(self, name: str) -> tuple[NetworkRecord, str] | None:
        """The network that a part called ``name`` (as its engines are) belongs to and the part's own short name; None for
        the mapping and for sub-networks."""
        for record in self.manifest.networks:
            if any(part.name == name for part in record.parts):
                return record, name[len(record.name) + 1 :]
        return None

    def subnet(self, name: str) -> SubnetRecord:
        """Raises BundleError that lists the known names."""
        for net in self.generator.subnets:
            if net.name == name:
                return net
        known = ", ".join(net.name for net in self.generator.subnets)
        raise BundleError(f"sub-network {name!r} is not in {self.folder}: it has {known}")

    def segment(self, name: str) -> SegmentRecord | None:
        """The segment called so (as its engines are), None for any other network."""
        segments = self.manifest.generator.segments if self.manifest.generator else ()
        return next((segment for segment in segments if segment.name == name), None)

    def engines(self, network: str) -> list[EngineRecord]:
        return [engine for engine in self.manifest.engines if engine.network == network]


class Weights:
    """One weights file, memory-mapped: bindings are cut out of it, as float32."""

    def __init__(self, path: Path):
        try:
            # The library's own types leave these methods unannotated.
            self._file: Any = safe_open(path, framework="numpy")
        except (OSError, SafetensorError) as error:
            raise BundleError(f"weights {path} cannot be read: {error}") from None

    def bind(self, binding: Binding) -> Array:
        """The constant, contiguous, of its type (bfloat16, which NumPy has not, as uint16 of the same bits). Only the slice
        that it takes is read."""
        part = self._file.get_slice(binding.source)[tuple(slice(0, n) for n in binding.take)]
        times = None if binding.times is None else self.tensor(binding.times)
        found = np.ascontiguousarray(binding.apply(part.astype(np.float32), times), dtype=np.float32)
        if binding.dtype == "bfloat16":
            return as_bfloat16(found)
        return found.astype(np.float16) if binding.dtype == "float16" else found

    def tensor(self, name: str) -> Array:
        """A whole tensor as float32."""
        return np.asarray(self._file.get_tensor(name), dtype=np.float32)


def as_bfloat16(array: Array) -> Array:
    """float32 -> uint16, the bits of the nearest bfloat16, ties to even. For finite values."""
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def read_tensors(path: Path) -> dict[str, Array]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from None


def open_bundle(folder: str | Path) -> Bundle:
    """Read the manifest and check every file's size and sha256.

    Raises BundleError, each with its own message: no such folder, empty folder, unfinished build, damaged or newer
    manifest, a path that leaves the folder, a missing file, a changed byte.
    """
    folder = Path(folder)
    manifest, sha256 = read_manifest(folder)
    root = folder.resolve()
    for relative, expected in manifest.all_files().items():
        path = folder / relative
        try:
            inside = path.resolve().is_relative_to(root)
        except (OSError, RuntimeError):  # links in a circle, or a name that the file system does not take
            inside = False
        if not inside:
            raise BundleError(f"{folder}: {relative} leaves the bundle's folder through a link; do not use this bundle")
        if not path.is_file():
            raise BundleError(f"{folder}: {relative} is missing; build the bundle again, finished parts are kept")
        size = path.stat().st_size
        if size != expected.size:
            raise BundleError(
                f"{folder}: {relative} has {size} bytes where the manifest says {expected.size}; {_REBUILD}"
            )
        found = record_of(path).sha256
        if found != expected.sha256:
            raise BundleError(
                f"{folder}: {relative} was changed (sha256 {found[:12]}, not {expected.sha256[:12]}); {_REBUILD}"
            )
    return Bundle(folder, manifest, sha256)


_REBUILD = "copy it again, or build the bundle again"


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest of a folder and its sha256, without looking at the other files."""
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder: build a bundle with 'anycost build MODEL -o {folder}'")
    if not path.is_file():
        if not any(folder.iterdir()):
            raise BundleError(f"{folder} is empty: build a bundle with 'anycost build MODEL -o {folder}'")
        if (folder / "engines").is_dir() or (folder / "weights").is_dir():
            raise BundleError(
                f"{folder} is an unfinished build: run the same 'anycost build' again, it goes on from there"
            )
        raise BundleError(f"{folder} has no {MANIFEST_NAME}: it is not a bundle")
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read: {_one_line(error)}; {_REBUILD}") from None
    if not isinstance(values, dict) or values.get("format") != "anycost-bundle":
        raise BundleError(f"{path} is not the manifest of a bundle: its format is not 'anycost-bundle'")
    version = values.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {version} and this program reads up to {FORMAT_VERSION}: upgrade anycost-runtime"
        )
    if type(version) is int and 1 <= version < FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {version} and this program reads {FORMAT_VERSION}: build the bundle again"
        )
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(
            f"{path} is damaged at {where or 'top level'}: {_one_line(first['msg'])}; {_REBUILD}"
        ) from None
    if type(version) is not int or manifest.sha256 != _seal(values):
        raise BundleError(f"{path} was changed: its content is not what its own sha256 says; {_REBUILD}")
    return manifest, record_of(path).sha256


def sealed(manifest: Manifest) -> bytes:
    """The manifest's file: its fields and, last, the sha256 of them all."""
    values = manifest.model_dump(mode="json")
    return json.dumps(values | {"sha256": _seal(values)}, indent=1, ensure_ascii=False).encode()


def _seal(values: dict[str, Any]) -> str:
    """sha256 of the fields but ``sha256``, as compact JSON with sorted keys."""
    content = {name: value for name, value in values.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
