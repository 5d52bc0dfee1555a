"""What every pipeline does alike: checking the network's kind, and pictures of any source to batches of its input and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np

from anycost.errors import BundleError, InputError
from anycost.runtime.images import Source, read_image, to_input
from anycost.runtime.latents import as_images
from anycost.runtime.manifest import PartRecord, PortRecord
from anycost.runtime.networks import LoadedNetwork

Array = np.ndarray
Images = Source | Sequence[Source]

BATCH = 8
MOST_BATCH = 256


def check_kind(network: LoadedNetwork, *kinds: str) -> None:
    """Raises InputError where the network is of none of these kinds."""
    record = network.record
    if record.kind not in kinds:
        raise InputError(f"{record.name} is of kind {record.kind}: give a network of kind {' or '.join(kinds)}")


def check_batch(batch: int) -> int:
    if not 1 <= batch <= MOST_BATCH:
        raise InputError(f"batch {batch} is outside 1..{MOST_BATCH}")
    return batch


def part_of(network: LoadedNetwork, name: str = "") -> PartRecord:
    """Raises BundleError where the manifest's record does not have what networks of this kind have."""
    record = network.record
    try:
        return record.part(name)
    except KeyError as error:
        raise BundleError(f"{record.name} of kind {record.kind} has no part {error.args[0]}: build it again") from None


def side_of(network: LoadedNetwork, port: PortRecord) -> int:
    """Side in pixels of an input or output that is a square picture."""
    if len(port.shape) != 3 or port.shape != (3, port.shape[1], port.shape[1]):
        raise BundleError(
            f"{port.name} of {network.record.name} is {list(port.shape)}, not a square picture of 3 channels: "
            "build it again"
        )
    return port.shape[1]


def names_of(network: LoadedNetwork, count: int) -> tuple[str, ...]:
    """What the network's outputs are called: its labels, or "0", "1", ... where it has none."""
    labels = network.record.labels or tuple(map(str, range(count)))
    if len(labels) != count or len(set(labels)) != count:
        raise BundleError(
            f"{network.record.name} has {len(set(labels))} different labels for {count} outputs: build it again"
        )
    return labels


def sources(images: Images) -> list[Source]:
    """One picture, a list of them or an array [N, H, W, C] -> a list. Raises InputError for an empty one."""
    listed: list[Source]
    if isinstance(images, list | tuple) or (isinstance(images, np.ndarray) and images.ndim == 4):
        listed = list(images)
    else:
        listed = [cast(Source, images)]
    if not listed:
        raise InputError("no pictures were given: give at least one")
    return listed


def fitted(image: Array, size: int, values: str, fit: str) -> Array:
    """uint8 [H, W, 3] -> float32 [1, 3, size, size], in [0, 1] where ``values`` is "unit", else in [-1, 1]."""
    pixels = to_input(image, size, fit)
    return (pixels + 1) / 2 if values == "unit" else pixels


def run_on(
    network: LoadedNetwork, images: Images, fit: str, *, part: str = "", batch: int = BATCH
) -> Iterator[dict[str, Array]]:
    """Outputs of the part whose only input is a picture, ``batch`` pictures at a time. A picture is read when it is due,
    so that a long list of large files takes no more memory than a short one."""
    check_batch(batch)
    listed = sources(images)
    port = part_of(network, part).inputs[0]
    size = side_of(network, port)
    for start in range(0, len(listed), batch):
        rows = []
        for i, source in enumerate(listed[start : start + batch], start + 1):
            try:
                rows.append(fitted(read_image(source), size, port.values, fit))
            except InputError as error:
                if len(listed) == 1:
                    raise
                raise InputError(f"picture {i} of {len(listed)}: {error}") from None
        yield network.run(part, {port.name: np.concatenate(rows)})


def pictures(network: LoadedNetwork, output: Array, port: PortRecord) -> Array:
    """An output [N, 3, S, S] -> uint8 [N, S, S, 3], after its port's range. Raises InputError for a NaN or an infinity."""
    return as_images(output * 2 - 1 if port.values == "unit" else output)
