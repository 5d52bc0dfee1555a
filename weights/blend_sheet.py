"""A contact sheet of every swap point between two generators: where to swap is a matter of taste, so it is looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from anycost.errors import InputError
from anycost.export.deploy import bind, noise_bindings, static_synthesis, synthesis_bindings
from anycost.networks.channels import Architecture
from anycost.networks.stylegan2 import fir_kernel, truncate
from anycost.pictures import LARGEST_SHEET
from anycost.runtime.latents import as_images, check_psi, check_seeds, latents
from anycost.weights.blend import blend_tensors, check_same_shape, shares, swap_points
from anycost.weights.checkpoint import Checkpoint

LARGEST_CELL = 256
_SMALLEST_CELL = 64
_FONT_SIZES = (13, 24)
_BATCH_PIXELS = 1 << 20  # one image of 1024 px: its activations take about 0.5 GB


def sheet(base: Checkpoint, transfer: Checkpoint, seeds: Sequence[int], psi: float, ramp: float = 0) -> np.ndarray:
    """uint8 [H, W, 3]: the base, one row for each swap point from the lowest to the highest, the transfer.

    The seeds are the columns. psi: truncation, towards the base's mean in every row but the last. ramp: as in ``blend``.
    Stored noise. Images above 256 px are shown at 256 px, those below 64 px enlarged by a whole factor.

    Raises InputError for the arguments and a sheet too large for memory; CheckpointError as ``blend``.
    """
    seeds, psi = check_seeds(seeds), check_psi(psi)
    check_same_shape(base, transfer)
    arch = base.arch
    points = swap_points(arch)
    shares(arch, *points[0], ramp)  # refuses a wrong ramp before anything is drawn
    side = cell_side(arch.resolution)
    titles = ["base", *(f"{resolution} px, level {level}" for resolution, level in points), "transfer"]
    margin = _margin(titles, side)
    pixels = len(titles) * side * (margin + len(seeds) * side)
    if pixels > LARGEST_SHEET:
        raise InputError(f"a sheet of {len(seeds)} seeds has {pixels} pixels: {LARGEST_SHEET} is the most; give fewer")
    w_base, w_transfer = styles(base, seeds, psi), styles(transfer, seeds, psi)
    filled = np.full((len(titles) * side, margin + len(seeds) * side, 3), 255, np.uint8)
    for row, title in enumerate(titles):
        if title == "transfer":
            images = _render(arch, transfer.tensors, w_transfer)
        elif title == "base":
            images = _render(arch, base.tensors, w_base)
        else:
            images = _render(arch, blend_tensors(base, transfer, *points[row - 1], ramp), w_base)
        band = filled[row * side : (row + 1) * side]
        band[:, :margin] = _label(title, margin, side)
        band[:, margin:] = images.swapaxes(0, 1).reshape(side, -1, 3)
    return filled


def cell_side(resolution: int) -> int:
    """Pixels of one picture of the sheet, from the generator's resolution."""
    return min(LARGEST_CELL, resolution * max(1, _SMALLEST_CELL // resolution))


@torch.no_grad()
def styles(checkpoint: Checkpoint, seeds: Sequence[int], psi: float) -> Tensor:
    """w [N, style_dim] of the seeds by a network's own mapping, truncated towards its own mean."""
    network = checkpoint.generator()
    w = network.mapping(torch.from_numpy(latents(seeds, checkpoint.arch.style_dim)))
    if psi == 1:
        return w
    return truncate(w, network.mean_style() if checkpoint.mean_style is None else checkpoint.mean_style, psi)


@torch.no_grad()
def _render(arch: Architecture, tensors: dict[str, Tensor], w: Tensor) -> np.ndarray:
    """Images [N, cell, cell, 3] by the static-weight form, which is several times faster than the plain one."""
    net = arch.full()
    bindings = synthesis_bindings(arch, net) | noise_bindings(net)
    wanted = {name for binding in bindings.values() for name in (binding.source, binding.times) if name}
    bound = bind(bindings, {name: tensors[name].float() for name in wanted})
    kernel = fir_kernel(4.0)[None, None]
    side = cell_side(arch.resolution)
    found = []
    for part in w.split(max(1, _BATCH_PIXELS // arch.resolution**2)):
        w_plus = part[:, None].expand(-1, arch.n_style, -1)
        images = static_synthesis(net, bound, w_plus, None, kernel)[-1].clamp(-1, 1)
        if side < arch.resolution:
            images = F.avg_pool2d(images, arch.resolution // side)
        found.append(as_images(images.numpy()))
    enlarge = max(1, side // arch.resolution)
    return np.concatenate(found).repeat(enlarge, axis=1).repeat(enlarge, axis=2)


def _font(side: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    smallest, largest = _FONT_SIZES
    return ImageFont.load_default(min(largest, max(smallest, side // 10)))


def _margin(titles: Sequence[str], side: int) -> int:
    font = _font(side)
    return int(max(font.getlength(title) for title in titles)) + 16


def _label(title: str, width: int, height: int) -> np.ndarray:
    picture = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(picture).text((8, height / 2), title, fill="black", font=_font(height), anchor="lm")
    return np.asarray(picture)
