"""What figures are measured with, named by files only, so that every process makes the same from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

from anycost.benchmarks.quality.features import (
    AVATAR_NETWORK,
    AvatarFeatures,
    Extractor,
    avatar_features,
    inception_features,
)
from anycost.benchmarks.quality.pairs import Distance, lpips, pyramid_distance
from anycost.errors import InputError
from anycost.runtime.bundle import Bundle
from anycost.runtime.files import record_of

_PREDICTOR = "attributes"


@dataclass(frozen=True)
class Tools:
    """features: an attribute predictor of one's own for the Frechet distance, FD-<its file's stem>. fid: Inception's file for
    FID, with ``resize``. lpips: the files of VGG16 and of the heads. predictor: that of attribute consistency.

    Without files: the embedded attribute network, FD-avatar, and the pyramid distance.
    """

    features: Path | None = None
    fid: Path | None = None
    resize: str = "pytorch-fid"
    lpips: tuple[Path, Path] | None = None
    predictor: Path | None = None

    def __post_init__(self) -> None:
        if self.features and self.fid:
            raise InputError("features and FID's weights were both given: a Frechet distance takes one network")

    def extractor(self) -> Extractor:
        """Raises CheckpointError, InputError."""
        if self.fid:
            return inception_features(self.fid, self.resize)
        return replace(
            avatar_features(self.features), measure=f"FD-{self.features.stem}" if self.features else "FD-avatar"
        )

    def distance(self) -> Distance:
        """Raises CheckpointError."""
        return lpips(*self.lpips) if self.lpips else pyramid_distance()

    def attributes(self) -> AvatarFeatures | None:
        """The predictor of attribute consistency, None where there is none."""
        return avatar_features(self.predictor) if self.predictor else None

    def described(self) -> dict[str, str]:
        """By content, for keys: the same files elsewhere give the same figures."""
        given = {"features": self.features, "fid": self.fid, "predictor": self.predictor}
        given |= dict(zip(("vgg", "heads"), self.lpips, strict=True)) if self.lpips else {}
        found = {name: _sha256(path) for name, path in given.items() if path}
        return found | ({"resize": self.resize} if self.fid else {})


def with_files(tools: Tools, bundle: Bundle) -> Tools:
    """Absolute paths, and the predictor of consistency: that of the bundle, else the one that gives the features, else the
    embedded one."""
    predictor = tools.predictor or _of_bundle(bundle) or tools.features or embedded(AVATAR_NETWORK)
    return Tools(
        _absolute(tools.features),
        _absolute(tools.fid),
        tools.resize,
        (tools.lpips[0].resolve(), tools.lpips[1].resolve()) if tools.lpips else None,
        _absolute(predictor),
    )


def _of_bundle(bundle: Bundle) -> Path | None:
    held = [network for network in bundle.manifest.networks if network.kind == _PREDICTOR]
    return bundle.path(held[0].weights) if held else None


def embedded(name: str) -> Path | None:
    """A file of the package's own, None where it is not there."""
    with as_file(files("anycost.weights.embedded") / name) as path:
        return path if path.is_file() else None


def _absolute(path: Path | None) -> Path | None:
    return path.resolve() if path else None


def _sha256(path: Path) -> str:
    try:
        return record_of(path).sha256
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
