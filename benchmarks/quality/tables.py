"""What was measured of a bundle's quality, as tables of text: Markdown and HTML show the same ones.

Figures keep the digits that mean something: three, or as many as their interval leaves certain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from anycost.runtime.choose import Row
from anycost.runtime.quality import EngineQuality, FdParity, Interval, NetworkQuality, Pair, Quality

MISSING = "-"
_ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}
_IDENTICAL_DB = 99.995  # pairs.py gives identical images 100 dB


@dataclass(frozen=True)
class Column:
    """better: "higher", "lower" or "" where neither is. note: what it means and its unit, for people new to it."""

    name: str
    note: str = ""
    better: str = ""

    @property
    def title(self) -> str:
        return self.name + _ARROWS[self.better]


@dataclass(frozen=True)
class Table:
    """Cells as text; the first of a row names it. chosen: index of the row of the chosen engine, or None."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    chosen: int | None = None


def measure_name(quality: Quality) -> str:
    """The Frechet distance without the details in brackets: FD-avatar, or FID."""
    return quality.measure.split(" (")[0] or "FD"


def engine_quality(quality: Quality, row: Row) -> EngineQuality | None:
    """None also where the engine was built anew since it was measured."""
    found = quality.engines.get(row.engine.name)
    return found if found and found.key == row.engine.key else None


def subnet_table(quality: Quality, rows: Sequence[Row]) -> Table:
    """One row a sub-network, cheapest first; those that no engine of ``rows`` runs come last."""
    fd = measure_name(quality)
    columns = (
        Column("sub-network", "channel ratio @ side of the image in pixels"),
        Column("MACs", "multiply-adds for one image, in millions (M) or thousand millions (G)", "lower"),
        Column("PSNR", "how near the image is to the full network's of the same seed, pixel by pixel, in dB", "higher"),
        Column("SSIM", "how alike the structure of the two images is, from 0 to 1", "higher"),
        Column("distance", f"how different the two images look, by the {quality.distance}; 0 is identical", "lower"),
        Column(
            f"{fd} to data",
            "how far the images as a crowd are from the data; 0 is the same distribution; in brackets, where the figure "
            "falls 95 times of 100 when other images are drawn",
            "lower",
        ),
        Column(f"{fd} to full", "the same, from the full network's images instead of the data", "lower"),
        Column("PPL", "perceptual path length: how abruptly images change on the way from one to another", "lower"),
        Column("consistency", "share of recognised attributes of the full network's image that are kept", "higher"),
        Column(
            "fastest p50 / p95", "time of half and of 95% of the images on the fastest engine, one at a time", "lower"
        ),
    )
    nets = {row.subnet.name: row.subnet for row in sorted(rows, key=lambda row: row.subnet.macs)}
    cells = []
    for name in [*nets, *(name for name in quality.subnets if name not in nets)]:
        found = quality.subnets.get(name)
        cells.append(
            (
                name,
                macs(nets[name].macs) if name in nets else MISSING,
                *pair(found.full if found else None),
                interval(found.fd_data if found else None),
                interval(found.fd_full if found else None),
                MISSING if found is None or found.ppl is None else significant(found.ppl),
                MISSING if found is None or found.consistency is None else f"{found.consistency:.1%}",
                _fastest(name, rows),
            )
        )
    return Table("Sub-networks of the reference", columns, tuple(cells))


def engine_table(quality: Quality, rows: Sequence[Row], *, speed: bool = False) -> Table:
    """One row an engine, cheapest first. speed: with times, memory, and whether it fits the budget."""
    fd = measure_name(quality)
    columns = [
        Column("engine", "sub-network / program that runs it"),
        Column("PSNR", "how near its image is to the reference's of the same sub-network and seed, in dB", "higher"),
        Column("SSIM", "how alike the structure of the two images is, from 0 to 1", "higher"),
        Column("distance", f"how different the two images look, by the {quality.distance}; 0 is identical", "lower"),
        Column(f"{fd} to reference", "how far its images as a crowd are from its reference's; 0 is the same", "lower"),
        Column(f"{fd} to data", "how far its images as a crowd are from the data", "lower"),
        Column(
            "FD parity",
            f"pass: engine and reference differ in {fd} to data by no more than the reference differs from itself "
            "when other images are drawn; in brackets, the difference and that bound",
        ),
    ]
    if speed:
        columns += [
            Column("p50", "half of the images take at most this long, one at a time", "lower"),
            Column("p95", "95% of the images take at most this long", "lower"),
            Column("memory", "peak memory of a process that runs it, in millions of bytes", "lower"),
            Column("budget", "whether it fits, or why not"),
        ]
    cells = []
    for row in rows:
        found = engine_quality(quality, row)
        line = [
            row.engine.name,
            *pair(found.own if found else None),
            interval(found.fd_own if found else None),
            interval(found.fd_data if found else None),
            verdict(found.parity if found else None),
        ]
        if speed:
            times = row.measured
            line += [milliseconds(times.p50_ms), milliseconds(times.p95_ms)] if times else [MISSING] * 2
            line += [f"{times.memory_mb:.0f} MB" if times else MISSING]
            line += ["chosen" if row.chosen else row.misfit or "fits"]
        cells.append(tuple(line))
    chosen = next((i for i, row in enumerate(rows) if row.chosen), None)
    return Table("Engines against the reference of their own sub-network", tuple(columns), tuple(cells), chosen)


