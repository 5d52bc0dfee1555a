"""Quality against latency of a bundle's engines, as a chart: what a budget buys."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from anycost.benchmarks.quality.tables import engine_quality, measure_name
from anycost.errors import InputError
from anycost.runtime.budget import Budget
from anycost.runtime.choose import Choice, Row
from anycost.runtime.quality import Interval, Quality

# Okabe and Ito's palette, told apart by people of every kind of colour vision; its yellow is too light on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = {"onnxruntime": "o", "openvino": "s", "tensorrt": "^", "tensorrt_rtx": "v", "cuda": "D", "torch": "P"}
_OTHER_MARKERS = "X*<>"
_WIDTH, _HEIGHT, _DPI = 8.0, 16 / 3, 150  # 1200 x 800 px, and still legible at two thirds of it
_MARKER = 6.5
_LOGARITHMIC_ABOVE = 10.0  # ratio of the highest quality to the lowest above which a linear axis hides the best engines
_LABEL_ANGLES = (-90, 90, 0, 180, -45, 45, -135, 135)
_LABEL_DISTANCES = (9, 14, 20, 28, 38, 50, 64)  # points
_UNMISTAKABLE = 20  # points: what is nearer needs no line to its point

Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels


@dataclass(frozen=True)
class Point:
    """One engine on the chart."""

    row: Row
    x: float
    quality: Interval


@dataclass(frozen=True)
class Axes:
    """The points and what the axes are. title: what else a reader must know."""

    points: tuple[Point, ...]
    x_title: str
    y_title: str
    title: str
    timed: bool


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, distance) pairs that no other beats, by rising cost. Of equal pairs, the first."""
    found: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (*points[i], i)):
        if not found or points[i][1] < points[found[-1]][1]:
            found.append(i)
    return found


def axes_of(quality: Quality, rows: Sequence[Row]) -> Axes:
    """The engines with a figure for both axes.

    x: the measured p95. Where no engine was timed, GMACs, and a point is a sub-network, at its first engine: all its engines
    would be at one place. y: the distance to the data if every sub-network has it, an engine's own where it was measured;
    else the distance to the full network, so that one axis shows one thing.
    """
    known = [row for row in rows if row.subnet.name in quality.subnets]
    timed = any(row.measured for row in known)
    to_data = all(quality.subnets[row.subnet.name].fd_data for row in known)
    seen: set[str] = set()
    points = []
    for row in known:
        subnet = quality.subnets[row.subnet.name]
        found = (subnet.fd_data if to_data else None) or subnet.fd_full
        if timed and row.measured:
            engine = engine_quality(quality, row)
            own = engine.fd_data if to_data and engine else None
            points.append(Point(row, row.measured.p95_ms, own or found))
        elif not timed and row.subnet.name not in seen:
            seen.add(row.subnet.name)
            points.append(Point(row, row.subnet.macs / 1e9, found))
    left_out = len(rows) - len(points) if timed else len({row.subnet.name for row in rows} - seen)
    kind = "engines" if timed else "sub-networks"
    title = f"{len(points)} {kind}; {quality.measure} of {quality.images} images, bars are 95% intervals"
    return Axes(
        tuple(points),
        "p95 latency of one image (ms)" if timed else "GMACs of one image (no engine was timed)",
        f"{measure_name(quality)} to {'the data' if to_data else 'the full network'} (lower is better)",
        f"{title}; {left_out} without figures" if left_out else title,
        timed,
    )


def pareto(path: Path, quality: Quality, rows: Sequence[Row], budget: Budget, chosen: Row | Choice | None) -> None:
    """Write a PNG of 1200 x 800 px: an engine a point, 95% intervals, the Pareto front, the budget, the chosen one ringed.

    Raises InputError where no engine has a figure.
    """
    shown = axes_of(quality, rows)
    if not shown.points:
        raise InputError("there is nothing to draw: the measured quality is of none of these engines")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    limit = budget.latency_ms if shown.timed else None
    figure, axes = pyplot.subplots(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, layout="constrained")
    try:
        _scale(axes, shown, limit)
        _draw_points(axes, shown)
        lines = _draw_lines(axes, shown, limit)
        _legend(figure, shown, lines)
        axes.set_xlabel(shown.x_title)
        axes.set_ylabel(shown.y_title)
        axes.set_title(shown.title, fontsize=9.5, loc="left", color="#444444")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        figure.canvas.draw()
        _label(figure, axes, shown, lines, chosen)
        figure.savefig(path, format="png", dpi=_DPI)
    finally:
        pyplot.close(figure)


