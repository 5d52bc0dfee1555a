"""Named unit directions in the style space, and the safetensors file that keeps them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from anycost.errors import InputError
from anycost.runtime.files import write_whole

Array = np.ndarray
Facts = Mapping[str, str | float]

KIND = "anycost directions 1"
_LONGEST_NAME = 100
_STRONGEST = 1000
_OFF_UNIT = 1e-3  # float32 rounding of 512 numbers stays below 1e-6; a file written with three digits still passes


def unit(vector: Array) -> Array:
    """float32 [style_dim] of length 1 in the direction of a vector [style_dim]. Raises InputError for 0 and for NaN."""
    exact = np.asarray(vector, np.float64)
    if exact.ndim != 1 or exact.size == 0:
        raise InputError(f"a direction of shape {list(exact.shape)}: a vector [style_dim] was expected")
    if not np.isfinite(exact).all():
        raise InputError("a direction holds NaN or infinity")
    largest = np.abs(exact).max()
    if largest == 0:
        raise InputError("a direction of length 0 points nowhere")
    exact = exact / largest  # squares of very large or small numbers would leave float64
    return np.asarray(exact / np.linalg.norm(exact), np.float32)


def check_name(name: str) -> str:
    """A name that fits on one line and in a list of values such as "smiling=60,young=-20". Raises InputError."""
    fits = 0 < len(name) <= _LONGEST_NAME and name.isprintable() and name == name.strip()
    if not fits or set(name) & {"=", ","} or name == "__metadata__":
        raise InputError(
            f"direction name {name[:_LONGEST_NAME]!r}: 1 to {_LONGEST_NAME} printable characters without '=' and ',', "
            "not beginning or ending with a space"
        )
    return name


@dataclass(frozen=True, eq=False)
class Directions:
    """Unit vectors float32 [D, style_dim], D at least 1, each with a name of its own and what is known of it.

    `about` has a mapping for each direction, such as {"rule": "interfacegan", "accuracy": 0.97}; left out, all are empty.
    Its "strength" is the one fact that changes pictures: how many unit vectors a slider's step is long where W is wider or
    narrower than the published generators'; 1 where it is not given. The vectors are copied and cannot be written to.
    Raises InputError.
    """

    names: tuple[str, ...]
    vectors: Array
    about: tuple[Facts, ...] = ()

    def __post_init__(self) -> None:
        vectors = np.array(self.vectors, order="C")
        if not self.names:
            raise InputError("no directions: at least one is needed")
        if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(self.names) or vectors.shape[1] == 0:
            raise InputError(
                f"{len(self.names)} directions need vectors float32 [{len(self.names)}, style_dim], "
                f"not {vectors.dtype} {list(vectors.shape)}"
            )
        seen: set[str] = set()
        for name, vector in zip(self.names, vectors, strict=True):
            if check_name(name) in seen:
                raise InputError(f"direction {name!r} is there twice")
            seen.add(name)
            if not np.isfinite(vector).all():
                raise InputError(f"direction {name!r} holds NaN or infinity")
            length = float(np.linalg.norm(vector.astype(np.float64)))
            if abs(length - 1) > _OFF_UNIT:
                raise InputError(f"direction {name!r} has length {length:g}, not 1")
        about = tuple(dict(facts) for facts in self.about) or ({},) * len(self.names)
        if len(about) != len(self.names):
            raise InputError(f"{len(self.names)} directions and facts about {len(about)}")
        if not all(isinstance(fact, str | int | float) for facts in about for fact in facts.values()):
            raise InputError("what is known of a direction is neither text nor a number")
        for name, facts in zip(self.names, about, strict=True):
            _check_strength(name, facts.get("strength", 1))
        vectors.setflags(write=False)
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "about", about)

    @classmethod
    def of(cls, vectors: Mapping[str, Array], about: Mapping[str, Facts] | None = None) -> Directions:
        """From vectors [style_dim] of any length by name, in their order. Raises InputError."""
        known = about or {}
        strangers = sorted(set(known) - set(vectors))
        if strangers:
            raise InputError(f"facts about {strangers[0]!r}, which is not a direction")
        if len({np.shape(vector) for vector in vectors.values()}) > 1:
            raise InputError("directions of one file need one style_dim")
        rows = [unit(vector) for vector in vectors.values()]
        together = np.stack(rows) if rows else np.empty((0, 0), np.float32)
        return cls(tuple(vectors), together, tuple(known.get(name, {}) for name in vectors))

    @property
    def style_dim(self) -> int:
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> Array:
        """What a slider's step is along: the unit vector float32 [style_dim] of a name, times its strength.

        Raises InputError with the known names."""
        at = self._row(name)
        vector: Array = self.vectors[at]
        strength = self.about[at].get("strength", 1)
        return vector if strength == 1 else np.asarray(vector * np.float32(strength), np.float32)

    def only(self, names: Sequence[str]) -> Directions:
        """Some of the directions, in the order asked for. Raises InputError."""
        rows = [self._row(name) for name in names]
        return Directions(tuple(names), self.vectors[rows], tuple(self.about[row] for row in rows))

    def _row(self, name: str) -> int:
        if name not in self.names:
            raise InputError(f"unknown direction {name!r}: the known ones are {', '.join(self.names)}")
        return self.names.index(name)


def save(path: Path, directions: Directions) -> None:
    """A safetensors file, one tensor [style_dim] a direction; the same bytes for the same directions; whole or not at all.

    Raises InputError when it cannot be written.
    """
    facts = {name: dict(sorted(known.items())) for name, known in zip(directions.names, directions.about, strict=True)}
    metadata = {"about": _json(facts), "kind": KIND, "order": _json(list(directions.names))}
    tensors = dict(zip(directions.names, directions.vectors, strict=True))
    data = safetensors.numpy.save({name: tensors[name] for name in sorted(tensors)})
    # The library orders metadata by a hash table that differs from run to run, so they are put in here.
    (length,) = struct.unpack("<Q", data[:8])
    header = _json({"__metadata__": metadata, **json.loads(data[8 : 8 + length])}).encode()
    header += b" " * (-len(header) % 8)
    try:
        write_whole(path, struct.pack("<Q", len(header)) + header + data[8 + length :])
    except OSError as error:
        raise InputError(f"{path} cannot be written: {_one_line(error)}; free space or give another folder") from None


def load(path: Path) -> Directions:
    """Directions as `save` wrote them. Of other safetensors files, unit vectors float32 [style_dim], by name.

    Raises InputError.
    """
    vectors: dict[str, Array] = {}
    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
            for name in sorted(file.keys()):
                part = file.get_slice(name)
                if part.get_dtype() != "F32" or len(part.get_shape()) != 1:
                    shape = f"{part.get_dtype()} {part.get_shape()}"
                    raise InputError(f"{path}: direction {name!r} is {shape}: float32 [style_dim] was expected")
                vectors[name] = file.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as directions: {_one_line(error)}") from None
    if not vectors:
        raise InputError(f"{path} holds no directions")
    if len({len(vector) for vector in vectors.values()}) > 1:
        raise InputError(f"{path}: its directions differ in style_dim")
    names, about = _order_and_facts(path, list(vectors), metadata)
    try:
        return Directions(tuple(names), np.stack([vectors[name] for name in names]), tuple(about))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _order_and_facts(path: Path, found: list[str], metadata: Mapping[str, str]) -> tuple[list[str], list[Facts]]:
    kind = metadata.get("kind", KIND)
    if kind != KIND:
        raise InputError(f"{path} is of kind {kind[:40]!r}, and {KIND!r} is read: a newer version may have written it")
    try:
        order = json.loads(metadata.get("order", "null")) or found
        facts = json.loads(metadata.get("about", "{}"))
        whole = sorted(order) == sorted(found)
        about = [dict(facts.get(name, {})) for name in order]
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path}: its metadata are damaged") from None
    if not whole:
        raise InputError(f"{path}: its metadata name other directions than it holds, or one of them twice")
    return order, list(about)


def _check_strength(name: str, strength: object) -> None:
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 < strength <= _STRONGEST:
        raise InputError(f"direction {name!r}: strength {strength!r} is not a number above 0 and up to {_STRONGEST}")


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200]
