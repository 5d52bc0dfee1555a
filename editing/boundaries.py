"""Published `boundary_*.pt` files of Anycost GAN as directions. The only part of editing that needs PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anycost.editing.directions import Array, Directions, Facts, load
from anycost.errors import AnycostError, BackendError, InputError

FRIENDLY = {
    "31_Smiling": "smiling",
    "39_Young": "young",
    "33_Wavy_Hair": "wavy hair",
    "17_Gray_Hair": "gray hair",
    "09_Blond_Hair": "blonde hair",
    "15_Eyeglasses": "eyeglass",
    "22_Mustache": "mustache",
}


def read_directions(path: Path) -> Directions:
    """Directions of either file, told from its content: safetensors, or a published ``boundary_*.pt``.

    Raises InputError, CheckpointError, and BackendError for a boundary without PyTorch.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise InputError(
            f"directions {path} cannot be read: {error.strerror or error}; give safetensors, or a boundary_*.pt"
        ) from None
    return load(path) if head[8:9] == b"{" else read_boundaries(path)


def read_boundaries(path: Path) -> Directions:
    """A torch-saved mapping of CelebA attribute keys to tensors [1, style_dim] (Anycost GAN, arXiv 2103.03243).

    The seven attributes of the published editor come first and under its names, the others follow under their keys in
    the file's order. `about` has the rule, the key and the length that the vector had; the published ones are unit
    normals of InterFaceGAN's SVM (arXiv 2005.09635). Only tensors are read, no code of the file runs.
    Raises InputError, CheckpointError, and BackendError without PyTorch.
    """
    try:
        from anycost.weights.formats import read_content
    except ImportError as error:
        raise BackendError(
            f"reading {path.name} needs {error.name}, which is not installed: pip install 'anycost-runtime[export]'"
        ) from None
    try:
        tensors = read_content(path).groups.get("", {})
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    keys = [key for key in FRIENDLY if key in tensors] + [key for key in tensors if key not in FRIENDLY]
    vectors: dict[str, Array] = {}
    about: dict[str, Facts] = {}
    for key in keys:
        tensor = tensors[key]
        if tensor.ndim not in (1, 2) or tensor.numel() != tensor.shape[-1] or not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(f"{path}: {key} is {kind} {list(tensor.shape)}: a boundary [1, style_dim] was expected")
        vector = tensor.double().numpy().reshape(-1)
        name = FRIENDLY.get(key, key)
        if name in vectors:
            raise InputError(f"{path}: two of its boundaries would be called {name!r}")
        vectors[name] = vector
        about[name] = {"rule": "published boundary", "key": key, "length": round(float(np.linalg.norm(vector)), 6)}
    try:
        return Directions.of(vectors, about)
    except AnycostError as error:
        raise InputError(f"{path}: {error}") from None
