"""The table of engines as the command line shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from anycost.runtime.choose import Row
from anycost.runtime.report import HEADER, cells


def engine_table(rows: Sequence[Row], notes: Mapping[str, str] | None = None) -> Table:
    """One line an engine; the chosen is bold, what does not fit is dim. notes: replaces the last cell, by engine name."""
    table = Table(*HEADER, box=None, header_style="bold")
    for row in rows:
        line = list(cells(row))
        line[-1] = (notes or {}).get(row.engine.name, line[-1])
        table.add_row(*map(escape, line), style="bold green" if row.chosen else "dim" if row.misfit else "")
    return table
