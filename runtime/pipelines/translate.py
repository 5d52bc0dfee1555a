"""Pictures and videos of one domain to another: GANs N' Roses in many styles, CycleGAN and DiscoGAN in one way."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from anycost.errors import InputError
from anycost.runtime import video
from anycost.runtime.images import Source, resize
from anycost.runtime.networks import LoadedNetwork
from anycost.runtime.pipelines.common import (
    BATCH,
    Array,
    Images,
    check_batch,
    check_kind,
    fitted,
    part_of,
    pictures,
    run_on,
    side_of,
)
from anycost.runtime.pipelines.styles import check_style, read_style, style_from_seed

__all__ = ["KINDS", "read_style", "style_dim", "style_from_seed", "style_of", "translate_file", "translate_image"]

STYLED = "gans-n-roses"
KINDS = (STYLED, "cyclegan", "discogan")
FITS = ("crop", "stretch", "pad")

Pixels = video.Frames


def style_dim(network: LoadedNetwork) -> int:
    """Numbers of a style; 0 for a network that translates in one way only. Raises InputError for another kind."""
    check_kind(network, *KINDS)
    return part_of(network, "decode").inputs[1].shape[0] if network.record.kind == STYLED else 0


def style_of(network: LoadedNetwork, image: Images, fit: str = "crop", *, batch: int = BATCH) -> Array:
    """The styles of N reference pictures, float32 [N, dim]: the style code that the network's own encoder gives them.

    An encoder has learnt the pictures that its direction translates from. For a reference from the domain that it
    translates to, use the network of the other direction here and this one to translate. Raises InputError.
    """
    check_kind(network, STYLED)
    return np.concatenate([outputs["style"] for outputs in run_on(network, image, fit, part="encode", batch=batch)])


def translate_image(
    network: LoadedNetwork, image: Source, styles: Any = None, fit: str = "crop", *, batch: int = BATCH
) -> Pixels:
    """One picture of any source -> uint8 [K, S, S, 3], S the network's side, a picture for each style.

    styles: [dim] or [K, dim]; None for the picture's own style, and for the kinds that have none (K = 1). The picture is
    encoded once and decoded ``batch`` styles at a time. Raises InputError.
    """
    given = _styles(network, styles)
    check_batch(batch)
    if style_dim(network) == 0:
        outputs = next(run_on(network, [image], fit))
        port = part_of(network).outputs[0]
        return pictures(network, outputs[port.name], port)
    encoded = next(run_on(network, [image], fit, part="encode"))
    if given is None:
        given = encoded["style"]
    made = [_decoded(network, encoded["content"], given[i : i + batch]) for i in range(0, len(given), batch)]
    return np.concatenate(made)


def translate_file(
    network: LoadedNetwork,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    style: Any = None,
    *,
    style_end: Any = None,
    fit: str = "crop",
    keep_size: bool = False,
    batch: int = 4,
    progress: video.Steps | None = None,
) -> int:
    """A video through ``anycost.runtime.video.translate_video``: times and sound stay, a killed run goes on. -> frames.

    style: one, [dim] or [1, dim], held for all frames; style_end: moved to on a straight line, reached at the last frame.
    None for the kinds without styles. fit brings a frame to the network's square: "crop" takes the middle, "stretch" and
    "pad" all of it. The frames that are written are that square, or with keep_size of the source's size:

    * "crop": the translated middle in its place, between the margins of the frame as they were.
    * "stretch": the square is stretched back over all of the frame.
    * "pad": the padding is cut off again, so that all of the frame is translated in its own proportions.

    A run goes on only if the network, the styles and these options are the same. Raises InputError, or BackendError where
    PyAV is not installed.
    """
    check_batch(batch)
    if fit not in FITS:
        raise InputError(f"fit {fit!r} is unknown: {', '.join(FITS)}")
    first, last = _one(network, style, "style"), _one(network, style_end, "style_end")
    dim = style_dim(network)
    if dim and first is None:
        raise InputError(f"{network.record.name} translates a video in one style: give it, such as that of a seed")
    frames = video.count_frames(Path(source)) if last is not None else 1

    def transform(images: Pixels, index: int) -> Pixels:
        styles = None
        if first is not None:
            # Beside the last frame's index, a file may hold more frames than it tells.
            at = np.minimum((index + np.arange(len(images))) / max(frames - 1, 1), 1)[:, None]
            styles = (first + at * ((first if last is None else last) - first)).astype(np.float32)
        made = _translated(network, images, styles, fit)
        return np.stack([_back(*pair, fit) for pair in zip(images, made, strict=True)]) if keep_size else made

    record = network.record
    job = [record.source_sha256, record.kind, record.name, record.arguments, fit, keep_size]
    job += [None if given is None else given.tobytes().hex() for given in (first, last)]
    key = hashlib.sha256(json.dumps(job, sort_keys=True, default=str).encode()).hexdigest()
    return video.translate_video(source, target, transform, key, batch=batch, progress=progress)


def _styles(network: LoadedNetwork, styles: Any, name: str = "the style") -> Array | None:
    dim = style_dim(network)
    if styles is None:
        return None
    if dim == 0:
        raise InputError(
            f"{name} was given and {network.record.name} of kind {network.record.kind} has no styles: leave it out"
        )
    return check_style(styles, dim, name)


def _one(network: LoadedNetwork, style: Any, name: str) -> Array | None:
    checked = _styles(network, style, name)
    if checked is not None and len(checked) != 1:
        raise InputError(f"{name} has {len(checked)} rows: a video takes one, and style_end to move to another")
    return checked


def _translated(network: LoadedNetwork, images: Pixels, styles: Array | None, fit: str) -> Pixels:
    """uint8 [N, H, W, 3], styles [N, dim] or None -> uint8 [N, S, S, 3]."""
    part = "" if styles is None else "encode"
    port = part_of(network, part).inputs[0]
    size = side_of(network, port)
    entering = np.concatenate([fitted(image, size, port.values, fit) for image in images])
    outputs = network.run(part, {port.name: entering})
    if styles is not None:
        return _decoded(network, outputs["content"], styles)
    leaving = part_of(network).outputs[0]
    return pictures(network, outputs[leaving.name], leaving)


def _decoded(network: LoadedNetwork, content: Array, styles: Array) -> Pixels:
    """content [1 or N, ...] and styles [N, dim] -> uint8 [N, S, S, 3]."""
    content = np.broadcast_to(content, (len(styles), *content.shape[1:]))
    port = part_of(network, "decode").outputs[0]
    return pictures(network, network.run("decode", {"content": content, "style": styles})[port.name], port)


def _back(image: Pixels, made: Pixels, fit: str) -> Pixels:
    """The translated square at the size of the frame that it was made of: undoes ``to_input``."""
    height, width = image.shape[:2]
    if fit == "stretch":
        return resize(made, (height, width))
    size = made.shape[0]
    if fit == "pad":
        longest = max(height, width)
        inner = max(1, round(height * size / longest)), max(1, round(width * size / longest))
        top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
        return resize(np.ascontiguousarray(made[top : top + inner[0], left : left + inner[1]]), (height, width))
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    whole = image.copy()
    whole[top : top + side, left : left + side] = resize(made, (side, side))
    return whole
