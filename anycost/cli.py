"""The command line: every command is one step of the way from a checkpoint to an image."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape
from rich.table import Table

from anycost._version import __version__
from anycost.errors import AnycostError, InputError
from anycost.progress import bar, bytes_bar
from anycost.tables import console, engine_table

app = typer.Typer(
    name="anycost",
    help="Build, verify and run elastic GANs as engines that fit the hardware at hand.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = console()
err = console(stderr=True)

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines and no progress.")]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads (default: all this process may use).")
]
LatencyOption = Annotated[str | None, typer.Option("--budget", help="Latency limit on the measured p95, such as 40ms.")]
MemoryOption = Annotated[str | None, typer.Option("--memory", help="Limit on peak resident memory, such as 512MB.")]
SmallestOption = Annotated[int | None, typer.Option("--min-resolution", help="Smallest side in pixels.")]
LargestOption = Annotated[int | None, typer.Option("--max-resolution", help="Largest side in pixels.")]


def _version(value: bool) -> None:
    if value:
        print(f"anycost-runtime {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def build(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A checkpoint file, or a name: avatars, anycost-ffhq-config-f, ...",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the bundle.", show_default=False)
    ] = None,
    subnets: Annotated[str, typer.Option(help="grid, or RATIO@RESOLUTION separated by commas.")] = "grid",
    channels: Annotated[
        Path | None,
        typer.Option(
            help='JSON of flexible sub-networks: {"15G": {"channels": [...], "res": 512}}.', show_default=False
        ),
    ] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="Backends to build for, separated by commas.")
    ] = "onnxruntime,openvino",
    noise: Annotated[
        str, typer.Option(help="input: noise is an input; stored: engines hold the stored noise.")
    ] = "input",
    random_init: Annotated[
        str | None,
        typer.Option("--random-init", help="Random weights of a known shape, such as config-f.", show_default=False),
    ] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build a bundle: an engine for every sub-network, each checked against PyTorch.

    A build that is stopped goes on where it was when the same command runs again.

    Examples:

    - `anycost build avatars -o bundle/`
    - `anycost build anycost-ffhq-config-f -o ffhq/ --subnets 0.25@256,0.5@512,1@1024`
    - `anycost build --random-init config-f -o try/ --backend openvino`
    """
    from anycost.building import build_bundle

    if output is None:
        _fail(InputError("no output folder was given: add -o FOLDER"))
    with bytes_bar(err, quiet=as_json) as fetched, bar(err, "building", quiet=as_json) as progress:
        manifest = build_bundle(
            model, output, subnets, channels, backend, noise, random_init, threads, fetched, progress
        )
    if as_json:
        _print_json(
            {
                "bundle": str(output),
                "engines": [e.name for e in manifest.engines],
                "parity": _parities(manifest.engines),
            }
        )
        return
    worst = min(engine.parity.psnr_db for engine in manifest.engines)
    out.print(
        f"{escape(str(output))}: {len(manifest.engines)} engines for {len(manifest.subnets)} sub-networks, "
        f"lowest PSNR against PyTorch {worst:.0f} dB"
    )


@app.command()
def inspect(bundle: BundleArgument, threads: ThreadsOption = None, as_json: JsonOption = False) -> None:
    """Show what a bundle holds, what was measured of it here, and its credit.

    Examples:

    - `anycost inspect bundle/`
    - `anycost inspect bundle/ --json`
    """
    import anycost
    from anycost.runtime.budget import Budget
    from anycost.runtime.report import rows_for, values

    runtime = anycost.open(bundle, threads=threads)
    manifest = runtime.bundle.manifest
    rows, _, _ = rows_for(runtime, Budget())
    sizes = sum(record.size for record in manifest.all_files().values())
    if as_json:
        shown = manifest.model_dump(exclude={"engines", "files", "subnets", "references"})
        _print_json(shown | {"bytes": sizes, "engines": [values(row) for row in rows]})
        return
    arch = manifest.architecture
    out.print(
        f"{escape(manifest.name)}: from {escape(manifest.source)}, sha256 {manifest.source_sha256[:16]}",
        highlight=False,
    )
    out.print(
        f"{arch.resolution} px, multiplier {arch.channel_multiplier:g}, at most {arch.channel_max} channels, "
        f"style_dim {arch.style_dim}; noise: {manifest.noise}; {sizes / 1e6:.1f} MB on disk",
        highlight=False,
    )
    if manifest.credit:
        out.print(escape(manifest.credit), highlight=False)
    out.print(engine_table(rows))


