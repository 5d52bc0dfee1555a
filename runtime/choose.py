"""Choosing an engine for a budget, and saying why."""

from __future__ import annotations

from dataclasses import dataclass, replace

from anycost.errors import BackendError, BudgetError
from anycost.runtime import backends
from anycost.runtime.budget import Budget
from anycost.runtime.bundle import Bundle
from anycost.runtime.manifest import EngineRecord, SubnetRecord
from anycost.runtime.profile import Measurement, Profile, nothing_runs, synthesis_engines
from anycost.runtime.quality import Quality
from anycost.runtime.usable import preference, unusable

DISTANCE = "distance to the full network"


@dataclass(frozen=True)
class Row:
    """One engine of the table. misfit: why it does not fit, empty when it does. runs: whether it can run on this machine.
    chosen: at most one row.

    ranked_by: what the rows of a table are ranked by, the smallest first; quality: the sub-network's figure of it, None for
    the distance in its record.
    """

    subnet: SubnetRecord
    engine: EngineRecord
    measured: Measurement | None
    misfit: str
    chosen: bool = False
    runs: bool = True
    quality: float | None = None
    ranked_by: str = DISTANCE

    @property
    def rank(self) -> float:
        return self.subnet.distance if self.quality is None else self.quality


@dataclass(frozen=True)
class Choice:
    """The engine for a budget, the reason in a sentence, and the whole table it was chosen from."""

    subnet: SubnetRecord
    engine: EngineRecord
    measured: Measurement | None
    reason: str
    rows: tuple[Row, ...]


def choose(
    bundle: Bundle, budget: Budget, profile: Profile | None, *, subnet: str | None = None, backend: str | None = None
) -> Choice:
    """The best quality that fits; among equals the fastest.

    Quality is the Frechet distance to data, else to the full network's images, where it was measured of every sub-network
    that is considered; else the distance to the full network that the build measured. Without a profile, backends go by
    their order of preference. subnet, backend: consider only these. Raises BudgetError that names the nearest engine when
    none fits, BundleError for an unknown sub-network.
    """
    rows = table(bundle, budget, profile, subnet=subnet, backend=backend)
    if not any(row.runs for row in rows):
        raise nothing_runs(bundle)
    fitting = [row for row in rows if not row.misfit]
    if not fitting:
        nearest = min((row for row in rows if row.runs), key=lambda row: _excess(row, budget))
        raise BudgetError(
            f"nothing fits the budget ({budget}): the nearest is {nearest.engine.name}, {_figures(nearest)}: {nearest.misfit}"
        )
    best = min(fitting, key=_rank)
    others = len(fitting) - 1
    figure = f"{best.rank:.4f}" if best.quality is None else f"{best.rank:.4g}"
    reason = f"{best.engine.name} has the smallest {best.ranked_by} ({figure}) "
    reason += f"of {len(fitting)} engines that fit ({budget})" if others else f"that fits ({budget})"
    same = [row for row in fitting if row.subnet.name == best.subnet.name]
    if len(same) > 1:
        reason += "; its fastest backend here" if best.measured else "; no profile, so the preferred backend"
    if best.measured:
        reason += f"; {_figures(best)}"
    marked = tuple(replace(row, chosen=row is best) for row in rows)
    return Choice(best.subnet, best.engine, best.measured, reason, marked)


def table(
    bundle: Bundle, budget: Budget, profile: Profile | None, *, subnet: str | None = None, backend: str | None = None
) -> list[Row]:
    """All engines with what is known of them, cheapest first; some of them run here, unless none of the bundle does."""
    if subnet is not None:
        bundle.subnet(subnet)
    if backend is not None:
        _known(bundle, backend)
    runnable = set(synthesis_engines(bundle))
    rows = []
    nets = sorted(bundle.generator.subnets, key=lambda net: net.macs)
    for engine in (engine for net in nets for engine in bundle.engines(net.name)):
        if subnet not in (None, engine.network) or backend not in (None, engine.backend, engine.variant):
            continue
        net = bundle.subnet(engine.network)
        runs = engine.name in runnable
        measured = profile.engines.get(engine.name) if profile and runs else None
        if runs:
            misfit = _misfit(net, measured, budget) or _unlike(bundle.quality, engine)
        else:
            misfit = unusable(engine) or "its mapping cannot run here"
        rows.append(Row(net, engine, measured, misfit, runs=runs))
    if not rows or (runnable and not any(row.runs for row in rows)):
        raise BudgetError(f"{bundle.folder} has no engine for {subnet or 'any sub-network'} on backend {backend}")
    ranked_by, figures = _ranking(bundle.quality, {row.subnet.name for row in rows})
    return [replace(row, quality=figures.get(row.subnet.name), ranked_by=ranked_by) for row in rows]


