"""The fused kernels one by one, in a process of their own: correct on the device, then how long each takes.

Findings: ``cases`` (the keys of all problems, and the ways of every layer), ``begun`` before a problem, ``kernel`` with what it
gave. A launch that goes wrong may leave the device unusable for its process: that ends it, and the next leaves the problem out.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from anycost.benchmarks.gpu.job import Emit, Job
from anycost.benchmarks.gpu.launch_check import expected
from anycost.benchmarks.gpu.launch_times import Timer
from anycost.benchmarks.gpu.machine import Machine, open_machine
from anycost.benchmarks.gpu.measure import one_line
from anycost.benchmarks.gpu.operands import bound
from anycost.benchmarks.kernel_cases import Cases, Problem, collect
from anycost.benchmarks.kernel_work import half, work_of
from anycost.errors import BackendError
from anycost.kernels.call import Call, run
from anycost.networks.channels import Architecture, parse_subnets

# FFHQ's shapes; a dry run takes one that Triton's interpreter is through with in seconds.
ARCHITECTURE, SUBNETS = Architecture(1024), ("1@1024", "0.5@512", "0.25@256")
DRY_ARCHITECTURE, DRY_SUBNETS = Architecture(8, 0.0625, 16, 16, 1), ("1@8",)
# Of timing, for one choice of block sizes: there are hundreds.
_MOST_SECONDS = 0.05
# What Triton raises for blocks with more shared memory than the device has.
_TOO_LARGE = "OutOfResources"


def measure_kernels(job: Job, emit: Emit) -> None:
    """Everything that ``job.known`` does not name. Raises BackendError where a device cannot be used any further."""
    machine = open_machine(job.dry)
    if job.dry and job.precision == "bf16":
        raise BackendError("Triton's interpreter has no products of bfloat16: take another --precision for a dry run")
    cases = kernel_cases(job)
    layers = [
        asdict(layer) | {"ways": [asdict(way) | {"form": way.form} for way in layer.ways]} for layer in cases.layers
    ]
    emit("cases", keys=[problem.key for problem in cases.problems], layers=layers)
    timer = Timer(machine, min(job.seconds, _MOST_SECONDS))
    for problem in cases.problems:
        if problem.key in job.known:
            continue
        emit("begun", key=problem.key, operator=problem.operator, title=problem.title, used=list(problem.used))
        found = _measured(machine, timer, problem, cases.tables[problem.key], job.dry)
        emit("kernel", key=problem.key, **found)
        machine.collect()


def kernel_cases(job: Job) -> Cases:
    arch, names = (DRY_ARCHITECTURE, DRY_SUBNETS) if job.dry else (ARCHITECTURE, SUBNETS)
    return collect(arch, parse_subnets(",".join(names), arch), job.precision)


def _measured(
    machine: Machine, timer: Timer, problem: Problem, tables: Mapping[str, np.ndarray], dry: bool
) -> dict[str, Any]:
    """operator, title, used; works: of each launch; candidates: us, error and of_bound of each; failed, left_out: reasons by
    candidate, the latter of those that the device has too little shared memory for, which engines leave out too. What differs
    from the reference is not timed."""
    calls = next(iter(problem.candidates.values()))
    works = [asdict(work_of(call, tables)) | {"half": half(call)} for call in calls]
    found: dict[str, Any] = {
        "operator": problem.operator,
        "title": problem.title,
        "used": list(problem.used),
        "works": works,
        "candidates": {},
        "failed": {},
        "left_out": {},
    }
    try:
        made = bound(calls, tables, machine.device)
        # The parts of a sequence are problems of their own, and were compared as such.
        wanted = expected(made[0]) if len(made) == 1 else []
    except Exception as error:
        traceback.print_exc()
        found["failed"]["reference"] = one_line(error)
        _still_usable(machine, problem, error)
        return found
    candidates = list(problem.candidates.items())
    for label, drafted in candidates[:1] if dry else candidates:
        print(problem.operator, problem.title, label, flush=True)
        try:
            given = _like(drafted, made)
            for call in given:
                run(call)
            machine.wait()
            checks = [one.check(given[0]) for one in wanted]
            worst = max(checks, key=lambda check: check.of_bound, default=None)
            if worst is not None and not worst.passed:
                found["failed"][label] = (
                    f"it differs from the reference by {worst.error:.2e} of the largest value, {worst.of_bound:.3g} times "
                    "what is allowed"
                )
                continue
            found["candidates"][label] = timer.times(given) | (asdict(worst) if worst else {})
        except Exception as error:
            if type(error).__name__ == _TOO_LARGE:
                found["left_out"][label] = one_line(error)
                continue
            traceback.print_exc()
            found["failed"][label] = one_line(error)
            _still_usable(machine, problem, error)
    return found


def _like(drafted: Sequence[Call], made: Sequence[Call]) -> list[Call]:
    """The launches of another candidate on tensors that are there; their results are not those of an earlier one."""
    found = []
    for draft, call in zip(drafted, made, strict=True):
        # Integers are the same but for how far apart images lie, of which there is one.
        arguments = {name: call.arguments[name] for name in draft.arguments}
        found.append(Call(draft.kernel, arguments, draft.constants, draft.grid, draft.warps, draft.stages))
        for name in ("out", "demodulation") if call.name == "affine_styles" else ("out",):
            result = arguments.get(name)
            if isinstance(result, torch.Tensor):
                result.fill_(torch.nan)
    return found


def _still_usable(machine: Machine, problem: Problem, error: Exception) -> None:
    """Raises BackendError where a fault has ended the device's work for this process."""
    try:
        machine.wait()
        torch.zeros(1, device=machine.device).add_(1).sum().item()
    except Exception:
        raise BackendError(f"{problem.operator} {problem.title}: {one_line(error)}") from error
