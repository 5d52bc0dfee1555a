"""Looking at a bundle, or at every network that can be built: inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from anycost.commands.shared import JsonOption, ThreadsOption, app, err, fail, out, print_json
from anycost.errors import BackendError, InputError
from anycost.progress import bar
from anycost.tables import engine_table, part_table


@app.command()
def inspect(
    bundle: Annotated[
        Path | None,
        typer.Argument(
            metavar="[BUNDLE|ENGINE]",
            help="Folder of a bundle, or of an engine in one, or a file of it.",
            show_default=False,
        ),
    ] = None,
    networks: Annotated[
        bool, typer.Option("--networks", help="Every kind of network that can be built, instead of a bundle.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="With --networks: build each with random weights and compare its engines with PyTorch."
        ),
    ] = False,
    only: Annotated[
        str | None, typer.Option(help="With --networks: these kinds, separated by commas.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="With --networks: write the table as Markdown.", show_default=False),
    ] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a bundle holds and what was measured of it here, what one engine is, or every network that can be built.

    Examples:

    - `anycost inspect bundle/`
    - `anycost inspect bundle/ --json`
    - `anycost inspect bundle/engines/1@128/tensorrt_rtx-fp16`
    - `anycost inspect --networks`
    - `anycost inspect --networks --verify -o networks.md`
    """
    import anycost
    from anycost.runtime.budget import Budget
    from anycost.runtime.choose import table
    from anycost.runtime.engine_info import is_engine
    from anycost.runtime.report import part_rows, part_values, rows_for, segment_values, values
    from anycost.runtime.segments import explained

    if networks == (bundle is not None):
        fail(InputError("give either a BUNDLE or --networks"))
    if networks:
        _networks(verify, only, output, threads, as_json)
        return
    assert bundle is not None
    if is_engine(bundle):
        _engine(bundle, as_json)
        return
    runtime = anycost.open(bundle, threads=threads)
    manifest = runtime.bundle.manifest
    try:
        rows = rows_for(runtime, Budget())[0] if manifest.generator else []
    except BackendError:  # A bundle for another machine can be looked at all the same.
        rows = table(runtime.bundle, Budget(), None)
    size = sum(record.size for record in manifest.all_files().values())
    if as_json:
        shown = manifest.model_dump(
            exclude={"engines": True, "files": True, "references": True, "generator": {"subnets"}}
        )
        engines = [values(row) for row in rows] + [part_values(row) for row in part_rows(runtime)]
        engines += segment_values(runtime)
        print_json(shown | {"bytes": size, "engines": engines})
        return
    out.print(f"{escape(manifest.name)}: {size / 1e6:.1f} MB on disk", highlight=False)
    generator = manifest.generator
    if generator:
        arch = generator.architecture
        out.print(
            f"elastic generator from {escape(generator.source)}, sha256 {generator.source_sha256[:16]}: "
            f"{arch.resolution} px, multiplier {arch.channel_multiplier:g}, at most {arch.channel_max} channels, "
            f"style_dim {arch.style_dim}; noise: {generator.noise}",
            highlight=False,
        )
        if generator.credit:
            out.print(escape(generator.credit), highlight=False)
        out.print(engine_table(rows))
        for line in explained(runtime):
            out.print(escape(line), highlight=False)
    for network in manifest.networks:
        named = f", {len(network.labels)} labels" if network.labels else ""
        out.print(
            f"{escape(network.name)} ({network.kind}) from {escape(network.source)}, sha256 {network.source_sha256[:16]}: "
            f"{network.parameters / 1e6:.2f} million parameters{named}",
            highlight=False,
        )
        if network.credit:
            out.print(escape(network.credit), highlight=False)
    if manifest.networks:
        out.print(part_table(part_rows(runtime)))


def _engine(path: Path, as_json: bool) -> None:
    """``inspect ENGINE``."""
    from anycost.runtime.engine_info import engine_info

    found = engine_info(path)
    if as_json:
        print_json(found)
        return
    weights, parity = found["weights"], found["parity"]
    batch = "any" if found["batch"] is None else "{} to {}, usually {}".format(*(found["batch"][i] for i in (0, 2, 1)))
    of = "" if found["checked"] == "engine" else ", of its graph in ONNX Runtime: it was built where it cannot run"
    lines = {
        "engine": found["name"],
        "target": ", ".join(found["targets"]),
        "precision": found["precision"],
        "batch": batch,
        "inputs": _shapes(found["inputs"]),
        "outputs": _shapes(found["outputs"]),
        "stored": f"{found['stored'] / 1e6:.2f} MB in {len(found['files'])} files",
        "weights": f"{weights['stored']}: {weights['bytes'] / 1e6:.2f} MB, {weights['delivery']}",
        "built by": ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
        "layers": str(len(found["report"].get("layers", []))) if found["report"] else "as in its graph",
        "parity": f"PSNR {parity['psnr_db']:.1f} dB, largest difference {parity['max_abs']:.2e}{of}",
        "here": found["here"] or "it can run",
    }
    if found["changed"]:
        lines["changed"] = f"{', '.join(found['changed'])}: not what was built"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in lines.items():
        table.add_row(name, escape(value))
    out.print(table)


def _shapes(ports: dict[str, list[int]]) -> str:
    shown = [f"{name} [batch, {', '.join(map(str, shape))}]" for name, shape in ports.items()]
    return ", ".join(shown if len(shown) <= 4 else [*shown[:2], f"{len(shown) - 2} more"])


def _networks(verify: bool, only: str | None, output: Path | None, threads: int | None, as_json: bool) -> None:
    """``inspect --networks``: a row for each kind, with engines and parity where they are built."""
    try:
        from anycost.export import survey
    except ImportError as error:
        fail(
            BackendError(
                f"--networks needs {error.name}, which is not installed: pip install 'anycost-runtime[export]'"
            )
        )
    kinds = survey.chosen(only)
    with bar(err, "verifying" if verify else "listing", quiet=as_json) as progress:
        rows = survey.survey(kinds, verify=verify, threads=threads, progress=progress)
    if output is not None:
        survey.write(output, rows)
    if as_json:
        print_json([row.values() for row in rows])
        return
    table = Table(*survey.HEADER, box=None, header_style="bold", padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(escape, row.cells()))
    out.print(table)
    if output is not None:
        out.print(f"wrote {escape(str(output))}", highlight=False)
