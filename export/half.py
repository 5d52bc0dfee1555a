"""The static-weight form in half precision, arranged so that nothing overflows and little is lost.

As StyleGAN2-ADA does in its half-precision blocks (arXiv 2006.06676), weights and styles are normalized before they meet:
with s = b s' (b the largest |s|, per image) and W = a W' (a the largest |W|, per output channel),

    d conv(x s, W) = d' conv(x s', W' / f),    d' = f rsqrt((s'^2) . sum_k W'^2 + 1e-8 / (a b)^2),    f = sqrt(fan-in),

so by Cauchy and Schwarz the convolution's result is at most f times the largest |x|, whatever the scale of the styles. Styles,
demodulation and the sum of the to-RGB images are computed in float32; a style that is a hundred times larger changes b alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from anycost.export.deploy import Deployed, synthesis_bindings, upsample, with_noise
from anycost.networks.channels import Architecture, Layer, Subnet
from anycost.networks.stylegan2 import fir_kernel
from anycost.runtime.binding import Binding, Dtype

TYPES: dict[str, tuple[torch.dtype, Dtype]] = {
    "fp16": (torch.float16, "float16"),
    "bf16": (torch.bfloat16, "bfloat16"),
}
# Constants of what is computed in float32. (In half precision they would be cast in the graph, and the exporter folds casts of
# small constants: they would no longer be the weights file's.)
_FLOAT = {"affine", "affine_bias", "energy", "strength"}
_EPSILON = 1e-8  # StyleGAN2's, under the root of the demodulation
_LARGEST = 6e4  # of a demodulation coefficient: float16 ends at 65504


def half_bindings(arch: Architecture, net: Subnet, dtype: Dtype) -> dict[str, Binding]:
    """As ``synthesis_bindings``, normalized and in half precision. ``NAME.peak`` [out] is a, in float32."""
    full = {layer.name: layer for layer in arch.full().layers()}
    layers = {layer.name: layer for layer in net.layers()}
    found: dict[str, Binding] = {}
    for name, binding in synthesis_bindings(arch, net).items():
        kind = name.rsplit(".", 1)[-1]
        if kind == "weight":
            fan_in = binding.take[2] * binding.take[3] * binding.take[4]
            binding = binding.model_copy(update={"normalize": True, "scale": 1 / sqrt(fan_in)})
        elif kind == "energy":
            binding = binding.model_copy(update={"normalize": True, "scale": 1.0})
        layer = layers.get(name.rpartition(".")[0])  # None for the input
        if kind not in _FLOAT and not (layer and layer.rgb and kind == "bias"):
            up = layer is not None and layer.up and kind == "weight"
            binding = binding.model_copy(update={"dtype": "float16" if up else dtype})
        found[name] = binding
    for layer in net.layers():
        kernel = 1 if layer.rgb else 3
        found[f"{layer.name}.peak"] = Binding(
            source=f"{layer.name}.conv.weight",
            take=(1, layer.leaving, layer.entering, kernel, kernel),
            shape=(layer.leaving,),
            scale=1 / sqrt(full[layer.name].entering * kernel**2),
            peak=True,
        )
    return found


def half_synthesis(
    net: Subnet,
    tensors: Mapping[str, Tensor],
    w_plus: Tensor,
    noise: Sequence[Tensor] | None,
    kernel: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """w+ float32 [N, n_style, style_dim] and noise as for ``static_synthesis`` -> images float32 [N, 3, R, R].

    tensors: the bound ``half_bindings``. kernel: the FIR at gain 4, float32. dtype: of the activations.
    """
    x = tensors["input"]
    image: Tensor | None = None
    fir = kernel.to(dtype)
    for layer in net.layers():
        name = layer.name
        weight = tensors[f"{name}.weight"]
        style, largest = _normalized_style(layer, tensors, w_plus)
        scaled = x * style.to(dtype)[:, :, None, None]
        spread = sqrt(layer.entering * weight.shape[-1] ** 2)
        if layer.rgb:
            gain = largest * tensors[f"{name}.peak"] * spread
            rgb = F.conv2d(scaled, weight).float() * gain[:, :, None, None] + tensors[f"{name}.bias"]
            image = rgb if image is None else rgb + upsample(image, kernel)
            continue
        if layer.up:
            # weight.dtype is float16 here in bf16 too: TensorRT-RTX has no transposed convolution in bfloat16.
            y = F.conv_transpose2d(scaled.to(weight.dtype), weight, stride=2).to(dtype)
            y = F.conv2d(y, fir.expand(layer.leaving, 1, 4, 4), padding=1, groups=layer.leaving)
        else:
            y = F.conv2d(scaled, weight, padding=1)
        energy = (style * style) @ tensors[f"{name}.energy"]
        floor = _EPSILON / (largest * tensors[f"{name}.peak"]).square()
        # The gain sqrt 2 of the activation is folded in, as in ``static_synthesis``.
        demodulation = (sqrt(2) * spread) * torch.rsqrt(energy + floor)
        y = y * demodulation.clamp(max=_LARGEST).to(dtype)[:, :, None, None]
        assert layer.noise is not None
        i = layer.noise
        grain = tensors[f"noise_{i}"] if noise is None else (noise[i] * tensors[f"{name}.strength"]).to(dtype)
        x = F.leaky_relu((y + grain) + tensors[f"{name}.bias"], 0.2)
    assert image is not None
    return image


def _normalized_style(layer: Layer, tensors: Mapping[str, Tensor], w_plus: Tensor) -> tuple[Tensor, Tensor]:
    """s' [N, in] in [-1, 1] and b [N, 1], float32."""
    affine, bias = (tensors[f"{layer.name}.{kind}"] for kind in ("affine", "affine_bias"))
    style = torch.addmm(bias, w_plus[:, layer.row], affine)
    # A style of zeros stays one.
    largest = style.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
    return style / largest, largest


class HalfSynthesis(Deployed):
    """``StaticSynthesis`` in half precision: the same inputs and output, float32."""

    def __init__(
        self, arch: Architecture, net: Subnet, state: Mapping[str, Tensor], stored_noise: bool, precision: str
    ):
        self.dtype, name = TYPES[precision]
        super().__init__(with_noise(half_bindings(arch, net, name), net, stored_noise, name), state)
        self.net = net
        self.register_buffer("kernel", fir_kernel(4.0)[None, None])

    def forward(self, w_plus: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        return half_synthesis(self.net, self.tensors(), w_plus, noise, self.kernel, self.dtype)
