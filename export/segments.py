"""Sub-networks of one channel ratio share their layers: engines for what each adds to the one below.

A segment takes w+, the features and the image that the sub-network below it ends with (the first one neither), and gives its own
sub-network's image and, where another follows, features. Features and images are float32 in every precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anycost.errors import BuildError
from anycost.export.deploy import bind, synthesis_bindings, with_noise
from anycost.export.function_bodies import functions
from anycost.export.functions import ELEMENTS, PRECISIONS, Writer, constant_name, opset_of, write_layers
from anycost.export.half import TYPES, half_bindings
from anycost.export.reference import Reference
from anycost.export.trace import Traced, written
from anycost.export.variants import CALIBRATION_SAMPLES, Variant
from anycost.networks.channels import Architecture, Layer, Subnet, macs
from anycost.runtime.backends import Engine
from anycost.runtime.binding import Binding
from anycost.runtime.manifest import SegmentRecord
from anycost.runtime.segments import FEATURES, FEATURES_BELOW, IMAGE, IMAGE_BELOW

Arrays = dict[str, np.ndarray]
# int8 would need ranges of the features that one segment hands to the next.
SEGMENT_PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Segment:
    """The layers of ``net`` that ``below``, a smaller sub-network of the same ratio, has not; all of them where that is None.
    last: whether no other follows."""

    net: Subnet
    below: Subnet | None
    last: bool

    @property
    def name(self) -> str:
        """``0.5@16-32``: from 16 to 32 px; the first begins at 4."""
        return f"{self.net.ratio:g}@{self.below.resolution if self.below else 4}-{self.net.resolution}"

    def layers(self) -> list[Layer]:
        return self.net.layers()[len(self.below.layers()) if self.below else 0 :]

    def record(self, style_dim: int) -> SegmentRecord:
        below = macs(self.below, style_dim) if self.below else 0
        return SegmentRecord(
            name=self.name,
            subnet=self.net.name,
            below=self.below.name if self.below else None,
            macs=macs(self.net, style_dim) - below,
        )


def chains(nets: Sequence[Subnet]) -> list[list[Segment]]:
    """For every ratio of which there is a sub-network at all of the resolutions that any ratio has, its segments from the lowest
    resolution up. Raises BuildError where there is no such ratio, or one resolution alone."""
    uniform = [net for net in nets if net.ratio is not None]
    resolutions = sorted({net.resolution for net in uniform})
    found = []
    for ratio in dict.fromkeys(net.ratio for net in uniform):
        same = {net.resolution: net for net in uniform if net.ratio == ratio}
        if len(resolutions) > 1 and sorted(same) == resolutions:
            steps = [same[resolution] for resolution in resolutions]
            below = [None, *steps[:-1]]
            found.append([Segment(net, under, net is steps[-1]) for net, under in zip(steps, below, strict=True)])
    if not found:
        listed = ", ".join(map(str, resolutions)) or "none"
        raise BuildError(
            f"segments need a channel ratio with a sub-network at each of two or more resolutions (here: {listed}): "
            "add sub-networks, such as --subnets grid, or leave --segments out"
        )
    return found


def takes_segments(variant: Variant) -> bool:
    """Whether a variant's engines are made from graphs of ours in a float precision."""
    return variant.backend != "cuda" and not variant.fused and variant.precision in SEGMENT_PRECISIONS


def segment_bindings(arch: Architecture, segment: Segment, stored_noise: bool, precision: str) -> dict[str, Binding]:
    """Those of the sub-network's constants that the segment's layers have."""
    if precision == "fp32":
        found = with_noise(synthesis_bindings(arch, segment.net), segment.net, stored_noise)
    else:
        dtype = TYPES[precision][1]
        found = with_noise(half_bindings(arch, segment.net, dtype), segment.net, stored_noise, dtype)
    owners = {layer.name for layer in segment.layers()} | ({""} if segment.below is None else set())
    noises = {f"noise_{layer.noise}" for layer in segment.layers()}

    def taken(name: str) -> bool:
        return name in noises if name.startswith("noise_") else name.rpartition(".")[0] in owners

    return {name: binding for name, binding in found.items() if taken(name)}


def has_channels_last(variant: Variant) -> bool:
    """How a variant's features lie between segments. OpenVINO keeps its own channels last, and takes longer to turn them than to
    make them, as tensor cores do; ONNX Runtime keeps planes."""
    return not variant.backend.startswith("onnxruntime")


