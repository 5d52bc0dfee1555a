"""Building bundles and trying them: build, verify, profile, explain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    DistanceOption,
    JsonOption,
    LargestOption,
    LatencyOption,
    MemoryOption,
    NoMeasureOption,
    SmallestOption,
    ThreadsOption,
    app,
    err,
    fail,
    limits,
    out,
    print_json,
)
from anycost.errors import AnycostError, InputError
from anycost.progress import bar, bytes_bar
from anycost.tables import engine_table, part_table


@app.command()
def build(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Checkpoint files, or names: avatars, anycost-ffhq-config-f, ... One elastic generator at most and any "
            "other networks; FILE:KEY takes one of several in a file, NAME=FILE gives it a name in the bundle.",
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
        str | None,
        typer.Option(
            "--backend",
            help="onnxruntime, openvino, tensorrt_rtx, tensorrt, cuda, separated by commas. Default: those of the targets: "
            "the first two for cpu, tensorrt_rtx for GPUs.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="cpu, and GPUs by compute capability, such as cpu,sm_86,sm_89,sm_120.", show_default=False),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, bf16 (GPUs, OpenVINO) or int8, separated by commas.")
    ] = "fp32",
    batch: Annotated[str, typer.Option(metavar="LEAST:USUAL:LARGEST", help="Batch sizes of GPU engines.")] = "1:1:8",
    workspace: Annotated[
        int | None, typer.Option(help="Most megabytes of scratch memory of a GPU kernel.", show_default=False)
    ] = None,
    calibration: Annotated[
        int | None, typer.Option(help="Samples that int8 activations are scaled by (16).", show_default=False)
    ] = None,
    fused: Annotated[
        bool, typer.Option("--fused", help="A generator's layers as our own kernels; with --backend tensorrt.")
    ] = False,
    segments: Annotated[
        bool,
        typer.Option(
            "--segments", help="Also what each sub-network adds to the one below, for showing steps of an image."
        ),
    ] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Compile again what is finished.")] = False,
    noise: Annotated[
        str, typer.Option(help="input: noise is an input; stored: engines hold the stored noise.")
    ] = "input",
    random_init: Annotated[
        str | None,
        typer.Option(
            "--random-init",
            help="Random weights of known shapes, such as config-f, or config-f,encoder (`anycost inspect --networks`).",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Text file with a line for each output of a tagger or attribute predictor.", show_default=False
        ),
    ] = None,
    directions: Annotated[
        Path | None,
        typer.Option(
            help="Editing directions to put into the bundle: safetensors, or boundary_*.pt.", show_default=False
        ),
    ] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build a bundle: an engine for every sub-network and every other network, each checked against PyTorch.

    A build that is stopped goes on where it was when the same command runs again.

    Examples:

    - `anycost build avatars -o bundle/`
    - `anycost build anycost-ffhq-config-f -o ffhq/ --subnets 0.25@256,0.5@512,1@1024`
    - `anycost build avatars -o bundle/ --segments`
    - `anycost build avatars encoder.pt attribute_predictor.pt -o bundle/`
    - `anycost build toon=gnr.pt:G_A2B_ema photo=gnr.pt:G_B2A_ema -o translate/`
    - `anycost build --random-init config-f -o try/ --backend openvino`
    - `anycost build avatars -o gpu/ --precision fp16 --target cpu,sm_86,sm_89,sm_120 --batch 1:1:8`
    """
    from anycost.building import BuildArguments, build_bundle

    if output is None:
        fail(InputError("no output folder was given: add -o FOLDER"))
    with bytes_bar(err, quiet=as_json) as fetched, bar(err, "building", quiet=as_json) as progress:
        arguments = BuildArguments(
            models or [],
            random_init,
            subnets,
            channels,
            backend,
            precision,
            target,
            batch,
            workspace,
            calibration,
            fused,
            segments,
            refresh,
            noise,
            labels,
            directions,
            threads,
        )
        manifest = build_bundle(arguments, output, fetched, progress)
    if as_json:
        print_json(
            {
                "bundle": str(output),
                "engines": [e.name for e in manifest.engines],
                "parity": _parities(manifest.engines),
            }
        )
        return
    worst = min(engine.parity.psnr_db for engine in manifest.engines)
    made = [f"{len(manifest.generator.subnets)} sub-networks"] if manifest.generator else []
    made += [network.name for network in manifest.networks]
    out.print(
        f"{escape(str(output))}: {len(manifest.engines)} engines for {', '.join(made)}, "
        f"lowest PSNR against PyTorch {worst:.0f} dB",
        highlight=False,
    )


