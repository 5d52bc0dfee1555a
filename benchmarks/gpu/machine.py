"""What contenders run on: a GPU, or in a dry run the CPU. Stream, clocks, memory, and the rates that shares are of."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from anycost.errors import BackendError
from anycost.runtime.cuda.devices import devices

Call = Callable[[], object]
_WARM_UP_RUNS = 3
# Runs put on the stream before it is waited for: engines keep track of what is in flight, and a long list slows them.
_IN_FLIGHT = 20


@dataclass(frozen=True)
class Times:
    """Milliseconds of single runs. p50, p95: percentiles over ``runs`` of them."""

    p50: float
    p95: float
    runs: int

    @classmethod
    def of(cls, milliseconds: list[float]) -> Times:
        p50, p95 = np.percentile(milliseconds, [50, 95])
        return cls(round(float(p50), 4), round(float(p95), 4), len(milliseconds))


class Machine(Protocol):
    """device: PyTorch's name of it. stream: what ``run_device`` takes, None on the CPU. runs: of how many percentiles are, at
    least and at most."""

    device: str
    stream: Any
    runs: tuple[int, int]

    def wait(self) -> None:
        """Until everything that was started is done."""
        ...

    def device_times(self, call: Call, runs: int) -> list[float]:
        """Milliseconds that each run takes on the device."""
        ...

    def used_bytes(self) -> int:
        """Memory of the device in use by all programs, in bytes; 0 where it is not known."""
        ...

    def allocated_peak_bytes(self) -> int:
        """The most that PyTorch's tensors took since ``collect``; 0 where it is not known."""
        ...

    def collect(self) -> None:
        """Give back what is no longer referred to."""
        ...


class Gpu:
    """The first CUDA device. Raises BackendError without one, or where PyTorch cannot use it."""

    device = "cuda"
    runs = (20, 500)

    def __init__(self) -> None:
        if not devices():
            raise BackendError("no NVIDIA GPU or driver was found")
        if not torch.cuda.is_available():
            raise BackendError(
                f"PyTorch {torch.__version__} cannot use {devices()[0].name}: install a CUDA build that its driver runs"
            )
        # Not the default stream: others wait for that one, and engines refuse to be captured on it.
        self.stream = torch.cuda.Stream()
        torch.cuda.set_stream(self.stream)
        # Tuned as a user in need of speed would.
        torch.backends.cudnn.benchmark = True

    def wait(self) -> None:
        torch.cuda.synchronize()

    def device_times(self, call: Call, runs: int) -> list[float]:
        """Between two events on the stream around a run: where starting the work takes longer than the work, that is what they
        show."""
        pairs = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(runs)]
        for i, (begin, end) in enumerate(pairs):
            begin.record(self.stream)
            call()
            end.record(self.stream)
            if i % _IN_FLIGHT == _IN_FLIGHT - 1:
                self.wait()
        self.wait()
        return [begin.elapsed_time(end) for begin, end in pairs]

    def used_bytes(self) -> int:
        self.wait()
        free, total = torch.cuda.mem_get_info()
        return int(total - free)

    def allocated_peak_bytes(self) -> int:
        return int(torch.cuda.max_memory_allocated())

    def collect(self) -> None:
        gc.collect()
        self.wait()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class Dry:
    """The CPU in place of a GPU: every step of a run, and no figure that means anything."""

    device = "cpu"
    stream = None
    runs = (3, 20)

    def wait(self) -> None:
        pass

    def device_times(self, call: Call, runs: int) -> list[float]:
        return wall_times(self, call, runs)

    def used_bytes(self) -> int:
        return 0

    def allocated_peak_bytes(self) -> int:
        return 0

    def collect(self) -> None:
        gc.collect()


def open_machine(dry: bool) -> Machine:
    return Dry() if dry else Gpu()


def wall_times(machine: Machine, call: Call, runs: int) -> list[float]:
    """Milliseconds from starting a run to its end on the device."""
    found = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        machine.wait()
        found.append((time.perf_counter() - started) * 1e3)
    return found


def runs_for(machine: Machine, call: Call, seconds: float) -> int:
    """Warm up, for a quarter of the seconds at least, and say how many runs fit into the seconds."""
    began = time.perf_counter()
    done, last = 0, 0.0
    while done < _WARM_UP_RUNS or time.perf_counter() - began < seconds / 4:
        started = time.perf_counter()
        call()
        machine.wait()
        last, done = time.perf_counter() - started, done + 1
    return int(np.clip(seconds / max(last, 1e-6), *machine.runs))


@dataclass(frozen=True)
class Rates:
    """matmul_tflops: of half-precision square products, in 10^12 operations a second (two a multiply-add). copy_gbps: of copies
    within the device, in 10^9 bytes a second, read and written. vector_tflops: of float32 products without tensor cores, 0 where
    it was not measured. All are medians of what this device did, not its maker's."""

    matmul_tflops: float
    copy_gbps: float
    vector_tflops: float = 0.0


def rates(machine: Machine) -> Rates:
    """By products of 8192 x 8192 in float16 and float32 and copies of 1 GiB; a dry run takes small ones in float32."""
    dry = machine.device == "cpu"
    side, kind, size = (256, torch.float32, 1 << 20) if dry else (8192, torch.float16, 1 << 30)
    a, b = (torch.randn(side, side, device=machine.device, dtype=kind) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.zeros(size, dtype=torch.uint8, device=machine.device)
    target = torch.empty_like(source)
    seconds = 0.1 if dry else 2.0

    def milliseconds(call: Call) -> float:
        return float(np.median(machine.device_times(call, runs_for(machine, call, seconds))))

    with torch.inference_mode():
        matmul = milliseconds(lambda: torch.matmul(a, b, out=product))
        # Without TF32, which is PyTorch's default for products.
        exact = [x.float() for x in (a, b, product)]
        vector = milliseconds(lambda: torch.matmul(exact[0], exact[1], out=exact[2]))
        copy = milliseconds(lambda: target.copy_(source))
    flops = 2 * side**3 / 1e9
    return Rates(*(float(f"{rate:.4g}") for rate in (flops / matmul, 2 * size / copy / 1e6, flops / vector)))
