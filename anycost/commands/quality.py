"""Measuring the quality of a bundle: bench quality, and the second half of verify --quality."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from anycost.commands.quality_options import (
    DataOption,
    FeaturesOption,
    FidOption,
    ImagesOption,
    LpipsOption,
    ProcessesOption,
    PsiOption,
    QualityOptions,
    RayOption,
    ResizeOption,
    WorkOption,
)
from anycost.commands.shared import (
    BundleArgument,
    JsonOption,
    LatencyOption,
    ThreadsOption,
    app,
    err,
    limits,
    out,
    print_json,
)
from anycost.errors import InputError
from anycost.progress import bar

if TYPE_CHECKING:
    from anycost.runtime.budget import Budget
    from anycost.runtime.quality import Quality
    from anycost.runtime.runtime import Runtime

bench = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Measure how good a bundle is.")
app.add_typer(bench, name="bench")


@bench.callback()
def _group() -> None:
    pass


@bench.command()
def quality(
    bundle: BundleArgument,
    images: ImagesOption = None,
    data: DataOption = None,
    target: Annotated[
        Path | None,
        typer.Option(help="Pictures that translators translate to, for DFID: as of --data.", show_default=False),
    ] = None,
    fid: FidOption = None,
    resize: ResizeOption = None,
    features: FeaturesOption = None,
    lpips: LpipsOption = None,
    psi: PsiOption = None,
    pairs: Annotated[
        int | None,
        typer.Option(min=1, max=50_000, help="Pairs of latents of a path length (default 500).", show_default=False),
    ] = None,
    no_ppl: Annotated[bool, typer.Option("--no-ppl", help="Without path lengths.")] = False,
    processes: ProcessesOption = None,
    ray: RayOption = None,
    work: WorkOption = None,
    no_store: Annotated[
        bool, typer.Option("--no-store", help="Leave the bundle's quality.json, by which the runtime ranks.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder of a report: quality.json, .md and .html, pareto.png, sheet.png.",
            show_default=False,
        ),
    ] = None,
    budget: LatencyOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the quality of every sub-network, engine and other network of a bundle, and store it there.

    The runtime ranks sub-networks by what was measured. A measurement that is stopped goes on where it was when the same
    command runs again.

    Examples:

    - `anycost bench quality bundle/`
    - `anycost bench quality bundle/ --images 5000 --data pictures/ --processes 8 -o report/`
    - `anycost bench quality bundle/ --fid pt_inception-2015-12-05-6726825d.pth --resize clean-fid --data pictures/`
    - `anycost bench quality bundle/ --ray local --work parts/`
    """
    import anycost

    limit = limits(budget, None, None, None)
    if output is not None and output.exists() and not output.is_dir():
        raise InputError(f"{output} is not a folder: give a folder for the report with -o")
    if no_ppl and pairs is not None:
        raise InputError("--pairs are of the path lengths that --no-ppl leaves out: give one of the two")
    options = QualityOptions(images, psi, data, fid, resize, features, lpips, processes, ray, work)
    settings = options.settings(path_pairs=0 if no_ppl else pairs, target=target)
    pool = options.pool(threads)
    runtime = anycost.open(bundle, threads=threads)
    # Before the hours of measuring, not after them.
    if not no_store:
        _writable(bundle, "add --no-store and -o FOLDER")
    if output is not None:
        _writable(output, "give another folder with -o")
    measured = _measured(runtime, settings, pool, as_json)
    if not no_store:
        _store(runtime, measured)
    runtime = anycost.Runtime(runtime.bundle.with_quality(measured), threads=threads)
    with _stoppable(
        lambda: f"the figures are {'not stored' if no_store else f'stored in {bundle}'}, the rest was left out"
    ):
        if runtime.bundle.manifest.generator and (output is not None or runtime.unmeasured(limit)):
            # A report shows quality against latency.
            with bar(err, "measuring this device once", quiet=as_json) as progress:
                runtime.profile(parts=False, progress=progress)
        if output is not None:
            _report(runtime, measured, limit, output)
    if as_json:
        print_json(_sealed(measured))
        return
    for table in _tables(runtime, measured, limit):
        out.print(table)
    stored = "" if no_store else f"stored in {bundle}"
    written = "" if output is None else f"report in {output}"
    out.print(escape("; ".join(filter(None, (_how(measured), stored, written)))), highlight=False)


def parity(runtime: Runtime, options: QualityOptions, as_json: bool) -> Quality:
    """What `verify --quality` measures: every engine's parity; other seeds of the full network stand in where there is no
    data. Raises InputError for a bundle without a generator."""
    if runtime.bundle.manifest.generator is None:
        raise InputError(f"{runtime.bundle.folder} holds no elastic generator: --quality is of its engines")
    settings = options.settings(path_pairs=0, others=False, stand_in=True)
    return _measured(runtime, settings, options.pool(runtime.threads), as_json)


