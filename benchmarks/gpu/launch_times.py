"""How long launches take where what they read is not in the device's cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from anycost.benchmarks.gpu.machine import Machine, runs_for
from anycost.benchmarks.gpu.operands import copied, total_bytes
from anycost.kernels.call import Call, run

# Until a set of operands is used again, others of so many times the cache's size are.
_TIMES_THE_CACHE = 3
_MOST_SETS, _MOST_BYTES = 256, 8 << 30
# Runs in one graph, at least: starting it is then a small part of its time.
_LEAST_RUNS = 32


class Timer:
    """seconds: of timing, for each sequence of launches."""

    def __init__(self, machine: Machine, seconds: float):
        self._machine, self._seconds = machine, seconds
        gpu = machine.device == "cuda"
        self._cache = int(torch.cuda.get_device_properties(0).L2_cache_size) if gpu else 0

    def times(self, calls: Sequence[Call]) -> dict[str, Any]:
        """us: of one run of the calls, in microseconds, the median; sets: of operands that were taken in turn. The calls must
        have run before: a first run compiles them.

        On a GPU the runs are a CUDA graph, as in an engine, and their time the graph's by their number: what it takes from the
        end of one launch to the start of the next is in it.
        """
        machine = self._machine
        sets = [list(calls), *(copied(calls) for _ in range(self._sets(total_bytes(calls)) - 1))]
        rounds = -(-_LEAST_RUNS // len(sets)) if machine.device == "cuda" else 1

        def all_runs() -> None:
            for _ in range(rounds):
                for one in sets:
                    for call in one:
                        run(call)

        start = _graph(machine, all_runs) if machine.device == "cuda" else all_runs
        with torch.inference_mode():
            milliseconds = machine.device_times(start, runs_for(machine, start, self._seconds))
        each = 1e3 * float(np.median(milliseconds)) / (rounds * len(sets))
        return {"us": float(f"{each:.4g}"), "sets": len(sets)}

    def _sets(self, size: int) -> int:
        if self._cache == 0:
            return 1
        wanted = -(-_TIMES_THE_CACHE * self._cache // max(size, 1))
        return max(1, min(max(wanted, 2), _MOST_SETS, _MOST_BYTES // max(size, 1)))


def _graph(machine: Machine, runs: Callable[[], None]) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    machine.wait()
    with torch.cuda.graph(graph, stream=machine.stream):
        runs()
    return graph.replay  # type: ignore[no-any-return]
