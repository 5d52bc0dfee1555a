"""One contender, in a process of its own: parity, times and memory of its sub-networks."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from anycost.benchmarks.gpu.case import Case, Contender, Loaded
from anycost.benchmarks.gpu.contenders import CONTENDERS
from anycost.benchmarks.gpu.job import Emit, Job
from anycost.benchmarks.gpu.machine import Machine, Times, open_machine, runs_for, wall_times
from anycost.benchmarks.gpu.reference import Expected
from anycost.networks.channels import Subnet, parse_subnets


def measure(job: Job, emit: Emit) -> None:
    """Findings: ``figures`` of each sub-network and batch, ``subnet`` (parity, memory) and ``failed`` of each sub-network,
    ``all`` with every one loaded at a time, and ``notes``. What one sub-network fails at does not stop the others."""
    torch.set_num_threads(job.threads)
    checkpoint = job.checkpoint()
    machine = open_machine(job.dry)
    nets = tuple(parse_subnets(",".join(job.subnets), checkpoint.arch))
    case = Case(job, checkpoint, machine, Expected(job), nets)
    contender = CONTENDERS[job.name].make(case)
    for name, reason in contender.failed.items():
        emit("failed", subnet=name, reason=reason)
    done = [net for net in nets if net.name not in contender.failed and _subnet(case, contender, net, emit)]
    machine.collect()
    if done:
        _guarded("all", lambda: emit("all", memory=_together(case, contender, done)), emit)
    machine.collect()
    _guarded("notes", lambda: emit("notes", notes=contender.notes()), emit)


def _subnet(case: Case, contender: Contender, net: Subnet, emit: Emit) -> bool:
    """Whether it could be measured."""
    machine = case.machine
    machine.collect()
    print(f"measuring {net.name}", flush=True)
    return _guarded(net.name, lambda: _figures(case, contender, net, emit), emit)


def _guarded(name: str, what: Callable[[], None], emit: Emit) -> bool:
    try:
        what()
    except Exception as error:  # Libraries raise types of their own; the next sub-network may well run.
        traceback.print_exc(file=sys.stdout)
        emit("failed", subnet=name, reason=one_line(error))
        return False
    return True


def _figures(case: Case, contender: Contender, net: Subnet, emit: Emit) -> None:
    machine, job = case.machine, case.job
    before = machine.used_bytes()
    started = time.perf_counter()
    loaded = contender.load(net)
    parity, problem = case.expected.parity(net.name, loaded.run)
    prepared = time.perf_counter() - started
    if problem:
        # A contender whose picture differs is no contender.
        raise ValueError(f"its images are not the reference's: {problem}")
    for batch in job.batches:
        emit("figures", subnet=net.name, batch=batch, **_times(machine, loaded, batch, job.seconds))
    emit(
        "subnet",
        subnet=net.name,
        parity=parity,
        prepare_s=round(prepared, 2),
        memory=_memory(machine, before, [loaded]),
    )


def _times(machine: Machine, loaded: Loaded, batch: int, seconds: float) -> dict[str, Any]:
    """device, wall, host: Times, the first two None for a contender that has no runs on the device alone."""
    found: dict[str, Any] = {"device": None, "wall": None}
    call = loaded.on_device(batch)
    if call is not None:
        runs = runs_for(machine, call, seconds)
        found["device"] = asdict(Times.of(machine.device_times(call, runs)))
        found["wall"] = asdict(Times.of(wall_times(machine, call, runs)))
    call = loaded.through_host(batch)
    found["host"] = asdict(Times.of(wall_times(machine, call, runs_for(machine, call, seconds))))
    return found


def _together(case: Case, contender: Contender, nets: list[Subnet]) -> dict[str, int]:
    before = case.machine.used_bytes()
    loaded = contender.load_all(nets)
    for one in loaded:
        one.run(case.codes(max(case.job.batches)))
    return _memory(case.machine, before, loaded)


def _memory(machine: Machine, before: int, loaded: list[Loaded]) -> dict[str, int]:
    """Bytes. used: what the device has less than before they were loaded, after runs at the largest batch: libraries keep the
    most that they needed. allocated: PyTorch's own peak. Others: what the contender knows of itself, each engine alone;
    shared: the weights on the device, each once."""
    found = {"used": max(0, machine.used_bytes() - before), "allocated": machine.allocated_peak_bytes()}
    for one in loaded:
        for name, size in one.sizes().items():
            found[name] = found.get(name, 0) + size
    if machine.device == "cuda" and "engine" in found:
        from anycost.runtime.cuda.weights import device_weights

        found["shared"] = device_weights().bytes
    return found


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
