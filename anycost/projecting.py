"""From the arguments of ``anycost project`` to a code. Imports PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from anycost.editing.projection import Projection, project, start_from_mean
from anycost.errors import CheckpointError
from anycost.networks.channels import Architecture
from anycost.networks.perceptual import Lpips, PyramidDistance
from anycost.runtime.images import Source, read_image, to_input
from anycost.runtime.runtime import Runtime
from anycost.weights.checkpoint import read
from anycost.weights.formats import read_content

_ENCODER = "encoder"


def project_image(
    runtime: Runtime,
    image: Path | Source,
    guess: np.ndarray | None,
    steps: int,
    consistent: bool,
    lpips: tuple[Path, Path] | None,
    progress: Callable[[str, int, int], None],
) -> Projection:
    """The code of one picture, from ``guess`` [1, n_style, style_dim], else the bundle's encoder's, else the mean.

    consistent: over all sub-networks of the bundle, not the full network alone. lpips: files of VGG16 and of LPIPS's heads,
    to measure by them instead of the pyramid distance.
    """
    record = runtime.bundle.generator
    torch.set_num_threads(runtime.threads)
    generator = read(runtime.bundle.path(record.weights)).generator()
    target = torch.from_numpy(to_input(read_image(image), record.architecture.resolution))
    arch = Architecture(**record.architecture.model_dump())
    nets = [arch.subnet(net.resolution, net.channels, net.name) for net in record.subnets] if consistent else None
    if guess is not None:
        start = torch.from_numpy(guess)
    elif any(network.kind == _ENCODER for network in runtime.bundle.manifest.networks):
        from anycost.runtime.pipelines.encode import encode

        start = torch.from_numpy(encode(runtime.network(_ENCODER), image))
    else:
        start = start_from_mean(generator, torch.from_numpy(runtime.mean_style()))
    perceptual = PyramidDistance() if lpips is None else _lpips(*lpips)
    return project(generator, target, start, nets=nets, steps=steps, perceptual=perceptual, progress=progress)


def _lpips(vgg: Path, heads: Path) -> Lpips:
    """Only tensors of the two files are read. Raises CheckpointError."""
    states = []
    for path in (vgg, heads):
        try:
            states.append(read_content(path).groups.get("", {}))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    return Lpips().load(*states)
