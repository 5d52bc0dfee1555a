"""The generator as launches of the fused kernels: what the backend ``cuda`` runs.

A 3x3 layer is one launch, or two where the sum over taps and channels is split over more of a small image's programs; an
up-convolution is one (its filter and the FIR fused beforehand) or two (transposed convolution, then FIR with all that follows);
a to-RGB layer is one with the upsampling of the image below it; the styles and demodulation coefficients of all layers are one.
Which of several ways is fastest is found on the device that runs them.

Channel counts are padded with zeros to multiples of 16. A padded channel holds noise, which its zero weights leave out.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

import numpy as np
import torch

from anycost.export.deploy import mapping_bindings
from anycost.kernels.call import Call, Operand, Slot, columns
from anycost.kernels.lower import Draft, Step
from anycost.kernels.mapping.launch import LINEAR_CONFIGS, linear
from anycost.kernels.modulated_conv.configs import (
    RGB_CONFIGS,
    STYLES,
    STYLES_CONFIGS,
    ConvConfig,
    conv_configs,
    conv_splits,
)
from anycost.kernels.modulated_conv.launch import (
    Layers,
    conv3x3,
    conv_transpose3x3,
    fuse_filter,
    places_of,
    styles,
    to_rgb,
    units_of,
)
from anycost.kernels.modulated_conv.work import cheaper_up
from anycost.kernels.upfirdn.launch import FINISH, FINISH_CONFIGS, finish
from anycost.networks.channels import Architecture, Layer, Subnet
from anycost.networks.stylegan2 import fir_kernel
from anycost.runtime.binding import Binding, Dtype
from anycost.runtime.cuda.program import Part
from anycost.runtime.latents import noise_sides

TYPES: dict[str, tuple[torch.dtype, Dtype]] = {
    "fp32": (torch.float32, "float32"),
    "fp16": (torch.float16, "float16"),
    "bf16": (torch.bfloat16, "bfloat16"),
}
_PAD = 16
# Whose floors put the ways of an up-convolution in their order; which one is fastest here is measured. An H200's.
_BYTES_PER_SECOND, _FLOPS_PER_SECOND = 4.8e12, 990e12
# Block sizes that a device tries for each way. Each is compiled for every target.
_MOST_CONFIGS = 3


def mapping_draft(arch: Architecture) -> Draft:
    """z [N, style_dim] -> w [N, style_dim], float32: one launch a layer."""
    dim = arch.style_dim
    weights: dict[str, list[Part]] = {}
    steps = []
    x = Slot("z", (1, dim), torch.float32)
    for i in range(1, arch.n_mlp + 1):
        for kind, shape in (("weight", (dim, dim)), ("bias", (dim,))):
            weights[f"{i}.{kind}"] = [Part(binding=mapping_bindings(arch)[f"{i}.{kind}"], shape=shape)]
        weight, bias = _constant(f"{i}.weight", (dim, dim)), _constant(f"{i}.bias", (dim,))
        out = Slot("w" if i == arch.n_mlp else f"x{i}", (1, dim), torch.float32)
        choices = [
            (f"{c.leaving}x{c.entering}-{c.warps}w", [linear(x, weight, bias, out, normalize=i == 1, config=c)])
            for c in LINEAR_CONFIGS
        ]
        steps.append(Step(f"mapping.{i}", choices))
        x = out
    return Draft("fp32", [Slot("z", (1, dim), torch.float32)], [x], steps, weights)


def synthesis_draft(arch: Architecture, net: Subnet, stored_noise: bool, precision: str) -> Draft:
    """w_plus [N, n_style, style_dim] and, without stored noise, noise_i [N, 1, H, H] -> image [N, 3, R, R], all float32.

    precision: of activations and weights, fp32, fp16 or bf16; sums, styles and images are float32 in all.
    """
    return _Synthesis(arch, net, stored_noise, precision).draft()


class _Synthesis:
    def __init__(self, arch: Architecture, net: Subnet, stored_noise: bool, precision: str):
        self.arch, self.net, self.stored = arch, net, stored_noise
        self.precision = precision
        self.dtype, self.binding_dtype = TYPES[precision]
        self.full = {layer.name: layer for layer in arch.full().layers()}
        self.layers = net.layers()
        self.weights: dict[str, list[Part]] = {}
        self.prepare: list[Step] = []
        self.rows: Layers = [
            (layer.row, padded(layer.entering), None if layer.rgb else padded(layer.leaving)) for layer in self.layers
        ]
        self.places = dict(zip((layer.name for layer in self.layers), places_of(self.rows), strict=True))
        self.style = Slot("style", (1, sum(entering for _, entering, _ in self.rows)), torch.float32)
        self.demodulation = Slot("demodulation", (1, sum(out or 0 for _, _, out in self.rows)), torch.float32)
        self.w_plus = Slot("w_plus", (1, arch.n_style, arch.style_dim), torch.float32)
        self.taps = _constant("taps", (4, 4))

    def draft(self) -> Draft:
        units = units_of(self.rows, STYLES.outputs)
        steps = [self._styles(units)]
        first = padded(self.net.channels[0])
        entry = Binding(
            source="input.input",
            take=(1, self.net.channels[0], 4, 4),
            order=(0, 2, 3, 1),
            shape=(1, 4, 4, self.net.channels[0]),
            dtype=self.binding_dtype,
        )
        x = self._weight("input", entry, (1, 4, 4, first), self.dtype)
        image: Slot | None = None
        for i, layer in enumerate(self.layers):
            if layer.rgb:
                last = i == len(self.layers) - 1
                image = self._rgb(layer, x, image, "image" if last else f"{layer.name}.image", steps)
                continue
            # The style of a layer that alone reads this one's result is applied when that is written.
            after = self.layers[i + 1]
            following = None if after.rgb else self._style(after)
            modulated = i > 0 and not self.layers[i - 1].rgb
            x = self._layer(layer, x, None if modulated else self._style(layer), following, steps)
        assert image is not None
        inputs = [self.w_plus]
        if not self.stored:
            sides = noise_sides(self.net.resolution)
            inputs += [Slot(f"noise_{i}", (1, 1, side, side), torch.float32) for i, side in enumerate(sides)]
        tables = {"units": units, "taps": fir_kernel(4.0).numpy().astype(np.float32)}
        return Draft(self.precision, inputs, [image], steps, self.weights, tables, self.prepare)  # type: ignore[arg-type]

    def _styles(self, units: np.ndarray) -> Step:
        dim = self.arch.style_dim
        flat: dict[str, list[Part]] = {"affine": [], "affine_bias": [], "energy": [], "peak": []}
        for layer in self.layers:
            place, entering, leaving = self.places[layer.name], padded(layer.entering), padded(layer.leaving)
            name = f"{layer.name}.conv"
            affine = Binding(
                source=f"{name}.modulation.weight",
                take=(layer.entering, dim),
                order=(1, 0),
                shape=(dim, layer.entering),
                scale=1 / sqrt(dim),
            )
            bias = Binding(source=f"{name}.modulation.bias", take=(layer.entering,), shape=(layer.entering,))
            flat["affine"].append(Part(binding=affine, offset=place.style * dim, shape=(dim, entering)))
            flat["affine_bias"].append(Part(binding=bias, offset=place.style, shape=(entering,)))
            if place.energy is None or place.demodulation is None:
                continue
            taken, scale = (1, layer.leaving, layer.entering, 3, 3), self._scale(layer)
            energy = Binding(
                source=f"{name}.weight",
                take=taken,
                square_sum=True,
                order=(0, 2, 1),
                scale=scale**2,
                shape=(layer.entering, layer.leaving),
            )
            # The gain sqrt 2 of the activation is folded into what comes before it, as in the static-weight form.
            peak = Binding(
                source=f"{name}.weight", take=taken, peak=True, scale=scale * sqrt(2), shape=(layer.leaving,)
            )
            flat["energy"].append(Part(binding=energy, offset=place.energy, shape=(entering, leaving)))
            flat["peak"].append(Part(binding=peak, offset=place.demodulation, shape=(leaving,)))
        self.weights |= flat
        slots = {
            name: _constant(name, (max(part.offset + part.size for part in parts),)) for name, parts in flat.items()
        }
        table = Slot("units", units.shape, torch.int32, shared=True)
        operands: dict[str, Any] = {
            "w_plus": self.w_plus,
            **slots,
            "units": table,
            "style": self.style,
            "demodulation": self.demodulation,
        }
        made = [(config.label, styles(**operands, aligned=True, config=config)) for config in STYLES_CONFIGS]
        return Step("styles", [(label, [call]) for label, call in made])

    def _layer(
        self, layer: Layer, x: Operand, style: Operand | None, following: Operand | None, steps: list[Step]
    ) -> Slot:
        """A 3x3 layer with all that follows it, up or not."""
        entering, leaving, side = padded(layer.entering), padded(layer.leaving), layer.resolution
        binding = Binding(
            source=f"{layer.name}.conv.weight",
            take=(1, layer.leaving, layer.entering, 3, 3),
            normalize=True,
            order=(0, 3, 4, 2, 1),
            shape=(9, layer.entering, layer.leaving),
            dtype=self.binding_dtype,
        )
        weight = self._weight(f"{layer.name}.weight", binding, (9, entering, leaving), self.dtype)
        place = self.places[layer.name]
        assert place.demodulation is not None and layer.noise is not None
        demodulation = columns(self.demodulation, place.demodulation, leaving)
        ending: dict[str, Any] = {
            **self._noise(layer),
            "bias": self._bias(layer, "activate.bias", leaving),
            "next_style": following,
        }
        out = Slot(f"{layer.name}.out", (1, side, side, leaving), self.dtype)
        whole: dict[str, Any] = {"demodulation": demodulation, **ending}
        choices: list[tuple[str, list[Call]]] = []
        if not layer.up:
            for config, splits in _ways(side * side, entering, leaving, 1):
                if splits == 1:
                    calls = [conv3x3(x, weight, out, style=style, config=config, **whole)]
                else:
                    parts = Slot(f"{layer.name}.parts{splits}", (1, splits, side, side, leaving), torch.float32)
                    calls = [
                        conv3x3(x, weight, parts, style=style, splits=splits, config=config, activate=False),
                        finish(parts, out, parts=splits, **whole),
                    ]
                choices.append((_label("", config, splits), calls))
        else:
            below = side // 2
            fused = Slot(f"{layer.name}.fused", (4, 9, entering, leaving), self.dtype, shared=True)
            self.prepare.append(Step(fused.name, [("one", [fuse_filter(weight, self.taps, fused)])]))
            ways: dict[str, list[tuple[str, list[Call]]]] = {"fused": [], "polyphase": []}
            for config, splits in _ways(below * below, entering, leaving, 4):
                if splits == 1:
                    calls = [conv3x3(x, fused, out, style=style, up=True, config=config, **whole)]
                else:
                    parts = Slot(f"{layer.name}.parts{splits}", (1, splits, side, side, leaving), torch.float32)
                    calls = [
                        conv3x3(x, fused, parts, style=style, up=True, splits=splits, config=config, activate=False),
                        finish(parts, out, parts=splits, **whole),
                    ]
                ways["fused"].append((_label("fused ", config, splits), calls))
            for i, (config, splits) in enumerate(_ways(below * below, entering, leaving, 4)):
                if splits == 1:
                    between = Slot(f"{layer.name}.up", (1, side + 1, side + 1, leaving), self.dtype)
                    first = conv_transpose3x3(x, weight, between, style=style, demodulation=demodulation, config=config)
                    # One way tries all block sizes of the second launch: which of them is best does not depend on the first.
                    for after in FINISH_CONFIGS if i == 0 else (FINISH,):
                        second = finish(between, out, taps=self.taps, config=after, **ending)
                        ending_label = "" if after is FINISH else f" + {after.label}"
                        ways["polyphase"].append((_label("polyphase ", config, 1) + ending_label, [first, second]))
                else:
                    shape = (1, splits, side + 1, side + 1, leaving)
                    parts = Slot(f"{layer.name}.up{splits}", shape, torch.float32)
                    first = conv_transpose3x3(x, weight, parts, style=style, splits=splits, config=config)
                    second = finish(parts, out, taps=self.taps, parts=splits, **whole)
                    ways["polyphase"].append((_label("polyphase ", config, splits), [first, second]))
            floors = (below, below, entering, leaving, _BYTES_PER_SECOND, _FLOPS_PER_SECOND, self.dtype)
            better = cheaper_up(*floors)
            choices = ways[better] + ways["polyphase" if better == "fused" else "fused"]
        steps.append(Step(layer.name, choices))
        return out

    def _rgb(self, layer: Layer, x: Operand, below: Slot | None, name: str, steps: list[Step]) -> Slot:
        entering, side = padded(layer.entering), layer.resolution
        binding = Binding(
            source=f"{layer.name}.conv.weight",
            take=(1, 3, layer.entering, 1, 1),
            shape=(3, layer.entering),
            scale=self._scale(layer),
        )
        weight = self._weight(f"{layer.name}.weight", binding, (3, entering), torch.float32)
        bias = Binding(source=f"{layer.name}.bias", take=(1, 3, 1, 1), shape=(3,))
        image = Slot(name, (1, 3, side, side), torch.float32)
        colours = self._weight(f"{layer.name}.bias", bias, (3,), torch.float32)
        given: dict[str, Any] = {
            "style": self._style(layer),
            "skip": below,
            "taps": None if below is None else self.taps,
        }
        choices = [
            (config.label, [to_rgb(x, weight, colours, image, config=config, **given)]) for config in RGB_CONFIGS
        ]
        steps.append(Step(layer.name, choices))
        return image

    def _noise(self, layer: Layer) -> dict[str, Operand | None]:
        side, name = layer.resolution, f"noise_{layer.noise}"
        strength = f"{layer.name}.noise.weight"
        if self.stored:
            stored = Binding(
                source=f"noises.{name}",
                take=(1, 1, side, side),
                shape=(1, side, side),
                scale=sqrt(2),
                times=strength,
                dtype=self.binding_dtype,
            )
            return {"noise": self._weight(name, stored, (1, side, side), self.dtype), "strength": None}
        scaled = Binding(source=strength, take=(1,), shape=(1,), scale=sqrt(2))
        return {
            "noise": Slot(name, (1, side, side), torch.float32),
            "strength": self._weight(f"{layer.name}.strength", scaled, (1,), torch.float32),
        }

    def _bias(self, layer: Layer, source: str, size: int) -> Slot:
        binding = Binding(source=f"{layer.name}.{source}", take=(layer.leaving,), shape=(layer.leaving,), scale=sqrt(2))
        return self._weight(f"{layer.name}.bias", binding, (size,), torch.float32)

    def _style(self, layer: Layer) -> Operand:
        return columns(self.style, self.places[layer.name].style, padded(layer.entering))

    def _scale(self, layer: Layer) -> float:
        """The equalizing scale is the full layer's."""
        return 1 / sqrt(self.full[layer.name].entering * (1 if layer.rgb else 9))

    def _weight(self, name: str, binding: Binding, shape: tuple[int, ...], dtype: torch.dtype) -> Slot:
        self.weights[name] = [Part(binding=binding, shape=shape)]
        return Slot(name, shape, dtype, shared=True)


def padded(channels: int) -> int:
    return -(-channels // _PAD) * _PAD


def _constant(name: str, shape: tuple[int, ...]) -> Slot:
    return Slot(name, shape, torch.float32, shared=True)


def _ways(pixels: int, entering: int, leaving: int, phases: int) -> Iterator[tuple[ConvConfig, int]]:
    """Block sizes with the number of parts that each splits its sum into; those that split also unsplit."""
    for config in conv_configs(pixels, entering, leaving, _MOST_CONFIGS):
        tiles = phases * -(-pixels // config.pixels) * -(-leaving // config.outputs)
        splits = conv_splits(tiles, entering, config)
        yield config, splits
        if splits > 1:
            yield config, 1


def _label(form: str, config: ConvConfig, splits: int) -> str:
    return f"{form}{config.label}" + (f" /{splits}" if splits > 1 else "")
