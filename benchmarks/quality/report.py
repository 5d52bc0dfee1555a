"""A bundle's measured quality as Markdown and as a sheet of pictures, and in words: how, what not, and why an engine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anycost.benchmarks.quality.tables import (
    MISSING,
    Table,
    engine_quality,
    engine_table,
    macs,
    measure_name,
    milliseconds,
    network_tables,
    significant,
    subnet_table,
)
from anycost.errors import InputError
from anycost.runtime.budget import Budget
from anycost.runtime.choose import Row
from anycost.runtime.quality import Quality

TILE = 128  # a multiple of the usual small resolutions, so that every pixel is enlarged alike
SHEET_SEEDS = 8


def method(quality: Quality, rows: Sequence[Row]) -> str:
    """One paragraph: the measure, the images, the data, and what was not measured with the reason."""
    if not quality.subnets:
        data = f"Data: {quality.data}. " if quality.data else ""
        return f"{data}Pictures are of 8 bits. The distance is the {quality.distance}. ↑ higher is better, ↓ lower is better."
    first, last = quality.first_seed, quality.first_seed + quality.images - 1
    kind = (
        "" if quality.measure.startswith("FID") else "a Fréchet distance whose figures compare only with each other, "
    )
    text = [
        f"{quality.images} images of each sub-network and engine: seeds {first} to {last}, truncation psi {quality.psi:g}.",
        f"{quality.measure}: {kind}with 95% bootstrap intervals in brackets.",
    ]
    if quality.data:
        text.append(f"Data: {quality.data} ({quality.data_count} pictures).")
    text.append(
        f"PSNR, SSIM and distance ({quality.distance}) are means over images of 8 bits, the smaller of two enlarged to the "
        "other's side. Sub-networks are compared with the full network, engines with the reference of their own sub-network."
    )
    if any(row.measured for row in rows):
        text.append("Times are of one image at a time, from z to pixels.")
    text.append("↑ higher is better, ↓ lower is better.")
    missing = gaps(quality, rows)
    if missing:
        text.append(f"Not measured, shown as {MISSING}: {'; '.join(missing)}.")
    return " ".join(text)


def gaps(quality: Quality, rows: Sequence[Row]) -> list[str]:
    """What was not measured, each with the reason as far as the record tells it."""
    fd, found = measure_name(quality), []

    def note(what: str, without: Sequence[str], every: Sequence[str], reason: str) -> None:
        if not without:
            return
        others = [name for name in every if name not in without]
        some = f" of {', '.join(without)}" if len(without) <= len(others) else f" except of {', '.join(others)}"
        found.append(f"{what}{some if others else ''} ({reason})")

    nets = quality.subnets
    reason = "left out of this measurement" if quality.data else "no data to compare with"
    note(f"{fd} to data", [name for name in nets if nets[name].fd_data is None], [*nets], reason)
    note("PPL", [name for name in nets if nets[name].ppl is None], [*nets], "left out of this measurement")
    without = [name for name in nets if nets[name].consistency is None]
    note("consistency", without, [*nets], "no attribute network for these images")
    shown = list(dict.fromkeys(row.subnet.name for row in rows))
    note("all quality", [name for name in shown if name not in nets], shown, "not among those measured")
    engines = [row.engine.name for row in rows]
    current = {row.engine.name: engine for row in rows if (engine := engine_quality(quality, row))}
    note(
        "quality of engines",
        [name for name in engines if name not in current],
        engines,
        "not measured since they were built",
    )
    without = [name for name, engine in current.items() if engine.parity is None]
    note("FD parity", without, [*current], "it needs data")
    without = [row.engine.name for row in rows if row.measured is None]
    note("times and memory", without, engines, "no profile of them on this device: 'anycost profile' makes one")
    note("MACs and times", [name for name in nets if name not in shown], [*nets], "no engine runs here")
    return found


def why(quality: Quality, rows: Sequence[Row], budget: Budget) -> str:
    """One sentence on the chosen engine, or that there is none. The rows say what they were ranked by."""
    chosen = next((row for row in rows if row.chosen), None)
    fitting = [row for row in rows if not row.misfit]
    if chosen is None:
        text = f"None of {len(rows)} engines was chosen for this budget ({budget})"
        return f"{text}: {len(fitting)} of them fit." if fitting else f"{text}: none fits."
    text = f"Of {len(rows)} engines, {len(fitting)} fit the budget ({budget})"
    text += f", and {chosen.engine.name} has the lowest {chosen.ranked_by} of these, {significant(chosen.rank)}"
    same = [row for row in fitting if row.subnet.name == chosen.subnet.name]
    if chosen.measured is None:
        return text + ". Nothing was timed, so the preferred program runs it." if len(same) > 1 else text + "."
    if len(same) > 1 and all(row.measured and row.measured.p95_ms >= chosen.measured.p95_ms for row in same):
        text += ", on the fastest program for it"
    return text + f": p95 {milliseconds(chosen.measured.p95_ms)}, {chosen.measured.memory_mb:.0f} MB."


def markdown(quality: Quality, rows: Sequence[Row]) -> str:
    """Tables of sub-networks, engines and other networks, and the paragraph of ``method``. No headings: it goes in a README."""
    tables = [subnet_table(quality, rows), engine_table(quality, rows), *network_tables(quality)]
    parts = [_markdown_table(table) for table in tables if table.rows]
    return "\n\n".join([*parts, plain_markdown(method(quality, rows))]) + "\n"


def _markdown_table(table: Table) -> str:
    lines = [
        "| " + " | ".join(plain_markdown(column.title) for column in table.columns) + " |",
        "|---|" + "---:|" * (len(table.columns) - 1),
    ]
    for i, row in enumerate(table.rows):
        name, *rest = map(plain_markdown, row)
        lines.append("| " + " | ".join([f"**{name}** (chosen)" if i == table.chosen else name, *rest]) + " |")
    return "\n".join([f"{plain_markdown(table.caption)}:", "", *lines])


def plain_markdown(text: str) -> str:
    """On one line, and nothing in it is read as Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|&#~])", r"\\\1", " ".join(text.split()))