def trace_segment(
    arch: Architecture,
    segment: Segment,
    state: Mapping[str, Tensor],
    stored_noise: bool,
    precision: str = "fp32",
    channels_last: bool = True,
) -> Traced:
    """Inputs w_plus [batch, n_style, style_dim], noise_i [batch, 1, H, H] of its own layers, features_below [batch, H, H, C] and
    image_below [batch, 3, H, H]; outputs image [batch, 3, R, R] and features [batch, R, R, C]. Without channels_last features
    are [batch, C, H, H]."""
    bindings = segment_bindings(arch, segment, stored_noise, precision)
    dtype, half, side = PRECISIONS[precision], precision != "fp32", segment.net.resolution
    graph = Writer(opset_of(precision), dtype)
    for name, tensor in bind(bindings, state).items():
        graph.constant(constant_name(name), tensor)
    graph.input("w_plus", (arch.n_style, arch.style_dim))
    for layer in [] if stored_noise else segment.layers():
        if layer.noise is not None:
            graph.input(f"noise_{layer.noise}", (1, layer.resolution, layer.resolution))
    x, image = constant_name("input"), ""
    if segment.below:
        under = segment.below.resolution
        graph.input(FEATURES_BELOW, _shape(segment.below, channels_last))
        graph.input(IMAGE_BELOW, (3, under, under))
        x, image = FEATURES_BELOW, IMAGE_BELOW
        if half:
            x = graph.operator("Cast", x, "half_below", to=ELEMENTS[dtype])
    outputs: dict[str, tuple[int, ...]] = {IMAGE: (3, side, side)}
    x = write_layers(graph, segment.layers(), x, image, stored_noise, precision, bool(segment.below) and channels_last)
    if not segment.last:
        outputs[FEATURES] = _shape(segment.net, channels_last)
        if channels_last:
            x = graph.operator("Transpose", x, "turned", perm=[0, 2, 3, 1])
        # In float32 it gives the values another name.
        graph.operator("Cast", x, FEATURES, to=ELEMENTS[torch.float32])
    return written(graph.model(outputs, functions(precision, graph.opset)), bindings, None)


def _shape(net: Subnet, channels_last: bool) -> tuple[int, int, int]:
    """Of the features after a sub-network's last convolution."""
    side, channels = net.resolution, net.channels[-1]
    return (side, side, channels) if channels_last else (channels, side, side)


class SegmentJob:
    """A segment of one variant (export/jobs.py: Job), checked behind the ones below it: what is compared is the image of its
    sub-network after the whole chain.

    below: gives the outputs of the segment below for each of the reference's samples; None for the first segment. channels_last:
    of the variant.
    """

    basis: dict[str, Any]

    def __init__(
        self,
        arch: Architecture,
        segment: Segment,
        reference: Reference,
        weights: str,
        below: Callable[[], list[Arrays]] | None,
        channels_last: bool,
    ):
        self.name, self.weights = segment.name, weights
        self.basis = {"segment": asdict(segment), "channels_last": channels_last}
        self.segment, self._channels_last = segment, channels_last
        self._arch, self._reference, self._below = arch, reference, below
        self._outputs: list[Arrays] | None = None

    def form(self, precision: str, fused: bool = False) -> str:
        return precision if self._channels_last else f"{precision}-planar"

    def trace(self, precision: str, calibration: int = CALIBRATION_SAMPLES, fused: bool = False) -> Traced:
        state = self._reference.generator.state_dict()
        return trace_segment(
            self._arch, self.segment, state, self._reference.stored_noise, precision, self._channels_last
        )

    def sample(self) -> tuple[Arrays, dict[str, str]]:
        return {IMAGE: self._reference.synthesis(self.segment.net)}, {}

    def run(self, engine: Engine) -> Arrays:
        """One sample at a time, as on a device."""
        codes = self._reference.latents["w_plus"]
        noise = [] if self._reference.stored_noise else self._reference.noise(self.segment.net)
        below = self._below() if self._below else [{} for _ in codes]
        self._outputs = []
        for i, given in enumerate(below):
            inputs = {"w_plus": codes[i : i + 1], **given}
            for layer in self.segment.layers() if noise else []:
                if layer.noise is not None:
                    inputs[f"noise_{layer.noise}"] = np.ascontiguousarray(noise[layer.noise][i : i + 1])
            self._outputs.append(engine.run(inputs))
        return {IMAGE: np.concatenate([found[IMAGE] for found in self._outputs])}

    def outputs(self, engine: Callable[[], Engine]) -> list[Arrays]:
        """What the segment above takes of each sample. engine: opens the segment's, if it was not run yet."""
        if self._outputs is None:
            self.run(engine())
        assert self._outputs is not None
        return [{IMAGE_BELOW: found[IMAGE], FEATURES_BELOW: found[FEATURES]} for found in self._outputs]
