"""The kernels as a step of a run: whole problems are kept, and what one of them breaks does not stop the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from anycost.benchmarks.gpu.job import Job
from anycost.benchmarks.gpu.processes import Outcome
from anycost.benchmarks.gpu.results import FAILED, MEASURED, UNAVAILABLE, UNFINISHED, Results

Run = Callable[[Job, float], Outcome]
NAME = "kernels"
TRITON_MISSING = "Triton is not installed: pip install 'anycost-runtime[kernels]'"


def measure_kernels(job: Job, results: Results, run: Run, limit_s: float, retry: bool) -> None:
    """Fills ``results.values["kernels"]``: state, reason, rows by the problem's key, and the ways of every layer.

    A process that ends early is started again without the problem that ended it. limit_s: of each.
    """
    if find_spec("triton") is None:
        results.keep(kernels={"state": UNAVAILABLE, "reason": TRITON_MISSING})
        return
    before: dict[str, Any] = results.values.get(NAME, {})
    rows: dict[str, Any] = dict(before.get("rows", {}))
    if retry:
        rows = {key: row for key, row in rows.items() if not row["failed"]}
    layers: list[Any] = before.get("layers", [])
    while True:
        outcome = run(replace(job, kind=NAME, name=NAME, known=tuple(rows)), limit_s)
        found = {one.pop("key"): one for one in outcome.of("kernel")}
        rows |= found
        keys = next((one["keys"] for one in outcome.of("cases")), None)
        if keys is not None:
            # Of an older source of the kernels are those that it does not name.
            rows = {key: rows[key] for key in keys if key in rows}
            layers = next(one["layers"] for one in outcome.of("cases"))
        broken = next((one for one in outcome.of("begun") if one["key"] not in rows), None)
        if outcome.reason and not outcome.late and broken is not None:
            rows[broken.pop("key")] = broken | {"works": [], "candidates": {}, "failed": {"any": outcome.reason}}
        missing = keys is None or any(key not in rows for key in keys)
        again = missing and not outcome.late and broken is not None
        state = UNFINISHED if outcome.late or again else FAILED if missing else MEASURED
        reason = outcome.reason if missing else ""
        if missing and not reason:
            reason = "its process did not tell of all kernels"
        results.keep(kernels={"state": state, "reason": reason, "layers": layers, "rows": rows})
        if not again:
            return


def flawed_kernels(entry: dict[str, Any]) -> bool:
    """Whether anything of the kernels that can run here has no figures."""
    if entry["state"] == MEASURED:
        return any(row["failed"] for row in entry["rows"].values())
    return bool(entry["state"] != UNAVAILABLE)
