"""Tables of a bundle's engines as plain text and as rows for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from anycost.errors import BudgetError
from anycost.runtime.budget import Budget
from anycost.runtime.choose import Choice, Row, table
from anycost.runtime.manifest import EngineRecord, NetworkRecord, PartRecord, PortRecord
from anycost.runtime.profile import Measurement
from anycost.runtime.segments import explained

if TYPE_CHECKING:
    from anycost.runtime.runtime import Runtime

HEADER = ("", "engine", "MACs", "size", "distance", "quality", "p50", "p95", "now", "memory", "parity", "note")


def cells(row: Row) -> tuple[str, ...]:
    """The cells of ``HEADER`` for one engine, with units. quality: what it is ranked by, where that is not the distance.
    p95, memory: with ~ where they are predicted; now: the p95 that is seen, or expected, while running."""
    measured, guess = row.measured, row.predicted
    megabytes = (row.engine.size + row.engine.weights_bytes) / 1e6
    return (
        "*" if row.chosen else "",
        row.engine.name,
        _macs(row.subnet.macs),
        f"{megabytes:.1f} MB",
        f"{row.subnet.distance:.4f}",
        "-" if row.quality is None else f"{row.ranked_by.split(' to ')[0]} {row.quality:.4g}",
        f"{measured.p50_ms:.2f} ms" if measured else "-",
        f"{measured.p95_ms:.2f} ms" if measured else f"~{guess.p95_ms:.2f} ms" if guess else "-",
        "-" if row.now_ms is None else f"{row.now_ms:.2f} ms",
        f"{measured.memory_mb:.0f} MB" if measured else f"~{guess.memory_mb:.0f} MB" if guess else "-",
        f"{row.engine.parity.psnr_db:.0f} dB",
        ", ".join(filter(None, (row.misfit or ("chosen" if row.chosen else ""), "predicted" if guess else ""))),
    )


def _macs(count: int) -> str:
    return f"{count / 1e9:.1f} G" if count >= 1e9 else f"{count / 1e6:.1f} M"


def values(row: Row) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "engine": row.engine.name,
        "subnet": row.subnet.name,
        "backend": row.engine.backend,
        "targets": list(row.engine.targets),
        "checked": row.engine.checked,
        "precision": row.engine.precision,
        "resolution": row.subnet.resolution,
        "channels": list(row.subnet.channels),
        "macs": row.subnet.macs,
        "parameters": row.subnet.parameters,
        "engine_bytes": row.engine.size,
        "weights_bytes": row.engine.weights_bytes,
        "distance": row.subnet.distance,
        "ranked_by": row.ranked_by,
        "quality": row.rank,
        "parity": row.engine.parity.model_dump(),
        "measured": row.measured.model_dump() if row.measured else None,
        "predicted": asdict(row.predicted) if row.predicted else None,
        "now_ms": row.now_ms,
        "misfit": row.misfit,
        "chosen": row.chosen,
    }


@dataclass(frozen=True)
class PartRow:
    """One engine of a network beside the generator."""

    network: NetworkRecord
    part: PartRecord
    engine: EngineRecord
    measured: Measurement | None


PART_HEADER = ("engine", "takes", "gives", "MACs", "size", "p50", "p95", "memory", "parity")


def part_rows(runtime: Runtime) -> list[PartRow]:
    """Every engine of these networks, installed here or not."""
    profile = runtime.stored_profile
    return [
        PartRow(network, part, engine, profile.engines.get(engine.name) if profile else None)
        for network in runtime.bundle.manifest.networks
        for part in network.parts
        for engine in runtime.bundle.engines(part.name)
    ]


def part_cells(row: PartRow) -> tuple[str, ...]:
    """The cells of ``PART_HEADER`` for one engine, with units."""
    measured = row.measured
    return (
        row.engine.name,
        _ports(row.part.inputs),
        _ports(row.part.outputs),
        _macs(row.part.macs),
        f"{(row.engine.size + row.engine.weights_bytes) / 1e6:.1f} MB",
        f"{measured.p50_ms:.2f} ms" if measured else "-",
        f"{measured.p95_ms:.2f} ms" if measured else "-",
        f"{measured.memory_mb:.0f} MB" if measured else "-",
        f"{row.engine.parity.psnr_db:.0f} dB",
    )


def part_values(row: PartRow) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "engine": row.engine.name,
        "network": row.network.name,
        "kind": row.network.kind,
        "backend": row.engine.backend,
        "targets": list(row.engine.targets),
        "checked": row.engine.checked,
        "precision": row.engine.precision,
        "inputs": [port.model_dump() for port in row.part.inputs],
        "outputs": [port.model_dump() for port in row.part.outputs],
        "macs": row.part.macs,
        "engine_bytes": row.engine.size,
        "weights_bytes": row.engine.weights_bytes,
        "parity": row.engine.parity.model_dump(),
        "measured": row.measured.model_dump() if row.measured else None,
    }


def segment_values(runtime: Runtime) -> list[dict[str, Any]]:
    """Every engine of a segment, as plain values."""
    bundle = runtime.bundle
    segments = bundle.manifest.generator.segments if bundle.manifest.generator else ()
    return [
        {
            "engine": engine.name,
            "subnet": segment.subnet,
            "below": segment.below,
            "backend": engine.backend,
            "targets": list(engine.targets),
            "checked": engine.checked,
            "precision": engine.precision,
            "inputs": engine.inputs,
            "outputs": engine.outputs,
            "macs": segment.macs,
            "engine_bytes": engine.size,
            "weights_bytes": engine.weights_bytes,
            "parity": engine.parity.model_dump(),
        }
        for segment in segments
        for engine in bundle.engines(segment.name)
    ]


def _ports(ports: Sequence[PortRecord]) -> str:
    if len(ports) > 3:
        return f"{_ports(ports[:1])} and {len(ports) - 1} more"
    return ", ".join(f"{port.name} {'x'.join(map(str, port.shape))}" for port in ports)


def rows_for(runtime: Runtime, budget: Budget, *, measure: bool = True) -> tuple[list[Row], Choice | None, str]:
    """The table for a budget, the choice if there is one, and the reason or why nothing fits. Of a budget that images were made
    for, the choice is the present one. measure: as of ``Runtime.choose``."""
    controller = runtime.followed(budget)
    if controller:
        choice = controller.choose()
        rows = [replace(row, chosen=row.engine.name == choice.engine.name) for row in controller.table()]
        return rows, choice, choice.reason
    now = runtime.estimates.now()
    try:
        choice = runtime.choose(budget, measure=measure)
    except BudgetError as error:
        known = runtime.estimates.predictions
        return table(runtime.bundle, budget, runtime.stored_profile, predictions=known), None, str(error)
    # For reading only: without requests of this budget, its choice is by the profile.
    return [replace(row, now_ms=now.get(row.engine.name)) for row in choice.rows], choice, choice.reason


def history(runtime: Runtime, budget: Budget) -> list[str]:
    """What was seen while running, and the switches of a budget, the latest last; empty where no images were made."""
    estimates = runtime.estimates
    seen = estimates.count()
    if not seen:
        return []
    controller = runtime.followed(budget)
    lines = [f"{seen} runs seen: the machine is at {estimates.slowdown():.2f} times its profile"]
    for switch in controller.history() if controller else ():
        ago = estimates.clock() - switch.at
        lines.append(f"{ago:.1f} s ago from {switch.source} to {switch.target}: {switch.reason}")
    return lines


def explain(runtime: Runtime, budget: Budget, *, measure: bool = True) -> str:
    """``Runtime.explain``: aligned columns, cheapest engine first; then the reason, what was seen, and what segments cost."""
    rows, _, reason = rows_for(runtime, budget, measure=measure)
    lines = [HEADER, *(cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, "", reason, *history(runtime, budget), *explained(runtime)])
