"""Progress bars on standard error: a live bar on a terminal, a line a step elsewhere, nothing with --json."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Steps = Callable[[str, int, int], None]
Bytes = Callable[[int, "int | None"], None]


@contextmanager
def bar(console: Console, title: str, *, quiet: bool) -> Iterator[Steps]:
    """Yields ``step(what, done, total)``; ``what`` is empty at the end."""
    started = time.monotonic()
    if quiet:
        yield lambda what, done, total: None
    elif not console.is_terminal:

        def line(what: str, done: int, total: int) -> None:
            seconds = time.monotonic() - started
            console.print(f"{title} {done}/{total} {what or 'done'} ({seconds:.0f} s)", highlight=False)

        yield line
    else:
        columns = (
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task("", total=None, visible=False)
            yield lambda what, done, total: shown.update(
                task, description=what, completed=done, total=total, visible=True
            )


@contextmanager
def bytes_bar(console: Console, *, quiet: bool) -> Iterator[Bytes]:
    """Yields ``progress(bytes so far, bytes in all or None)``; nothing is shown until its first call."""
    if quiet:
        yield lambda done, total: None
        return
    last = [-1]

    def line(done: int, total: int | None) -> None:
        tenth = done * 10 // total if total else done // (50 << 20)
        if tenth != last[0]:
            last[0] = tenth
            console.print(
                f"fetched {done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else f"fetched {done / 1e6:.0f} MB"
            )

    if not console.is_terminal:
        yield line
        return
    with Progress(TextColumn("fetching"), BarColumn(), DownloadColumn(), console=console, transient=True) as shown:
        task = shown.add_task("", total=None, visible=False)
        yield lambda done, total: shown.update(task, completed=done, total=total, visible=True)
