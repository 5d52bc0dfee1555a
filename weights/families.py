"""Names of other families of StyleGAN2 generators turned into ours, which are Anycost's (``networks.stylegan2``).

The networks are the same function: NVIDIA's rows of w feed its layers in our order (the first convolution row 0, its
to-RGB row 1, then two convolutions and a to-RGB that shares its row with the next block). Two differences stay: NVIDIA
adds the 1e-8 of the demodulation to weights before their equalizing scale, far below float32's own rounding, and most of
its networks clamp activations to +-256, a guard of half precision that a trained network in float32 does not reach.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from anycost.errors import CheckpointError
from anycost.networks.channels import BASE_CHANNELS
from anycost.networks.stylegan2 import fir_kernel

_MEAN_STYLE = "mean_style"
_Rename = tuple[str, Callable[[Tensor], Tensor]]


def is_nvidia(names: Iterable[str]) -> bool:
    """Whether these are the names of a generator from NVIDIA's PyTorch repositories, StyleGAN3's included."""
    return any(name.startswith(("synthesis.", "mapping.fc")) for name in names)


def is_rosinality(names: Iterable[str]) -> bool:
    """Whether these are the names of rosinality's generator. They are Anycost's too, but for ``latent_avg``."""
    return {"style.1.weight", "input.input"} <= set(names)


def from_rosinality(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same names and shapes, and ``latent_avg`` (where the file has it, beside its ``g_ema``) as ``mean_style``
    [1, style_dim]."""
    found = {name: tensor for name, tensor in tensors.items() if name != "latent_avg"}
    if "latent_avg" in tensors:
        found[_MEAN_STYLE] = tensors["latent_avg"].reshape(1, -1)
    return found


def from_nvidia(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names and shapes from those of NVIDIA's generator, in the same float type.

    ``mapping.w_avg`` [style_dim] becomes ``mean_style`` [1, style_dim]; a convolution's weight [O, I, k, k] gets a leading
    axis, its noise [H, W] two and its noise strength [] one. Resampling filters are checked and left out: ours are
    constants. Raises CheckpointError that names the first tensor that no StyleGAN2 generator with skip connections and
    without classes has, or a filter other than [1, 3, 3, 1]. Sizes are not checked here.
    """
    renames = _nvidia_renames()
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in renames:
            ours, shaped = renames[name]
            found[ours] = shaped(tensor)
        elif re.fullmatch(r"synthesis\.b\d+(\.conv[01])?\.resample_filter", name):
            if tuple(tensor.shape) != (4, 4) or not torch.allclose(tensor.float(), fir_kernel(1.0), atol=1e-4):
                raise CheckpointError(f"tensor {name} is not the filter [1, 3, 3, 1]: other filters are not supported")
        elif name.startswith("mapping.embed."):
            raise CheckpointError(f"tensor {name} is of a generator with classes: only generators without are read")
        elif name.startswith("synthesis.input.") or re.match(r"synthesis\.L\d", name):
            raise CheckpointError(f"tensor {name} is of StyleGAN3: of NVIDIA's generators only StyleGAN2 is read")
        else:
            raise CheckpointError(
                f"tensor {name} of shape {list(tensor.shape)} is of no StyleGAN2 generator with skip connections"
            )
    return found


def _nvidia_renames() -> dict[str, _Rename]:
    """Our name and what makes our shape, by NVIDIA's name, for up to 1024 px."""
    renames: dict[str, _Rename] = {
        "mapping.w_avg": (_MEAN_STYLE, lambda x: x.reshape(1, -1)),
        "synthesis.b4.const": ("input.input", lambda x: x[None]),
    }
    for layer in range(64):
        for part in ("weight", "bias"):
            renames[f"mapping.fc{layer}.{part}"] = (f"style.{layer + 1}.{part}", lambda x: x)
    renames |= _convolution("synthesis.b4.conv1", "conv1", 0) | _to_rgb("synthesis.b4.torgb", "to_rgb1")
    for block, side in enumerate(side for side in BASE_CHANNELS if side > 4):
        for i in (0, 1):
            index = 2 * block + i
            renames |= _convolution(f"synthesis.b{side}.conv{i}", f"convs.{index}", index + 1)
        renames |= _to_rgb(f"synthesis.b{side}.torgb", f"to_rgbs.{block}")
    return renames


def _modulated(theirs: str, ours: str) -> dict[str, _Rename]:
    return {
        f"{theirs}.weight": (f"{ours}.conv.weight", lambda x: x[None]),
        f"{theirs}.affine.weight": (f"{ours}.conv.modulation.weight", lambda x: x),
        f"{theirs}.affine.bias": (f"{ours}.conv.modulation.bias", lambda x: x),
    }


def _convolution(theirs: str, ours: str, noise: int) -> dict[str, _Rename]:
    return _modulated(theirs, ours) | {
        f"{theirs}.bias": (f"{ours}.activate.bias", lambda x: x),
        f"{theirs}.noise_strength": (f"{ours}.noise.weight", lambda x: x.reshape(-1)),
        f"{theirs}.noise_const": (f"noises.noise_{noise}", lambda x: x[None, None]),
    }


def _to_rgb(theirs: str, ours: str) -> dict[str, _Rename]:
    return _modulated(theirs, ours) | {f"{theirs}.bias": (f"{ours}.bias", lambda x: x.reshape(1, -1, 1, 1))}
