"""The table of engines as the command line shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anycost.runtime.choose import Row
from anycost.runtime.report import HEADER, PART_HEADER, PartRow, cells, part_cells


def console(*, stderr: bool = False) -> Console:
    """A console that keeps a table's lines whole in a file or a pipe, where there is no width to fit."""
    found = Console(stderr=stderr, soft_wrap=True)
    if not found.is_terminal:
        found.width = 200
    return found


def engine_table(rows: Sequence[Row], notes: Mapping[str, str] | None = None) -> Table:
    """One line an engine; the chosen is bold, what does not fit is dim. notes: replaces the last cell, by engine name."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in HEADER:
        table.add_column(title, no_wrap=title != "note", overflow="fold")
    for row in rows:
        line = list(cells(row))
        line[-1] = (notes or {}).get(row.engine.name, line[-1])
        table.add_row(*map(escape, line), style="bold green" if row.chosen else "dim" if row.misfit else "")
    return table


def part_table(rows: Sequence[PartRow]) -> Table:
    """One line an engine of the networks beside the generator."""
    table = Table(*PART_HEADER, box=None, header_style="bold", padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(escape, part_cells(row)))
    return table
