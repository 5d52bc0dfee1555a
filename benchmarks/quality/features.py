"""What Frechet distances compare: features of pictures, from the embedded attribute network or from Inception.

Only distances of Inception's features, from the standard file of its weights, are called FID (Heusel et al., arXiv
1706.08500). How a picture is brought to its 299 px changes the distance (Parmar et al., arXiv 2104.11222), so that the way
is part of the name:

* "pytorch-fid" (github.com/mseitzer/pytorch-fid): bilinear on [0, 1] without a filter, also when making smaller; then 2x - 1.
* "clean-fid" (github.com/GaParmar/clean-fid): Pillow's bicubic, which filters when making smaller, each channel as floating
  point; what overshoots is clipped to 0..255 (as its releases do since 2022), nothing is rounded; then (x - 128) / 128.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from anycost.benchmarks.quality.pixels import levels, signed
from anycost.errors import CheckpointError, InputError
from anycost.networks.inception import FEATURES, SIDE, InceptionV3
from anycost.networks.resnet import AttributePredictor
from anycost.weights.checkpoint import NetworkCheckpoint, read_any

Array = np.ndarray
AVATAR_NETWORK, AVATAR_DATA = "avatars-attributes.safetensors", "avatars-features.safetensors"
# In the metadata of a file of features: the sha256 of the file of the network that gave them.
NETWORK_SHA256 = "network_sha256"
_BATCH = 32


class Extractor(Protocol):
    """measure: name of the Frechet distance of these features. identity: sha256 of the weights and the way of resizing; equal
    only for equal features. dim: D. Called with uint8 [N, H, W, 3] of any side -> float32 [N, D]."""

    @property
    def measure(self) -> str: ...

    @property
    def identity(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def __call__(self, images: Array) -> Array: ...


@dataclass(frozen=True)
class AvatarFeatures:
    """The pooled features of an attribute network; pictures are enlarged bilinearly or reduced by area to its side.

    network_sha256: of its file. labels: of its attributes, where the file says them.
    """

    network: AttributePredictor = field(repr=False)
    network_sha256: str
    labels: tuple[str, ...]
    measure: str = "FD-avatar"

    @property
    def identity(self) -> str:
        return _identity(self.network_sha256, f"area-bilinear {self.network.size}")

    @property
    def dim(self) -> int:
        return self.network.fc.in_features

    def __call__(self, images: Array) -> Array:
        return _in_batches(images, self._features)

    def logits(self, features: Array) -> Array:
        """Features [N, D] -> logits [N, attributes, 2] (no, yes): what the network says of the pictures they are of."""
        with torch.no_grad():
            found = self.network.fc(torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)))
        return found.reshape(len(features), -1, 2).numpy()

    def _features(self, images: Array) -> Tensor:
        return self.network.trunk(signed(to_side(levels(images), self.network.size)))


@dataclass(frozen=True)
class InceptionFeatures:
    """The 2048 features of FID."""

    network: InceptionV3 = field(repr=False)
    network_sha256: str
    resize: str
    dim: int = FEATURES

    @property
    def measure(self) -> str:
        return f"FID ({self.resize} resize)"

    @property
    def identity(self) -> str:
        return _identity(self.network_sha256, self.resize)

    def __call__(self, images: Array) -> Array:
        return _in_batches(images, lambda some: self.network(RESIZES[self.resize](some))[0])


def avatar_features(path: Path | None = None) -> AvatarFeatures:
    """From the embedded attribute network, or another one. Raises CheckpointError."""
    found = _network(path or _embedded(AVATAR_NETWORK), "attributes")
    network = found.module()
    assert isinstance(network, AttributePredictor)
    return AvatarFeatures(network, found.sha256, found.labels)


def inception_features(path: Path, resize: str = "pytorch-fid") -> InceptionFeatures:
    """From the standard file, pt_inception-2015-12-05-6726825d.pth. Raises CheckpointError, or InputError for the resize.

    That the file is the standard one is not checked: its network is told from its tensors.
    """
    if resize not in RESIZES:
        raise InputError(f"resize {resize!r} is unknown: {' or '.join(RESIZES)}")
    found = _network(path, "inception")
    network = found.module()
    assert isinstance(network, InceptionV3)
    return InceptionFeatures(network, found.sha256, resize)


def embedded_data(extractor: AvatarFeatures, path: Path | None = None) -> Array:
    """Features float32 [N, D] of the embedded validation pictures. Raises CheckpointError where they are of another network."""
    path = path or _embedded(AVATAR_DATA)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata, features = file.metadata() or {}, file.get_tensor("features")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} holds no features: {' '.join(str(error).split())[:200]}") from None
    if metadata.get(NETWORK_SHA256) != extractor.network_sha256:
        raise CheckpointError(
            f"{path.name} holds features of the network {metadata.get(NETWORK_SHA256, 'unknown')[:12]}, not of "
            f"{extractor.network_sha256[:12]}: make them again with the network's recipe"
        )
    if features.ndim != 2 or features.shape[1] != extractor.dim:
        raise CheckpointError(f"{path.name} holds features {list(features.shape)}, not [N, {extractor.dim}]")
    return features.astype(np.float32)


def to_side(images: Tensor, side: int) -> Tensor:
    """[N, 3, H, W] -> [N, 3, side, side]: reduced by area where either side is larger, else enlarged bilinearly."""
    if images.shape[2:] == (side, side):
        return images
    if max(images.shape[2:]) > side:
        return F.interpolate(images, (side, side), mode="area")
    return F.interpolate(images, (side, side), mode="bilinear", align_corners=False)


def pytorch_fid_input(images: Array) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, 299, 299] in [-1, 1] as pytorch-fid does."""
    return 2 * F.interpolate(levels(images) / 255, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1


def clean_fid_input(images: Array) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, 299, 299] in [-1, 127 / 128] as clean-fid does."""
    planes = levels(images).flatten(0, 1).numpy()
    resized = [np.asarray(Image.fromarray(plane).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for plane in planes]
    return (torch.from_numpy(np.stack(resized)).clamp(0, 255).unflatten(0, (-1, 3)) - 128) / 128


RESIZES: dict[str, Callable[[Array], Tensor]] = {"pytorch-fid": pytorch_fid_input, "clean-fid": clean_fid_input}


def _in_batches(images: Array, features: Callable[[Array], Tensor]) -> Array:
    with torch.no_grad():
        found = [features(images[i : i + _BATCH]) for i in range(0, max(len(images), 1), _BATCH)]
    return torch.cat(found).numpy()


def _network(path: Path, kind: str) -> NetworkCheckpoint:
    found = read_any(path)
    if not isinstance(found, NetworkCheckpoint) or found.network != kind:
        held = found.network if isinstance(found, NetworkCheckpoint) else "stylegan2"
        raise CheckpointError(f"{path} holds a network of kind {held}: one of kind {kind} was expected")
    return found


def _embedded(name: str) -> Path:
    with as_file(files("anycost.weights.embedded") / name) as path:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: install the package again, or make it with its recipe")
        return path


def _identity(sha256: str, resize: str) -> str:
    return hashlib.sha256(f"{sha256} {resize}".encode()).hexdigest()