@app.command()
def verify(
    bundle: BundleArgument,
    quality: Annotated[
        bool, typer.Option("--quality", help="Also whether its engines' images are as near to the data. Needs PyTorch.")
    ] = False,
    images: ImagesOption = None,
    data: DataOption = None,
    fid: FidOption = None,
    resize: ResizeOption = None,
    features: FeaturesOption = None,
    lpips: LpipsOption = None,
    psi: PsiOption = None,
    processes: ProcessesOption = None,
    ray: RayOption = None,
    work: WorkOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run every engine on this device and compare with the stored reference samples. Needs no PyTorch.

    With --quality, the Frechet distance of each engine's images to data may differ from that of its reference's images by no
    more than the reference differs from itself when other images are drawn. Exit code 2 when an engine fails.

    Examples:

    - `anycost verify bundle/`
    - `anycost verify bundle/ --quality --images 500`
    - `anycost verify bundle/ --quality --data pictures/ --fid pt_inception-2015-12-05-6726825d.pth`
    """
    import anycost
    from anycost.commands.quality import parity, parity_table, parity_values

    options = QualityOptions(images, psi, data, fid, resize, features, lpips, processes, ray, work)
    if not quality:
        options.refuse_all()
    runtime = anycost.open(bundle, threads=threads)
    with bar(err, "verifying", quiet=as_json) as progress:
        checks = runtime.verify(progress)
    failed = [check for check in checks if check.failed]
    measured = parity_values(parity(runtime, options, as_json)) if quality and not failed else None
    worse = [row["engine"] for row in measured["engines"] if not row["passed"]] if measured else []
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
        shown = {"passed": not failed and not worse, "engines": rows}
        print_json(shown | ({"quality": measured} if measured else {}))
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
        if measured:
            out.print(parity_table(measured))
            text = f"{measured['measure']}, {measured['images']} images; data: {measured['data']}"
            out.print(escape(text), highlight=False)
    if failed:
        fail(AnycostError(f"{len(failed)} of {len(checks)} engines failed: {failed[0].engine}: {failed[0].problem}"))
    if worse:
        fail(AnycostError(f"{len(worse)} engines are not as near to the data as their references: first {worse[0]}"))


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
    from anycost.runtime.report import part_rows, rows_for
    from anycost.runtime.segments import explained

    runtime = anycost.open(bundle, threads=threads)
    with bar(err, "measuring", quiet=as_json) as progress:
        measured = runtime.profile(refresh=refresh, progress=progress)
    if as_json:
        print_json(measured.model_dump())
        return
    out.print(f"{escape(measured.device)}, {measured.threads} threads", highlight=False)
    if runtime.bundle.manifest.generator:
        out.print(engine_table(rows_for(runtime, Budget())[0]))
        for line in explained(runtime):
            out.print(escape(line), highlight=False)
    if runtime.bundle.manifest.networks:
        out.print(part_table(part_rows(runtime)))


@app.command()
def explain(
    bundle: BundleArgument,
    budget: LatencyOption = None,
    memory: MemoryOption = None,
    min_resolution: SmallestOption = None,
    max_resolution: LargestOption = None,
    max_distance: DistanceOption = None,
    no_measure: NoMeasureOption = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which engine a budget chooses, and why each other does not.

    Examples:

    - `anycost explain bundle/ --budget 5ms --memory 400MB`
    - `anycost explain bundle/ --budget 5ms --max-distance 25 --no-measure`
    """
    import anycost
    from anycost.runtime.report import rows_for, values
    from anycost.runtime.segments import explained

    limit = limits(budget, memory, min_resolution, max_resolution, max_distance)
    runtime = anycost.open(bundle, threads=threads)
    if not no_measure and runtime.unmeasured(limit):
        with bar(err, "measuring this device once", quiet=as_json) as progress:
            runtime.profile(parts=False, progress=progress)
    rows, choice, reason = rows_for(runtime, limit, measure=not no_measure)
    if as_json:
        print_json(
            {
                "chosen": choice and choice.engine.name,
                "reason": reason,
                "segments": explained(runtime),
                "engines": [values(row) for row in rows],
            }
        )
        return
    out.print(engine_table(rows))
    for line in [reason, *explained(runtime)]:
        out.print(escape(line), highlight=False)


def _parities(engines: Any) -> dict[str, Any]:
    return {engine.name: engine.parity.model_dump() for engine in engines}
