"""The form in which every network beside the generator is traced, and how its constants come from the weights file.

Layers whose weights depend on a style or carry an equalizing scale are replaced by their static-weight form (deploy.py says
why), and so are those that the exporter would fold into new weights; all others stay as they are, their parameters being the
constants.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anycost.networks.kinds import Part
from anycost.networks.stylegan2 import EqualLinear, ModulatedConv2d, ToRGB, rsqrt_plus
from anycost.runtime.binding import Binding


class _StaticLinear(nn.Module):
    """``EqualLinear`` with its scales folded into the constants, weight [in, out]."""

    def __init__(self, layer: EqualLinear):
        super().__init__()
        gain = sqrt(2) if layer.activate else 1.0
        fan_out, fan_in = layer.weight.shape
        self.activate = layer.activate
        self.bindings = {
            "weight": _take("weight", (fan_out, fan_in), (fan_in, fan_out), scale=layer.scale * gain, order=(1, 0)),
            "bias": _take("bias", (fan_out,), scale=layer.lr_mul * gain),
        }
        _bind(self, layer)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addmm(self.get_buffer("bias"), x, self.get_buffer("weight"))
        return F.leaky_relu(x, 0.2) if self.activate else x


class _StaticPlainLinear(nn.Module):
    """``nn.Linear`` with its weight as [in, out]: over more than two axes the exporter would transpose and copy it."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        fan_out, fan_in = layer.weight.shape
        self.bindings = {"weight": _take("weight", (fan_out, fan_in), (fan_in, fan_out), order=(1, 0))}
        if layer.bias is not None:
            self.bindings["bias"] = _take("bias", (fan_out,))
        _bind(self, layer)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.get_buffer("weight")
        return y + self.get_buffer("bias") if "bias" in self.bindings else y


class _StaticModulatedConv(nn.Module):
    """``ModulatedConv2d`` as y = d * conv(x * s, W), at full width."""

    def __init__(self, layer: ModulatedConv2d):
        super().__init__()
        _, leaving, entering, kernel, _ = layer.weight.shape
        self.up, self.demodulate, self.padding = hasattr(layer, "blur"), layer.demodulate, kernel // 2
        taken = (1, leaving, entering, kernel, kernel)
        shape = (entering, leaving, kernel, kernel) if self.up else taken[1:]
        self.bindings = {
            "weight": _take("weight", taken, shape, scale=layer.scale, order=(0, 2, 1, 3, 4) if self.up else None),
        }
        if self.demodulate:
            self.bindings["energy"] = _take(
                "weight", taken, (entering, leaving), scale=layer.scale**2, square_sum=True, order=(0, 2, 1)
            )
        _bind(self, layer)
        self.modulation = _StaticLinear(layer.modulation)
        if self.up:
            self.register_buffer("kernel", layer.blur.kernel[None, None])

    def forward(self, x: Tensor, w: Tensor, leaving: int) -> Tensor:
        style = self.modulation(w)
        x = x * style[:, :, None, None]
        weight = self.get_buffer("weight")
        if self.up:
            y = F.conv_transpose2d(x, weight, stride=2)
            y = F.conv2d(y, self.get_buffer("kernel").expand(leaving, 1, 4, 4), padding=1, groups=leaving)
        else:
            y = F.conv2d(x, weight, padding=self.padding)
        if self.demodulate:
            y = y * rsqrt_plus((style * style) @ self.get_buffer("energy"))[:, :, None, None]
        return y


class _StaticToRGB(nn.Module):
    """``ToRGB`` whose enlarging FIR is one depthwise transposed convolution."""

    def __init__(self, layer: ToRGB):
        super().__init__()
        self.conv = _StaticModulatedConv(layer.conv)
        self.bindings = {"bias": _take("bias", (1, 3, 1, 1))}
        _bind(self, layer)
        if hasattr(layer, "upsample"):
            self.register_buffer("kernel", layer.upsample.kernel[None, None])

    def forward(self, x: Tensor, w: Tensor, below: Tensor | None) -> Tensor:
        image = self.conv(x, w, 3) + self.get_buffer("bias")
        if below is None:
            return image
        kernel = self.get_buffer("kernel").expand(3, 1, 4, 4)
        return image + F.conv_transpose2d(below, kernel, stride=2, padding=1, groups=3)


class _StaticBatchNorm(nn.Module):
    """Batch norm in evaluation mode as a scale and a shift, which are small constants of the graph.

    Left as it is, the exporter would fold it into the convolution before it, whose weights were then no longer those of the
    weights file. The engines fold it themselves when they are loaded.
    """

    def __init__(self, layer: nn.BatchNorm1d | nn.BatchNorm2d):
        super().__init__()
        assert layer.running_mean is not None and layer.running_var is not None
        shape = (-1, 1, 1) if isinstance(layer, nn.BatchNorm2d) else (-1,)
        scale = layer.weight.detach() / torch.sqrt(layer.running_var + layer.eps)
        self.bindings: dict[str, Binding] = {}
        self.register_buffer("scale", scale.reshape(shape))
        self.register_buffer("shift", (layer.bias.detach() - layer.running_mean * scale).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.get_buffer("scale") + self.get_buffer("shift")


_STATIC: dict[type[nn.Module], type[nn.Module]] = {
    EqualLinear: _StaticLinear,
    ModulatedConv2d: _StaticModulatedConv,
    ToRGB: _StaticToRGB,
    nn.Linear: _StaticPlainLinear,
    nn.BatchNorm1d: _StaticBatchNorm,
    nn.BatchNorm2d: _StaticBatchNorm,
}


class TracedPart(nn.Module):
    """One part of a network, ready to trace. bindings: by the names that its buffers and parameters have here."""

    def __init__(self, network: nn.Module, part: Part):
        super().__init__()
        self.network = static(network)
        self.part = part
        self.bindings = {f"network.{name}": binding for name, binding in bindings_of(self.network).items()}

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        found = self.part.run(self.network, *inputs)
        return found if isinstance(found, tuple) else (found,)


def static(network: nn.Module) -> nn.Module:
    """A copy with every layer in its static-weight form; the network itself stays as it is."""
    found = copy.deepcopy(network)
    _replace(found)
    return found


def _replace(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        form = _STATIC.get(type(child))
        if form is None:
            _replace(child)
        else:
            module.add_module(name, form(child))


def bindings_of(network: nn.Module) -> dict[str, Binding]:
    """Every constant of a static network by its dotted name: bound as its layer says, else taken as it is."""
    found: dict[str, Binding] = {}
    made: set[str] = set()
    for prefix, module in network.named_modules():
        dot = f"{prefix}." if prefix else ""
        for name, binding in getattr(module, "bindings", {}).items():
            found[f"{dot}{name}"] = binding.model_copy(update={"source": f"{dot}{binding.source}"})
        if hasattr(module, "bindings"):
            made |= {f"{dot}{name}" for name, _ in module.named_buffers(recurse=False)}
    for name, tensor in network.state_dict().items():
        if name not in made and tensor.is_floating_point():
            found[name] = _take(name, tuple(tensor.shape))
    return found


def _take(source: str, take: tuple[int, ...], shape: tuple[int, ...] | None = None, **steps: object) -> Binding:
    return Binding.model_validate({"source": source, "take": take, "shape": shape or take, **steps})


def _bind(form: nn.Module, layer: nn.Module) -> None:
    """Make the form's constants from the layer's own parameters."""
    parameters = dict(layer.named_parameters(recurse=False))
    for name, binding in form.bindings.items():
        form.register_buffer(name, binding.apply(parameters[binding.source].detach()).contiguous())
