"""The least that a sub-network asks of a device: what its time is divided by for the shares of the device's rates."""

from __future__ import annotations

from dataclasses import dataclass

from anycost.benchmarks.gpu.machine import Rates
from anycost.networks.channels import Subnet, macs, parameters

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
_IMAGE_BYTES = 4  # images are float32 in every precision


@dataclass(frozen=True)
class Effort:
    """macs: multiply-adds of one image from w+. weights, image: bytes of the weights, which a batch reads once, and those
    that every image reads and writes beside."""

    macs: int
    weights: int
    image: int

    def shares(self, batch: int, milliseconds: float, rates: Rates) -> tuple[float, float]:
        """Of the device's matrix product rate, and of its copy rate, that a run achieved."""
        seconds = milliseconds / 1e3
        flops = 2 * self.macs * batch / seconds
        moved = (self.weights + self.image * batch) / seconds
        return flops / (rates.matmul_tflops * 1e12), moved / (rates.copy_gbps * 1e9)


def effort(net: Subnet, style_dim: int, precision: str) -> Effort:
    """As if each convolution, with all that follows it, were one kernel: it reads its input, its noise and its weights once
    and writes its output once."""
    size = _BYTES[precision]
    moved = noise = 0
    for layer in net.layers():
        pixels = layer.resolution**2
        entering = layer.entering * (pixels // 4 if layer.up else pixels)
        if layer.rgb:
            # The image of half the side, if any, is read, and the sum written.
            below = pixels // 4 if layer.resolution > 4 else 0
            moved += entering * size + 3 * (pixels + below) * _IMAGE_BYTES
        else:
            moved += (entering + layer.leaving * pixels) * size
            noise += pixels * size
    return Effort(macs(net, style_dim), parameters(net, style_dim) * size + noise, moved)
