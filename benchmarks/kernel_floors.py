"""What a device's memory and arithmetic leave of a launch's time, whatever the kernel: its floor."""

from __future__ import annotations

from dataclasses import dataclass

from anycost.kernels.work import Work

# Float32 without tensor cores, as a part of what the tensor cores of an H200 compute in float16: where it was not measured.
_VECTOR_SHARE = 67 / 990


@dataclass(frozen=True)
class Device:
    """bytes_per_second: of its memory. matrix, vector: operations a second of its tensor cores in float16 (sums in float32), and
    in float32 without them."""

    name: str
    bytes_per_second: float
    matrix: float
    vector: float

    def floor_us(self, work: Work, half: bool) -> float:
        """half: whether its operands have 16 bits; products of float32 are exact here, so tensor cores are no use to them."""
        return work.floor_us(self.bytes_per_second, self.rate(work, half))

    def memory_bound(self, work: Work, half: bool) -> bool:
        return work.bytes / self.bytes_per_second >= work.flops / self.rate(work, half)

    def rate(self, work: Work, half: bool) -> float:
        return self.matrix if work.tensor_cores and half else self.vector


# By their makers' figures: dense products, at the boost clock.
H200 = Device("H200", 4.8e12, 990e12, 67e12)
RTX_4090 = Device("RTX 4090", 1.008e12, 165e12, 82.6e12)
DEVICES = {"h200": H200, "rtx4090": RTX_4090}


def measured(name: str, matmul_tflops: float, copy_gbps: float, vector_tflops: float = 0.0) -> Device:
    """A device by what it did (``gpu.machine.rates``). vector_tflops: 0 where it was not measured."""
    matrix = matmul_tflops * 1e12
    return Device(name, copy_gbps * 1e9, matrix, vector_tflops * 1e12 or _VECTOR_SHARE * matrix)