def network_tables(quality: Quality) -> list[Table]:
    """One table a network: a figure called ``central.psnr_db`` is column PSNR of row central."""
    return [table for name, network in quality.networks.items() if (table := _network_table(name, network)).rows]


def _network_table(name: str, network: NetworkQuality) -> Table:
    figures = dict(network.figures)
    # What the figures are of is no figure: it stands in the caption.
    counts = [f"{figures.pop(key):.0f} {shown}" for key, shown in _COUNTS.items() if key in figures]
    cases: dict[str, dict[str, float]] = {}
    for key, value in figures.items():
        case, _, figure = key.rpartition(".")
        cases.setdefault(case, {})[figure] = value
    names = list(dict.fromkeys(figure for found in cases.values() for figure in found))
    rows = []
    for case, found in cases.items():
        # ``central.border mean`` is of the masks of ``central``: what is said of those is true of both.
        whole = cases.get(case.rpartition(".")[0], {}) | found
        cells = [_figure(figure, whole[figure]) if figure in whole else MISSING for figure in names]
        rows.append((case.replace(".", ", ") or "all", *cells))
    columns = tuple(_figure_column(figure) for figure in names)
    return Table(f"{name} ({', '.join([network.kind, *counts])})", (Column("case"), *columns), tuple(rows))


def macs(count: int) -> str:
    return f"{count / 1e9:.2f} G" if count >= 1e9 else f"{count / 1e6:.1f} M"


def milliseconds(value: float) -> str:
    return f"{significant(value)} ms"


def significant(value: float, digits: int = 3) -> str:
    """Three digits, more before the point where it has them, at most six after it: 1234, 12.3, 0.0123."""
    if value == 0:
        return "0"
    if abs(value) < 1e-6:
        return "<0.000001" if value > 0 else "0"
    return f"{value:.{_decimals(value, digits)}f}"


def interval(found: Interval | None) -> str:
    """Value and interval to the digit that the interval's half width leaves certain, two of the value at least."""
    if found is None:
        return MISSING
    half = (found.high - found.low) / 2
    if half < 1e-6:
        return significant(found.value)
    places = max(_decimals(half, 1), _decimals(found.value, 2) if abs(found.value) >= 1e-6 else 0)
    value, low, high = (f"{number:.{places}f}" for number in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"


def pair(found: Pair | None) -> tuple[str, str, str]:
    """PSNR, SSIM, distance."""
    if found is None:
        return (MISSING,) * 3
    if found.psnr_db >= _IDENTICAL_DB and found.ssim > 1 - 1e-6:
        return ("identical", "1", "0")
    return (f"{found.psnr_db:.1f} dB", f"{found.ssim:.{3 if found.ssim < 0.999 else 5}f}", significant(found.distance))


def verdict(found: FdParity | None) -> str:
    if found is None:
        return MISSING
    sign = "≤" if found.passed else ">"
    return f"{'pass' if found.passed else 'FAIL'} ({significant(found.difference, 2)} {sign} {significant(found.bound, 2)})"


def _decimals(value: float, digits: int) -> int:
    return 0 if value == 0 else min(6, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def _fastest(name: str, rows: Iterable[Row]) -> str:
    timed = [(row.measured, row.engine.variant) for row in rows if row.subnet.name == name and row.measured]
    if not timed:
        return MISSING
    best, backend = min(timed, key=lambda item: item[0].p95_ms)
    return f"{significant(best.p50_ms)} / {milliseconds(best.p95_ms)} ({backend})"


# Keys of the record that are counts, as ``networks.py`` and ``translation.py`` name them, and how they are shown.
_COUNTS = {
    "pictures": "pictures",
    "generated pictures": "pictures that the generator made",
    "styles": "styles of each",
}
_FIGURES = {
    "psnr_db": ("PSNR", "of the whole picture, in dB", "higher"),
    "ssim": ("SSIM", "of the whole picture, from 0 to 1", "higher"),
    "distance": ("distance", "how different the two pictures look; 0 is identical", "lower"),
    "mae": ("MAE", "mean absolute error of the missing pixels, in levels of 0 to 255", "lower"),
    "rmse": ("RMSE", "root mean square error of the missing pixels, in levels of 0 to 255", "lower"),
    "missing": ("missing", "share of the picture that was to be filled", ""),
    "consistency": ("consistency", "share of recognised attributes of the picture that are kept", "higher"),
    "diversity": ("diversity", "mean distance between two translations of one picture", "higher"),
}


def _figure_column(name: str) -> Column:
    if name.startswith("DF"):  # translation.py names it after the measure
        return Column(name, "mean distance of many translations of one picture to the data", "lower")
    return Column(*_FIGURES.get(name, (name.replace("_", " "),)))


def _figure(name: str, value: float) -> str:
    if name in ("missing", "consistency"):
        return f"{value:.1%}"
    return f"{value:.1f} dB" if name == "psnr_db" else significant(value)