def _scale(axes: Any, shown: Axes, limit: float | None) -> None:
    xs = [point.x for point in shown.points] + ([limit] if limit else [])
    axes.set_xscale("log")
    _logarithmic(axes.xaxis, axes.set_xlim, min(xs) / 1.2, max(xs) * 1.2)
    lows, highs = ([getattr(point.quality, end) for point in shown.points] for end in ("low", "high"))
    if min(lows) > 0 and max(highs) / min(lows) > _LOGARITHMIC_ABOVE:
        axes.set_yscale("log")
        _logarithmic(axes.yaxis, axes.set_ylim, min(lows) / 1.3, max(highs) * 1.3)
    else:
        room = 0.08 * (max(highs) - min(lows)) or 1.0
        axes.set_ylim(min(lows) - room, max(highs) + room)


def _logarithmic(axis: Any, set_limits: Callable[[float, float], object], low: float, high: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    set_limits(low, high)
    # Powers of ten alone would leave an axis of one decade without figures.
    steps = (1,) if high / low > 500 else (1, 2, 5) if high / low > 5 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _colours(shown: Axes) -> dict[int, str]:
    sides = sorted({point.row.subnet.resolution for point in shown.points})
    return {side: _COLOURS[i % len(_COLOURS)] for i, side in enumerate(sides)}


def _markers(shown: Axes) -> dict[str, str]:
    names = sorted({point.row.engine.variant for point in shown.points})
    others = [name for name in names if name not in _MARKERS]
    return {n: _MARKERS.get(n) or _OTHER_MARKERS[others.index(n) % len(_OTHER_MARKERS)] for n in names}


def _draw_points(axes: Any, shown: Axes) -> None:
    colours, markers = _colours(shown), _markers(shown)
    for point in shown.points:
        found, colour = point.quality, colours[point.row.subnet.resolution]
        bar = [[found.value - found.low], [found.high - found.value]]
        axes.errorbar(point.x, found.value, bar, fmt="none", color=colour, elinewidth=1.3, capsize=3, zorder=3)
        axes.plot(
            point.x,
            found.value,
            markers[point.row.engine.variant] if shown.timed else "o",
            color=colour,
            markersize=_MARKER,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=4,
        )


def _draw_lines(axes: Any, shown: Axes, limit: float | None) -> list[Any]:
    """The Pareto front as steps, and the latency budget where there is one."""
    pairs = [(point.x, point.quality.value) for point in shown.points]
    steps = [pairs[i] for i in front(pairs)]
    # What a cost buys stays the same up to the next better engine, and to the right of the last one.
    xs, ys = zip(*steps, (axes.get_xlim()[1], steps[-1][1]), strict=True)
    lines = axes.plot(xs, ys, drawstyle="steps-post", color="#777777", linewidth=1.2, zorder=2, label="Pareto front")
    if limit is not None:
        name = f"budget, {limit:g} ms"
        lines.append(axes.axvline(limit, color="#222222", linestyle=(0, (5, 3)), linewidth=1.2, zorder=1, label=name))
    return lines


def _legend(figure: Any, shown: Axes, lines: list[Any]) -> None:
    from matplotlib.lines import Line2D

    def dot(colour: str, marker: str, name: str) -> Line2D:
        return Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=_MARKER, label=name)

    first = [dot(colour, "o", f"{side} px") for side, colour in _colours(shown).items()]
    markers = _markers(shown).items() if shown.timed else ()
    second = [*(dot("#444444", marker, name) for name, marker in markers), *lines]
    # matplotlib fills a legend by columns; blanks keep resolutions in the first line and the rest in the second.
    columns = max(len(first), len(second))
    filled = [(line + [dot("none", "", "")] * columns)[:columns] for line in (first, second)]
    handles = [handle for column in zip(*filled, strict=True) for handle in column]
    # Below the axes, where it hides no point.
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8.5, frameon=False)


