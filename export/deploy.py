"""The static-weight form of the elastic generator: what every compiler gets.

The paper scales the weights of each convolution by a style, so every image has its own weights; a compiler can neither
pack such weights nor batch over them. Exactly equal in real arithmetic is

    y = d * conv(x * s, W),   d = rsqrt((s^2) . sum_k W^2 + 1e-8),

where W is a constant. The gain sqrt 2 of the activation is folded into d, the noise strength and the bias (leaky ReLU is
positively homogeneous), and the equalizing scales into W and the affines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anycost.networks.channels import Architecture, Layer, Subnet
from anycost.networks.stylegan2 import PixelNorm, fir_kernel
from anycost.runtime.binding import Binding, Dtype


def synthesis_bindings(arch: Architecture, net: Subnet) -> dict[str, Binding]:
    """Constants of ``static_synthesis`` for one sub-network, each from a tensor of the checkpoint (by published name)."""
    full = {layer.name: layer for layer in arch.full().layers()}
    found = {"input": _take("input.input", (1, net.channels[0], 4, 4))}
    for layer in net.layers():
        found |= _layer_bindings(layer, full[layer.name], arch.style_dim)
    return found


def noise_bindings(net: Subnet) -> dict[str, Binding]:
    """The stored noise of a sub-network times its strengths: ``noise_i`` [1, 1, H, H] for every 3x3 convolution."""
    found = {}
    for layer in net.layers():
        if layer.noise is not None:
            shape = (1, 1, layer.resolution, layer.resolution)
            strength = f"{layer.name}.noise.weight"
            found[f"noise_{layer.noise}"] = _take(f"noises.noise_{layer.noise}", shape, scale=sqrt(2), times=strength)
    return found


def with_noise(
    bindings: Mapping[str, Binding], net: Subnet, stored: bool, dtype: Dtype = "float32"
) -> dict[str, Binding]:
    """The constants of a synthesis network whose noise is an input, or those with the stored noise in place of its strengths.
    dtype: of the stored noise."""
    if not stored:
        return dict(bindings)
    kept = {name: value for name, value in bindings.items() if not name.endswith(".strength")}
    return kept | {name: value.model_copy(update={"dtype": dtype}) for name, value in noise_bindings(net).items()}


def mapping_bindings(arch: Architecture) -> dict[str, Binding]:
    """Constants of ``static_mapping``: weight [in, out] and bias of every layer, with the gain sqrt 2 folded in."""
    dim = arch.style_dim
    found = {}
    for i in range(1, arch.n_mlp + 1):
        scale = 0.01 / sqrt(dim) * sqrt(2)
        found[f"{i}.weight"] = _take(f"style.{i}.weight", (dim, dim), scale=scale, order=(1, 0))
        found[f"{i}.bias"] = _take(f"style.{i}.bias", (dim,), scale=0.01 * sqrt(2))
    return found


def _take(source: str, take: tuple[int, ...], shape: tuple[int, ...] | None = None, **steps: Any) -> Binding:
    return Binding(source=source, take=take, shape=shape or take, **steps)


def _layer_bindings(layer: Layer, full: Layer, style_dim: int) -> dict[str, Binding]:
    name, entering, leaving = layer.name, layer.entering, layer.leaving
    kernel = 1 if layer.rgb else 3
    scale = 1 / sqrt(full.entering * kernel**2)
    taken = (1, leaving, entering, kernel, kernel)
    # A transposed convolution has its input channels first.
    shape = (entering, leaving, kernel, kernel) if layer.up else (leaving, entering, kernel, kernel)
    affine = (entering, style_dim)
    found = {
        f"{name}.affine": _take(
            f"{name}.conv.modulation.weight", affine, affine[::-1], scale=1 / sqrt(style_dim), order=(1, 0)
        ),
        f"{name}.affine_bias": _take(f"{name}.conv.modulation.bias", (entering,)),
        f"{name}.weight": _take(
            f"{name}.conv.weight", taken, shape, scale=scale, order=(0, 2, 1, 3, 4) if layer.up else None
        ),
    }
    if layer.rgb:
        found[f"{name}.bias"] = _take(f"{name}.bias", (1, 3, 1, 1))
        return found
    # Half of sum W^2: 1 / sqrt(x / 2) = sqrt 2 / sqrt(x) is the folded gain.
    found[f"{name}.energy"] = _take(
        f"{name}.conv.weight", taken, (entering, leaving), scale=scale**2 / 2, square_sum=True, order=(0, 2, 1)
    )
    found[f"{name}.strength"] = _take(f"{name}.noise.weight", (1,), (1, 1, 1, 1), scale=sqrt(2))
    found[f"{name}.bias"] = _take(f"{name}.activate.bias", (leaving,), (1, leaving, 1, 1), scale=sqrt(2))
    return found


def bind(bindings: Mapping[str, Binding], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Apply every binding to its float32 source tensor, and round; differentiable."""
    return {
        name: binding.apply(tensors[binding.source], None if binding.times is None else tensors[binding.times]).to(
            getattr(torch, binding.dtype)
        )
        for name, binding in bindings.items()
    }