def sheet(path: Path, images: Mapping[str, np.ndarray], macs_of: Mapping[str, int] | None = None) -> None:
    """Write a PNG: a row for each sub-network, a column for each seed, labelled with names and, if given, MACs.

    images: uint8 [N, r, r, 3] by name of sub-network, the same N seeds in each. A tile is 128 px: smaller images are enlarged
    without smoothing, larger ones reduced by averaging. Raises InputError.
    """
    counts = {len(batch) for batch in images.values()}
    if len(counts) != 1 or counts == {0}:
        raise InputError(f"a sheet needs as many images of every sub-network, not {sorted(counts)}")
    for name, batch in images.items():
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 3:
            raise InputError(f"images of {name} are {batch.dtype} {list(batch.shape)}; uint8 [N, r, r, 3] is expected")
    font, small = ImageFont.load_default(18), ImageFont.load_default(14)
    captions = {name: macs(macs_of[name]) + " MACs" if macs_of and name in macs_of else "" for name in images}
    left = 20 + int(max(max(font.getlength(name), small.getlength(below)) for name, below in captions.items()))
    gap = 4
    count, step = counts.pop(), TILE + gap
    page = Image.new("RGB", (left + count * step, len(images) * step + gap), "white")
    draw = ImageDraw.Draw(page)
    for row, (name, batch) in enumerate(images.items()):
        top = gap + row * step
        middle = top + TILE // 2
        draw.text((10, middle - 1 if captions[name] else middle), name, "black", font, "ls" if captions[name] else "lm")
        draw.text((10, middle + 17), captions[name], "#555555", small, "ls")
        filter_ = Image.Resampling.NEAREST if batch.shape[1] <= TILE else Image.Resampling.BOX
        for column, image in enumerate(batch):
            tile = Image.fromarray(image).resize((TILE, TILE), filter_)
            page.paste(tile, (left + column * step, top))
    page.save(path, format="PNG", optimize=True)