def parity_values(measured: Quality) -> dict[str, Any]:
    """The outcome for machines."""
    rows = []
    for name, found in measured.engines.items():
        reference = measured.subnets[name.rsplit("/", 1)[0]].fd_data
        assert reference and found.fd_data and found.parity
        figures = {"fd_reference": reference.model_dump(), "fd_engine": found.fd_data.model_dump()}
        rows.append({"engine": name, **figures, **found.parity.model_dump()})
    return {"measure": measured.measure, "data": measured.data, "images": measured.images, "engines": rows}


def parity_table(values: dict[str, Any]) -> Table:
    fd = values["measure"]
    table = Table("engine", f"{fd} reference", f"{fd} engine", "difference", "bound", "", box=None)
    for row in values["engines"]:
        figures = (row["fd_reference"]["value"], row["fd_engine"]["value"], row["difference"], row["bound"])
        table.add_row(row["engine"], *(f"{figure:.4g}" for figure in figures), "passed" if row["passed"] else "failed")
    return table


def _measured(runtime: Runtime, settings: Any, pool: Any, quiet: bool) -> Quality:
    from anycost.benchmarks.quality.measure import measure, work_folder

    def kept() -> str:
        folder = work_folder(runtime.bundle, settings)
        count = sum(1 for _ in folder.glob("*.npz"))
        if not count:
            return "no part was finished yet"
        return f"finished parts ({count}) are kept in {folder}, and the same command goes on from there"

    with _stoppable(kept), bar(err, "measuring quality", quiet=quiet) as progress:
        return measure(runtime.bundle, settings, pool, progress)


@contextmanager
def _stoppable(kept: Callable[[], str]) -> Iterator[None]:
    """An interrupt ends the command with a line on what is left of the work. Typer would end it without a word."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"anycost: stopped; {kept()}", file=sys.stderr)
        raise SystemExit(130) from None


def _writable(folder: Path, remedy: str) -> None:
    """Makes the folder. Raises InputError where it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}; {remedy}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be written: this user may not; {remedy}")


def _store(runtime: Runtime, measured: Quality) -> None:
    from anycost.runtime.quality import QUALITY_NAME, write

    path = runtime.bundle.path(QUALITY_NAME)
    try:
        write(path, measured)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; add --no-store and -o FOLDER") from None


def _rows(runtime: Runtime, limit: Budget) -> Any:
    from anycost.runtime.report import rows_for

    return rows_for(runtime, limit)[0] if runtime.bundle.manifest.generator else []


def _report(runtime: Runtime, measured: Quality, limit: Budget, folder: Path) -> None:
    from anycost.benchmarks.quality import html, plot, report
    from anycost.runtime.files import write_whole
    from anycost.runtime.quality import QUALITY_NAME, write

    rows = _rows(runtime, limit)
    pictures = {"pareto.png": b"", "sheet.png": b""}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if rows:
            chosen = next((row for row in rows if row.chosen), None)
            plot.pareto(folder / "pareto.png", measured, rows, limit, chosen)
            sheet = _sheet(runtime, measured)
            report.sheet(folder / "sheet.png", sheet, {net.name: net.macs for net in runtime.subnets})
            pictures = {name: (folder / name).read_bytes() for name in pictures}
        write(folder / QUALITY_NAME, measured)
        write_whole(folder / "quality.md", report.markdown(measured, rows).encode())
        name = runtime.bundle.manifest.name
        page = html.page(measured, rows, limit, pictures["pareto.png"], pictures["sheet.png"], f"Quality of {name}")
        write_whole(folder / "quality.html", page.encode())
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written: {error.strerror or error}; give another folder with -o"
        ) from None


def _sheet(runtime: Runtime, measured: Quality) -> dict[str, Any]:
    """The same seeds in every sub-network: uint8 [8, R, R, 3] each, of the reference."""
    from anycost.benchmarks.quality.report import SHEET_SEEDS
    from anycost.benchmarks.quality.sources import Source

    source = Source(runtime.bundle)
    w_plus = source.codes(range(measured.first_seed, measured.first_seed + SHEET_SEEDS), measured.psi)
    return {net.name: source.reference(source.nets[net.name], w_plus) for net in runtime.subnets}


def _tables(runtime: Runtime, measured: Quality, limit: Budget) -> list[Table]:
    from anycost.benchmarks.quality.tables import engine_table, network_tables, subnet_table

    rows = _rows(runtime, limit)
    shown = []
    for found in (subnet_table(measured, rows), engine_table(measured, rows), *network_tables(measured)):
        if not found.rows:
            continue
        table = Table(*(escape(column.title) for column in found.columns), box=None, title=escape(found.caption))
        table.title_justify = "left"
        for i, row in enumerate(found.rows):
            table.add_row(*map(escape, row), style="bold green" if i == found.chosen else "")
        shown.append(table)
    return shown


def _how(measured: Quality) -> str:
    data = f", data: {measured.data} ({measured.data_count})" if measured.data else ""
    return f"{measured.images} images each, {measured.measure or 'no Frechet distance'}, {measured.distance}{data}"


def _sealed(measured: Quality) -> Any:
    from anycost.runtime.quality import sealed

    return json.loads(sealed(measured))