def static_synthesis(
    net: Subnet, tensors: Mapping[str, Tensor], w_plus: Tensor, noise: Sequence[Tensor] | None, kernel: Tensor
) -> list[Tensor]:
    """w+ [N, n_style, style_dim] and one noise [1 or N, 1, H, H] a 3x3 convolution -> images [N, 3, R, R], 4 px first.

    tensors: the bound ``synthesis_bindings``. noise: None takes the bound ``noise_bindings``. kernel: the FIR at gain 4.
    """
    x = tensors["input"]
    images: list[Tensor] = []
    for layer in net.layers():
        name = layer.name
        style = torch.addmm(tensors[f"{name}.affine_bias"], w_plus[:, layer.row], tensors[f"{name}.affine"])
        scaled = x * style[:, :, None, None]
        if layer.rgb:
            image = F.conv2d(scaled, tensors[f"{name}.weight"]) + tensors[f"{name}.bias"]
            images.append(image + upsample(images[-1], kernel) if images else image)
            continue
        energy = (style * style) @ tensors[f"{name}.energy"]
        # rsqrt(energy + 0.5e-8) in the form of ``rsqrt_plus``.
        demodulation = (torch.rsqrt(energy * 1e8 + 0.5) * 1e4)[:, :, None, None]
        if layer.up:
            y = F.conv_transpose2d(scaled, tensors[f"{name}.weight"], stride=2)
            y = F.conv2d(y, kernel.expand(layer.leaving, 1, 4, 4), padding=1, groups=layer.leaving)
        else:
            y = F.conv2d(scaled, tensors[f"{name}.weight"], padding=1)
        assert layer.noise is not None
        grain = tensors[f"noise_{layer.noise}"] if noise is None else noise[layer.noise] * tensors[f"{name}.strength"]
        x = F.leaky_relu((y * demodulation + grain) + tensors[f"{name}.bias"], 0.2)
    return images


def upsample(image: Tensor, kernel: Tensor) -> Tensor:
    """Zero insertion, padding (2, 1) and the FIR are together a depthwise transposed convolution (the FIR is symmetric)."""
    return F.conv_transpose2d(image, kernel.expand(3, 1, 4, 4), stride=2, padding=1, groups=3)


def static_mapping(tensors: Mapping[str, Tensor], z: Tensor, n_mlp: int) -> Tensor:
    """z [N, style_dim] -> w [N, style_dim] from the bound ``mapping_bindings``."""
    x = PixelNorm()(z)
    for i in range(1, n_mlp + 1):
        x = F.leaky_relu(torch.addmm(tensors[f"{i}.bias"], x, tensors[f"{i}.weight"]), 0.2)
    return x


class Deployed(nn.Module):
    """The form as a module, for PyTorch alone: bound constants as buffers. Subclasses say how they are used."""

    def __init__(self, bindings: Mapping[str, Binding], state: Mapping[str, Tensor]):
        super().__init__()
        self.bindings = dict(bindings)
        self.constants = nn.Module()
        for name, tensor in bind(bindings, state).items():
            # Dots are not allowed in buffer names.
            self.constants.register_buffer(name.replace(".", "__"), tensor.detach().contiguous())

    def tensors(self) -> dict[str, Tensor]:
        return {name: self.constants.get_buffer(name.replace(".", "__")) for name in self.bindings}


class StaticSynthesis(Deployed):
    """forward(w_plus, noise) -> image [N, 3, R, R]; noise is a list of [N, 1, H, H], one a 3x3 convolution.

    With ``stored_noise`` the noise is a constant: forward(w_plus).
    """

    def __init__(self, arch: Architecture, net: Subnet, state: Mapping[str, Tensor], stored_noise: bool = False):
        super().__init__(with_noise(synthesis_bindings(arch, net), net, stored_noise), state)
        self.net = net
        self.register_buffer("kernel", fir_kernel(4.0)[None, None])

    def forward(self, w_plus: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        return static_synthesis(self.net, self.tensors(), w_plus, noise, self.kernel)[-1]


class StaticMapping(Deployed):
    """forward(z) -> w, both [N, style_dim]."""

    def __init__(self, arch: Architecture, state: Mapping[str, Tensor]):
        super().__init__(mapping_bindings(arch), state)
        self.n_mlp = arch.n_mlp

    def forward(self, z: Tensor) -> Tensor:
        return static_mapping(self.tensors(), z, self.n_mlp)
