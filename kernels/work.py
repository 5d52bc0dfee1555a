"""The least that a kernel has to do, so that a measured time has a floor beside it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """read, written: bytes that must cross the memory bus once (inputs, weights; outputs). flops: floating-point operations, two
    for a multiply-add, counted as the kernel's form needs them. tensor_cores: whether they are matrix products."""

    read: int
    written: int
    flops: int
    tensor_cores: bool = False

    @property
    def bytes(self) -> int:
        return self.read + self.written

    def floor_us(self, bytes_per_second: float, flops_per_second: float) -> float:
        """Microseconds, when a device does nothing but move at the one rate and compute at the other, both at once."""
        return 1e6 * max(self.bytes / bytes_per_second, self.flops / flops_per_second)

    @property
    def intensity(self) -> float:
        """Operations a byte: kernels below a device's own ratio are bound by its memory."""
        return self.flops / self.bytes
