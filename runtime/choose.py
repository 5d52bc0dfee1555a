"""Choosing an engine for a budget, and saying why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from anycost.errors import BackendError, BudgetError
from anycost.runtime import backends
from anycost.runtime.budget import Budget
from anycost.runtime.bundle import Bundle
from anycost.runtime.manifest import EngineRecord, SubnetRecord
from anycost.runtime.predict import Prediction
from anycost.runtime.profile import Measurement, Profile, nothing_runs, synthesis_engines
from anycost.runtime.quality import Quality
from anycost.runtime.usable import preference, unusable

DISTANCE = "distance to the full network"
UNKNOWN = "it was not measured on this device"


@dataclass(frozen=True)
class Row:
    """One engine of the table. misfit: why it does not fit, empty when it does. runs: whether it can run on this machine.
    chosen: at most one row.

    ranked_by: what the rows of a table are ranked by, the smallest first; quality: the sub-network's figure of it, None for
    the distance in its record.

    predicted: of an engine that was not measured; now_ms: the p95 that is seen, or expected, while running. A budget is
    compared with the last known of the three.
    """

    subnet: SubnetRecord
    engine: EngineRecord
    measured: Measurement | None
    misfit: str
    chosen: bool = False
    runs: bool = True
    quality: float | None = None
    ranked_by: str = DISTANCE
    predicted: Prediction | None = None
    now_ms: float | None = None

    @property
    def p95_ms(self) -> float | None:
        """What a budget of time is compared with."""
        if self.now_ms is not None:
            return self.now_ms
        known = self.measured or self.predicted
        return known.p95_ms if known else None

    @property
    def memory_mb(self) -> float | None:
        known = self.measured or self.predicted
        return known.memory_mb if known else None

    @property
    def rank(self) -> float:
        return self.subnet.distance if self.quality is None else self.quality


@dataclass(frozen=True)
class Choice:
    """The engine for a budget, the reason in a sentence, and the whole table it was chosen from.

    predicted: where it was not measured. fits: False where, while running, nothing meets the budget for the moment and this
    is the fastest there is.
    """

    subnet: SubnetRecord
    engine: EngineRecord
    measured: Measurement | None
    reason: str
    rows: tuple[Row, ...]
    predicted: Prediction | None = None
    fits: bool = True


def choose(
    bundle: Bundle,
    budget: Budget,
    profile: Profile | None,
    *,
    subnet: str | None = None,
    backend: str | None = None,
    predictions: Mapping[str, Prediction] | None = None,
    now: Mapping[str, float] | None = None,
) -> Choice:
    """The best quality that fits; among equals the fastest.

    Quality is the Frechet distance to data, else to the full network's images, where it was measured of every sub-network
    that is considered; else the distance to the full network that the build measured. Without a profile, backends go by
    their order of preference. subnet, backend: consider only these. predictions: by engine name, for those that were not
    measured; without one, an engine that was not measured meets no limit of time or memory. now: p95 in ms by engine name, as
    it is seen while running; it stands in for the measured one. Raises BudgetError that names the nearest engine when
    none fits, BundleError for an unknown sub-network.
    """
    rows = table(bundle, budget, profile, subnet=subnet, backend=backend, predictions=predictions, now=now)
    if not any(row.runs for row in rows):
        raise nothing_runs(bundle)
    fitting = [row for row in rows if not row.misfit]
    if not fitting:
        nearest = min((row for row in rows if row.runs), key=lambda row: _excess(row, budget))
        raise BudgetError(
            f"nothing fits the budget ({budget}): the nearest is {nearest.engine.name}, {_figures(nearest)}: {nearest.misfit}"
        )
    best = best_first(fitting, budget)[0]
    others = len(fitting) - 1
    figure = f"{best.rank:.4f}" if best.quality is None else f"{best.rank:.4g}"
    reason = f"{best.engine.name} has the smallest {best.ranked_by} ({figure}) "
    reason += f"of {len(fitting)} engines that fit ({budget})" if others else f"that fits ({budget})"
    same = [row for row in fitting if row.subnet.name == best.subnet.name]
    if len(same) > 1:
        guessed = best.predicted and budget.needs_profile
        unknown = "; its fastest backend, as predicted" if guessed else "; no profile, so the preferred backend"
        reason += "; its fastest backend here" if best.measured else unknown
    if best.measured or (best.predicted and budget.needs_profile):
        reason += f"; {_figures(best)}"
    marked = tuple(replace(row, chosen=row is best) for row in rows)
    return Choice(best.subnet, best.engine, best.measured, reason, marked, best.predicted)


def table(
    bundle: Bundle,
    budget: Budget,
    profile: Profile | None,
    *,
    subnet: str | None = None,
    backend: str | None = None,
    predictions: Mapping[str, Prediction] | None = None,
    now: Mapping[str, float] | None = None,
) -> list[Row]:
    """All engines with what is known of them, cheapest first; some of them run here, unless none of the bundle does."""
    if subnet is not None:
        bundle.subnet(subnet)
    if backend is not None:
        _known(bundle, backend)
    runnable = set(synthesis_engines(bundle))
    nets = sorted(bundle.generator.subnets, key=lambda net: net.macs)
    engines = [
        engine
        for net in nets
        for engine in bundle.engines(net.name)
        if subnet in (None, engine.network) and backend in (None, engine.backend, engine.variant)
    ]
    if not engines or (runnable and not any(engine.name in runnable for engine in engines)):
        raise BudgetError(f"{bundle.folder} has no engine for {subnet or 'any sub-network'} on backend {backend}")
    ranked_by, figures = _ranking(bundle.quality, {engine.network for engine in engines})
    rows = []
    for engine in engines:
        runs = engine.name in runnable
        row = Row(
            bundle.subnet(engine.network),
            engine,
            profile.engines.get(engine.name) if profile and runs else None,
            "",
            runs=runs,
            quality=figures.get(engine.network),
            ranked_by=ranked_by,
            predicted=(predictions or {}).get(engine.name) if runs else None,
            now_ms=(now or {}).get(engine.name) if runs else None,
        )
        if runs:
            misfit = _misfit(row, budget) or _unlike(bundle.quality, engine)
        else:
            misfit = unusable(engine) or "its mapping cannot run here"
        rows.append(replace(row, misfit=misfit))
    return rows


def best_first(rows: Iterable[Row], budget: Budget) -> list[Row]:
    """The best quality first; among equals the fastest by profile, or by prediction where the budget needs to know; then
    the preferred. It does not go by what is seen while running: an order that moves would make a choice swing."""

    def key(row: Row) -> tuple[float, ...]:
        known = row.measured or (row.predicted if budget.needs_profile else None)
        speed = known.p95_ms if known else float("inf")
        return (row.rank, -row.subnet.macs, speed, *preference(row.engine))

    return sorted(rows, key=key)


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


def _misfit(row: Row, budget: Budget) -> str:
    side = row.subnet.resolution
    if budget.max_resolution is not None and side > budget.max_resolution:
        return f"{side} px is above {budget.max_resolution}"
    if budget.min_resolution is not None and side < budget.min_resolution:
        return f"{side} px is below {budget.min_resolution}"
    if budget.max_distance is not None and row.rank > budget.max_distance:
        return f"{row.ranked_by} {row.rank:.4g} is above {budget.max_distance:g}"
    if not budget.needs_profile:
        return ""
    p95, memory = row.p95_ms, row.memory_mb
    guess = " predicted" if row.measured is None else ""
    if budget.latency_ms is not None:
        if p95 is None:
            return UNKNOWN
        if p95 > budget.latency_ms:
            seen = " now" if row.now_ms is not None else guess
            return f"p95{seen} {p95:.2f} ms is above {budget.latency_ms:g}"
    if budget.memory_mb is not None:
        if memory is None:
            return UNKNOWN
        if memory > budget.memory_mb:
            return f"memory{guess} {memory:.0f} MB is above {budget.memory_mb:g}"
    return ""


def _excess(row: Row, budget: Budget) -> float:
    """By what factor, over all limits, a row misses the budget: the smallest is the nearest."""
    factors = [1.0]
    if budget.max_resolution is not None:
        factors.append(row.subnet.resolution / budget.max_resolution)
    if budget.min_resolution is not None:
        factors.append(budget.min_resolution / row.subnet.resolution)
    if budget.max_distance is not None and row.rank > budget.max_distance:
        factors.append(row.rank / budget.max_distance if budget.max_distance else float("inf"))
    if budget.latency_ms is not None:
        factors.append(float("inf") if row.p95_ms is None else row.p95_ms / budget.latency_ms)
    if budget.memory_mb is not None:
        factors.append(float("inf") if row.memory_mb is None else row.memory_mb / budget.memory_mb)
    return max(factors)


def _figures(row: Row) -> str:
    if row.p95_ms is None or row.memory_mb is None:
        return f"{row.subnet.macs / 1e9:.2f} GMACs"
    text = f"p95 {row.p95_ms:.2f} ms, {row.memory_mb:.0f} MB"
    return text if row.measured else f"{text} (predicted from {row.predicted.basis})" if row.predicted else text