def _known(bundle: Bundle, backend: str) -> None:
    """Raises BackendError for a backend or variant that does not exist or cannot run here, and says which can."""
    engines = bundle.manifest.engines
    asked = [engine for engine in engines if backend in (engine.backend, engine.variant)]
    if not asked:
        backends.require(backend.partition("-")[0])
        return  # It exists, and this bundle has none: ``table`` says so.
    if all(unusable(engine) for engine in asked):
        others = sorted({engine.variant for engine in engines if not unusable(engine)})
        instead = f"; here run {', '.join(others)}" if others else ""
        raise BackendError(f"{backend} cannot run here: {unusable(asked[0])}{instead}")


def _unlike(quality: Quality | None, engine: EngineRecord) -> str:
    """That an engine's images were measured to be further from the data than its reference's; empty where they were not."""
    found = quality.engines.get(engine.name) if quality else None
    if found is None or found.parity is None or found.parity.passed:
        return ""
    return f"its images differ too much: {found.parity.difference:.3g} above {found.parity.bound:.3g}"


def _ranking(quality: Quality | None, names: set[str]) -> tuple[str, dict[str, float]]:
    """What was measured of all of these sub-networks, and its figures; no figures where nothing was."""
    if quality is not None and names <= set(quality.subnets):
        nets = {name: quality.subnets[name] for name in names}
        to_data = {name: net.fd_data.value for name, net in nets.items() if net.fd_data}
        if len(to_data) == len(names):
            return f"{quality.measure} to data", to_data
        return f"{quality.measure} to the full network", {name: net.fd_full.value for name, net in nets.items()}
    return DISTANCE, {}


def _misfit(net: SubnetRecord, measured: Measurement | None, budget: Budget) -> str:
    if budget.max_resolution is not None and net.resolution > budget.max_resolution:
        return f"{net.resolution} px is above {budget.max_resolution}"
    if budget.min_resolution is not None and net.resolution < budget.min_resolution:
        return f"{net.resolution} px is below {budget.min_resolution}"
    if not budget.needs_profile:
        return ""
    if measured is None:
        return "it was not measured on this device"
    if budget.latency_ms is not None and measured.p95_ms > budget.latency_ms:
        return f"p95 {measured.p95_ms:.2f} ms is above {budget.latency_ms:g}"
    if budget.memory_mb is not None and measured.memory_mb > budget.memory_mb:
        return f"memory {measured.memory_mb:.0f} MB is above {budget.memory_mb:g}"
    return ""


def _rank(row: Row) -> tuple[float, ...]:
    speed = row.measured.p95_ms if row.measured else float("inf")
    return (row.rank, -row.subnet.macs, speed, *preference(row.engine))


def _excess(row: Row, budget: Budget) -> float:
    """By what factor, over all limits, a row misses the budget: the smallest is the nearest."""
    factors = [1.0]
    if budget.max_resolution is not None:
        factors.append(row.subnet.resolution / budget.max_resolution)
    if budget.min_resolution is not None:
        factors.append(budget.min_resolution / row.subnet.resolution)
    if budget.needs_profile and row.measured is None:
        return float("inf")
    if row.measured and budget.latency_ms is not None:
        factors.append(row.measured.p95_ms / budget.latency_ms)
    if row.measured and budget.memory_mb is not None:
        factors.append(row.measured.memory_mb / budget.memory_mb)
    return max(factors)


def _figures(row: Row) -> str:
    if row.measured is None:
        return f"{row.subnet.macs / 1e9:.2f} GMACs"
    return f"p95 {row.measured.p95_ms:.2f} ms, {row.measured.memory_mb:.0f} MB"
