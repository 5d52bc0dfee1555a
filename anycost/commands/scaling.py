"""More machines than one: what other servers take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from anycost.commands.shared import BundleArgument, JsonOption, app, err, fail, out, print_json
from anycost.errors import InputError
from anycost.progress import bar


@app.command("export-triton")
def export_triton(
    bundle: BundleArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the model repository.", show_default=False)
    ] = None,
    max_batch: Annotated[int, typer.Option("--max-batch", help="Most images of one engine call, 1 to 256.")] = 8,
    delay: Annotated[
        int, typer.Option("--delay-us", help="Microseconds that a call waits for more requests to batch.")
    ] = 2000,
    instances: Annotated[int, typer.Option("--instances", help="Instances of each model, on each GPU or the CPU.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            max=1024,
            help="CPU threads of each instance (default: all processors of the server).",
            show_default=False,
        ),
    ] = None,
    segments: Annotated[
        bool, typer.Option("--segments", help="Also the engines of segments, as models to call one after the other.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model repository for NVIDIA Triton Inference Server: every ONNX engine with its weights, and ensembles.

    Names are made safe for paths and addresses: 0.5@64 is 0_5_at_64. Needs no PyTorch, but the extra `triton`.

    Examples:

    - `anycost export-triton bundle/ -o repo/`
    - `anycost export-triton bundle/ -o repo/ --max-batch 16 --delay-us 5000 --instances 2 --threads 4`
    """
    from anycost.export.triton_configs import Serving
    from anycost.export.triton_repository import export
    from anycost.runtime.bundle import open_bundle

    if output is None:
        fail(InputError("no output folder was given: add -o FOLDER"))
    serving = Serving(max_batch, delay, instances, threads)
    with bar(err, "exporting", quiet=as_json) as progress:
        found = export(open_bundle(bundle), output, serving, segments=segments, progress=progress)
    if as_json:
        models = {entry.name: {"kind": entry.kind, "engine": entry.engine or None} for entry in found.models}
        print_json({"repository": str(output), "models": models, "left_out": found.left_out})
        return
    counts = {kind: sum(entry.kind == kind for entry in found.models) for kind in ("engine", "step", "ensemble")}
    out.print(
        f"{escape(str(output))}: {counts['engine']} engines, {counts['step']} steps between them, "
        f"{counts['ensemble']} ensembles",
        highlight=False,
    )
    for line in found.left_out:
        out.print(escape(f"left out: {line}"), highlight=False)