@app.command()
def verify(bundle: BundleArgument, threads: ThreadsOption = None, as_json: JsonOption = False) -> None:
    """Run every engine on this device and compare with the stored reference samples. Needs no PyTorch.

    Exit code 2 when an engine fails.

    Examples:

    - `anycost verify bundle/`
    """
    import anycost

    runtime = anycost.open(bundle, threads=threads)
    with bar(err, "verifying", quiet=as_json) as progress:
        checks = runtime.verify(progress)
    failed = [check for check in checks if check.failed]
    if as_json:
        rows = [
            {
                "engine": c.engine,
                "passed": c.passed,
                "skipped": c.skipped,
                "parity": c.parity and c.parity.model_dump(),
                "problem": c.problem,
            }
            for c in checks
        ]
        _print_json({"passed": not failed, "engines": rows})
    else:
        table = Table("engine", "max abs", "PSNR", "SSIM", "", box=None)
        for c in checks:
            figures = (
                (f"{c.parity.max_abs:.2e}", f"{c.parity.psnr_db:.1f} dB", f"{c.parity.ssim:.6f}")
                if c.parity
                else ("-",) * 3
            )
            table.add_row(c.engine, *figures, escape(c.problem) or "passed")
        out.print(table)
    if failed:
        _fail(AnycostError(f"{len(failed)} of {len(checks)} engines failed: {failed[0].engine}: {failed[0].problem}"))


