"""Measured quality of a bundle's sub-networks and engines: ``quality.json`` beside the manifest.

It is not part of the manifest's seal: figures can be measured, and measured again, without a new bundle. It has a seal of
its own, and names the checkpoint and the engines that it is of.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from anycost.errors import BundleError
from anycost.runtime.files import write_whole
from anycost.runtime.manifest import Finite, Name, Positive, Record, Sha256

QUALITY_NAME = "quality.json"
QUALITY_VERSION = 1
_REMEDY = "delete it and measure again with 'anycost bench quality'"

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Interval(Record):
    """A figure and its bootstrap interval, 95% unless said."""

    value: Finite
    low: Finite
    high: Finite

    @model_validator(mode="after")
    def _ordered(self) -> Interval:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"value {self.value:g} is outside its interval {self.low:g}..{self.high:g}")
        return self


class Pair(Record):
    """Means over images of what they differ from their references by: PSNR in dB, SSIM, perceptual distance."""

    psnr_db: Finite
    ssim: Finite
    distance: NotNegative


class FdParity(Record):
    """difference: abs(FD(engine, data) - FD(reference, data)). bound: what the reference differs by from itself."""

    difference: NotNegative
    bound: NotNegative
    passed: bool

    @model_validator(mode="after")
    def _consistent(self) -> FdParity:
        if self.passed != (self.difference <= self.bound):
            raise ValueError(f"difference {self.difference:g}, bound {self.bound:g} and passed {self.passed} disagree")
        return self


class SubnetQuality(Record):
    """The torch reference of one sub-network. full: to the full network's images. fd_full: Frechet distance to them.

    fd_data: to the data, where there is some. ppl: perceptual path length. consistency: share of confident attributes kept.
    channels: of the sub-network that was measured, as another may get its name.
    """

    channels: tuple[Positive, ...] | None = None
    full: Pair
    fd_full: Interval
    fd_data: Interval | None = None
    ppl: NotNegative | None = None
    consistency: Annotated[float, Field(ge=0, le=1)] | None = None


class EngineQuality(Record):
    """One engine. key: that of its EngineRecord. own: to its sub-network's reference images; full: to the full network's."""

    key: Sha256
    own: Pair
    full: Pair
    fd_own: Interval
    fd_data: Interval | None = None
    parity: FdParity | None = None


class NetworkQuality(Record):
    """Another network of the bundle: figures by name. source_sha256: of its checkpoint."""

    kind: Name
    source_sha256: Sha256 | None = None
    figures: dict[str, Finite]


class Quality(Record):
    """All that was measured.

    images, first_seed, psi: the images are of seeds first_seed .. first_seed + images - 1 at this truncation.
    measure: name of the Frechet distance. distance: name of the perceptual one. data, data_count: what fd_data is to.
    source_sha256: of the generator's checkpoint. sha256: of all the other fields.
    """

    format: Literal["anycost-quality"] = "anycost-quality"
    format_version: Literal[1] = 1
    images: Positive
    first_seed: Annotated[int, Field(ge=0)] = 0
    psi: Finite
    measure: str
    distance: str
    data: str = ""
    data_count: Annotated[int, Field(ge=0)] = 0
    source_sha256: Sha256
    subnets: dict[Name, SubnetQuality]
    engines: dict[str, EngineQuality] = Field(default_factory=dict)
    networks: dict[Name, NetworkQuality] = Field(default_factory=dict)
    sha256: str = ""


def sealed(quality: Quality) -> bytes:
    """The file: the fields and, last, the sha256 of them all."""
    values = quality.model_dump(mode="json")
    return json.dumps(values | {"sha256": _seal(values)}, indent=1, ensure_ascii=False).encode()


def write(path: Path, quality: Quality) -> None:
    """Whole or not at all. Raises OSError."""
    write_whole(path, sealed(quality))


def read(path: Path) -> Quality:
    """Raises BundleError: not readable, not such a file, newer than this program, damaged or changed."""
    try:
        data = path.read_bytes()
        values = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read: {_one_line(error)}; {_REMEDY}") from None
    if not isinstance(values, dict) or values.get("format") != "anycost-quality":
        raise BundleError(f"{path} holds no measured quality: its format is not 'anycost-quality'; {_REMEDY}")
    version = values.get("format_version")
    if type(version) is int and version > QUALITY_VERSION:
        raise BundleError(
            f"{path} has format version {version} and this program reads up to {QUALITY_VERSION}: upgrade anycost-runtime"
        )
    try:
        quality = Quality.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(
            f"{path} is damaged at {where or 'top level'}: {_one_line(first['msg'])}; {_REMEDY}"
        ) from None
    if quality.sha256 != _seal(values):
        raise BundleError(f"{path} was changed: its content is not what its own sha256 says; {_REMEDY}")
    return quality


def _seal(values: dict[str, Any]) -> str:
    """sha256 of the fields but ``sha256``, as compact JSON with sorted keys."""
    content = {name: value for name, value in values.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