def _label(figure: Any, axes: Any, shown: Axes, lines: list[Any], chosen: Row | Choice | None) -> None:
    """The chosen engine ringed and named first, then each sub-network named at its cheapest engine, where there is room."""
    best: dict[str, Point] = {}
    for point in sorted(shown.points, key=lambda point: point.x):
        best.setdefault(point.row.subnet.name, point)
    # Without times a point stands for all engines of its sub-network.
    ringed = best.get(chosen.subnet.name) if chosen else None
    if chosen and shown.timed:
        ringed = next((point for point in shown.points if point.row.engine.name == chosen.engine.name), None)
    place = _Places(figure, axes, shown, lines)
    if chosen and ringed:
        at = (ringed.x, ringed.quality.value)
        axes.plot(*at, "o", markersize=15, markerfacecolor="none", color="#222222", markeredgewidth=1.8, zorder=5)
        place.text(f"chosen: {chosen.engine.name}", at, color="#111111", fontsize=9.5, fontweight="bold", nearest=14)
        best.pop(ringed.row.subnet.name)
    # Those at the front are what a reader looks for, so they have the first choice of place.
    pairs = [(point.x, point.quality.value) for point in shown.points]
    leading = {shown.points[i].row.subnet.name for i in front(pairs)}
    for name, point in sorted(best.items(), key=lambda item: item[0] not in leading):
        place.text(name, (point.x, point.quality.value), color="#333333", fontsize=8.5)


class _Places:
    """Places text beside points so that it covers no point, bar or other text, trying near places before far ones."""

    def __init__(self, figure: Any, axes: Any, shown: Axes, lines: list[Any]) -> None:
        self.axes, self.renderer = axes, figure.canvas.get_renderer()
        self.points = figure.dpi / 72  # pixels in a point
        self.taken = [self._bar(point) for point in shown.points]
        self.taken += [box for line in lines for box in self._segments(line)]

    def _bar(self, point: Point) -> Box:
        to_pixels, reach = self.axes.transData.transform, 5 * self.points
        (x, low), (_, high), (_, value) = (
            to_pixels((point.x, y)) for y in (point.quality.low, point.quality.high, point.quality.value)
        )
        edge = 2 * self.points  # the caps are lines of some width
        return (x - reach, min(low - edge, value - reach), x + reach, max(high + edge, value + reach))

    def _segments(self, line: Any) -> list[Box]:
        """Thin boxes along the horizontal and vertical pieces of a line."""
        corners = line.get_transform().transform_path(line.get_path()).vertices
        if line.get_drawstyle() == "steps-post":
            between = [(after[0], before[1]) for before, after in pairwise(corners)]
            corners = [corner for pair in zip(corners, between, strict=False) for corner in pair] + [corners[-1]]
        width = 2 * self.points
        return [
            (min(a[0], b[0]) - width, min(a[1], b[1]) - width, max(a[0], b[0]) + width, max(a[1], b[1]) + width)
            for a, b in pairwise(corners)
        ]

    def text(self, text: str, at: tuple[float, float], *, nearest: float = 0.0, **style: Any) -> None:
        """Write ``text`` near the data point ``at``, with a thin line to it where it is not next to it."""
        probe = self.axes.annotate(text, at, (0, 0), textcoords="offset points", **style)
        box = probe.get_window_extent(self.renderer)
        probe.remove()
        x, y = self.axes.transData.transform(at)
        boxes = [
            (distance, self._box(x, y, box.width, box.height, max(distance, nearest) * self.points, angle))
            for distance in _LABEL_DISTANCES
            for angle in _LABEL_ANGLES
            if distance >= nearest
        ]
        distance, (left, bottom, right, top) = min(boxes, key=lambda item: (round(self._covered(item[1])), item[0]))
        self.taken.append((left, bottom, right, top))
        offset = (((left + right) / 2 - x) / self.points, ((bottom + top) / 2 - y) / self.points)
        line = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
        far = line if distance > max(_UNMISTAKABLE, nearest) else None
        self.axes.annotate(
            text, at, offset, textcoords="offset points", ha="center", va="center", arrowprops=far, zorder=6, **style
        )

    def _box(self, x: float, y: float, width: float, height: float, away: float, angle: float) -> Box:
        """The box of this size whose nearest edge is ``away`` pixels from (x, y) in that direction."""
        across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        cx, cy = x + across * (away + width / 2), y + up * (away + height / 2)
        return (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)

    def _covered(self, box: Box) -> float:
        """Pixels of the box that are on what is already there or outside the axes."""
        frame = self.axes.bbox
        inside = _overlap(box, (frame.x0, frame.y0, frame.x1, frame.y1))
        outside = (box[2] - box[0]) * (box[3] - box[1]) - inside
        return 10 * outside + sum(_overlap(box, other) for other in self.taken)


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