@app.command()
def profile(
    bundle: BundleArgument,
    refresh: Annotated[bool, typer.Option("--refresh", help="Measure again what was measured before.")] = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure latency and memory of every engine on this device; kept in the user's cache.

    Examples:

    - `anycost profile bundle/`
    - `anycost profile bundle/ --refresh --threads 1`
    """
    import anycost
    from anycost.runtime.budget import Budget
    from anycost.runtime.report import rows_for

    runtime = anycost.open(bundle, threads=threads)
    with bar(err, "measuring", quiet=as_json) as progress:
        measured = runtime.profile(refresh=refresh, progress=progress)
    if as_json:
        _print_json(measured.model_dump())
        return
    out.print(f"{escape(measured.device)}, {measured.threads} threads", highlight=False)
    out.print(engine_table(rows_for(runtime, Budget())[0]))


@app.command()
def generate(
    bundle: BundleArgument,
    seed: Annotated[str, typer.Option("--seed", help="Seeds such as 0-7 or 1,5,20-23.")] = "0",
    budget: LatencyOption = None,
    memory: MemoryOption = None,
    min_resolution: SmallestOption = None,
    max_resolution: LargestOption = None,
    subnet: Annotated[
        str | None, typer.Option(help="A sub-network by name, such as 0.5@32.", show_default=False)
    ] = None,
    backend: Annotated[str | None, typer.Option(help="onnxruntime or openvino.", show_default=False)] = None,
    psi: Annotated[float, typer.Option(help="Truncation, -2 to 2: 1 is none, 0 the mean image.")] = 1.0,
    noise: Annotated[str, typer.Option(help="stored, random or none.")] = "stored",
    noise_seed: Annotated[int, typer.Option(help="Seed of random noise.")] = 0,
    batch: Annotated[int, typer.Option(help="Images of one engine call.")] = 1,
    sheet: Annotated[bool, typer.Option("--sheet", help="One PNG with all images instead of one each.")] = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the PNGs.")] = Path("out"),
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make images with the best sub-network that fits a budget.

    Examples:

    - `anycost generate bundle/ --seed 0-7 --budget 40ms -o out/`
    - `anycost generate bundle/ --seed 3 --subnet 0.25@16 --psi 0.7`
    - `anycost generate bundle/ --seed 0-63 --memory 300MB --sheet -o out/`
    """
    import anycost
    from anycost.pictures import LARGEST_SHEET, save_images
    from anycost.seeds import parse_seeds

    seeds = parse_seeds(seed)
    limits = _budget(budget, memory, min_resolution, max_resolution)
    runtime = anycost.open(bundle, threads=threads)
    if limits.needs_profile and runtime.stored_profile is None:
        with bar(err, "measuring this device once", quiet=as_json) as progress:
            runtime.profile(progress=progress)
    choice = runtime.choose(limits, subnet=subnet, backend=backend)
    side = choice.subnet.resolution
    if sheet and len(seeds) * side**2 > LARGEST_SHEET:
        raise InputError(
            f"a sheet of {len(seeds)} images of {side} px is too large: give fewer seeds or leave out --sheet"
        )
    # In pieces, so that memory does not grow with the list and the first files are there at once.
    piece = max(batch, len(seeds) if sheet else 16)
    paths = []
    with bar(err, "generating", quiet=as_json or len(seeds) <= piece) as progress:
        for start in range(0, len(seeds), piece):
            progress(choice.engine.name, start, len(seeds))
            part = seeds[start : start + piece]
            images = runtime.generate(
                part,
                psi=psi,
                noise=noise,
                noise_seed=(noise_seed + start) % 2**32 if start else noise_seed,
                subnet=choice.subnet.name,
                backend=choice.engine.backend,
                batch=batch,
            )
            paths += save_images(images, part, output, sheet=sheet)
    if as_json:
        _print_json({"engine": choice.engine.name, "reason": choice.reason, "files": [str(path) for path in paths]})
        return
    out.print(choice.reason, highlight=False)
    shown = str(paths[0]) if len(paths) == 1 else f"{paths[0]} ... {paths[-1].name}"
    out.print(escape(f"{len(seeds)} images of {side} px in {shown}"), highlight=False)


@app.command()
def explain(
    bundle: BundleArgument,
    budget: LatencyOption = None,
    memory: MemoryOption = None,
    min_resolution: SmallestOption = None,
    max_resolution: LargestOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which engine a budget chooses, and why each other does not.

    Examples:

    - `anycost explain bundle/ --budget 5ms --memory 400MB`
    """
    import anycost
    from anycost.runtime.report import rows_for, values

    limits = _budget(budget, memory, min_resolution, max_resolution)
    runtime = anycost.open(bundle, threads=threads)
    if limits.needs_profile and runtime.stored_profile is None:
        with bar(err, "measuring this device once", quiet=as_json) as progress:
            runtime.profile(progress=progress)
    rows, choice, reason = rows_for(runtime, limits)
    if as_json:
        _print_json(
            {"chosen": choice and choice.engine.name, "reason": reason, "engines": [values(row) for row in rows]}
        )
        return
    out.print(engine_table(rows))
    out.print(escape(reason), highlight=False)


def _budget(latency: str | None, memory: str | None, smallest: int | None, largest: int | None) -> Any:
    from anycost.runtime.budget import Budget, parse_latency_ms, parse_memory_mb

    return Budget(
        latency_ms=None if latency is None else parse_latency_ms(latency),
        memory_mb=None if memory is None else parse_memory_mb(memory),
        min_resolution=smallest,
        max_resolution=largest,
    )


def _parities(engines: Any) -> dict[str, Any]:
    return {engine.name: engine.parity.model_dump() for engine in engines}


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1))


def _fail(error: AnycostError) -> NoReturn:
    # One line whatever a library put into it.
    print(f"anycost: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(2)


def main() -> None:
    """Entry point: user errors are one line and exit code 2; an interrupt is exit code 130."""
    try:
        app()
    except AnycostError as error:
        _fail(error)
    except KeyboardInterrupt:
        print("anycost: interrupted; finished parts are kept", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None


if __name__ == "__main__":
    main()
