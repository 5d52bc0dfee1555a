"""Making images with the elastic generator: generate, edit, project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from anycost.commands.shared import (
    BackendOption,
    BundleArgument,
    DistanceOption,
    JsonOption,
    LargestOption,
    LatencyOption,
    MemoryOption,
    NameOption,
    NoMeasureOption,
    SmallestOption,
    SubnetOption,
    ThreadsOption,
    app,
    err,
    limits,
    out,
    print_json,
    read_codes,
    write_codes,
)
from anycost.errors import BackendError, InputError
from anycost.progress import bar

if TYPE_CHECKING:
    from anycost.editing.directions import Directions
    from anycost.runtime.runtime import Runtime


@app.command()
def generate(
    bundle: BundleArgument,
    seed: Annotated[str, typer.Option("--seed", help="Seeds such as 0-7 or 1,5,20-23.")] = "0",
    budget: LatencyOption = None,
    memory: MemoryOption = None,
    min_resolution: SmallestOption = None,
    max_resolution: LargestOption = None,
    max_distance: DistanceOption = None,
    no_measure: NoMeasureOption = False,
    subnet: SubnetOption = None,
    backend: BackendOption = None,
    psi: Annotated[float, typer.Option(help="Truncation, -2 to 2: 1 is none, 0 the mean image.")] = 1.0,
    noise: Annotated[str, typer.Option(help="stored, random or none.")] = "stored",
    noise_seed: Annotated[int, typer.Option(help="Seed of random noise.")] = 0,
    batch: Annotated[int, typer.Option(help="Images of one engine call.")] = 1,
    which: Annotated[
        str | None,
        typer.Option(help="Of a generator without sub-networks: a digit, or a resolution.", show_default=False),
    ] = None,
    name: NameOption = None,
    codes: Annotated[
        Path | None,
        typer.Option("--w-plus", help="Codes instead of seeds, a .npy from encode or project.", show_default=False),
    ] = None,
    sheet: Annotated[bool, typer.Option("--sheet", help="One PNG with all images instead of one each.")] = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the PNGs.")] = Path("out"),
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make images with the best sub-network that fits a budget, or with any other generator of the bundle.

    Examples:

    - `anycost generate bundle/ --seed 0-7 --budget 40ms -o out/`
    - `anycost generate bundle/ --seed 3 --subnet 0.25@16 --psi 0.7`
    - `anycost generate bundle/ --seed 0-63 --memory 300MB --sheet -o out/`
    - `anycost generate digits/ --seed 0-9 --which 7 --sheet`
    """
    import anycost
    from anycost.pictures import LARGEST_SHEET, save_images
    from anycost.runtime.pipelines.sample import KINDS, sample
    from anycost.seeds import parse_seeds

    given_codes = None if codes is None else read_codes(codes)
    seeds = parse_seeds(seed) if given_codes is None else list(range(len(given_codes)))
    limit = limits(budget, memory, min_resolution, max_resolution, max_distance)
    runtime = anycost.open(bundle, threads=threads)
    if name is not None or runtime.bundle.manifest.generator is None:
        given: dict[str, object] = {"--budget": budget, "--memory": memory, "--subnet": subnet, "--backend": backend}
        given |= {"--min-resolution": min_resolution, "--max-resolution": max_resolution}
        given |= {"--max-distance": max_distance, "--no-measure": no_measure or None}
        unused = [option for option, value in given.items() if value is not None]
        unused += ["--noise"] if noise != "stored" else []
        if unused:
            raise InputError(f"{unused[0]} is for an elastic generator, and this one has no sub-networks: leave it out")
        images = sample(runtime.one_of(KINDS, name), seeds, which, psi, batch=batch)
        paths = save_images(images, seeds, output, sheet=sheet)
        if as_json:
            print_json({"files": [str(path) for path in paths]})
        else:
            out.print(escape(f"{len(seeds)} images of {images.shape[1]} px in {paths[0].parent}"), highlight=False)
        return
    if which is not None:
        raise InputError("--which is for generators without sub-networks: choose a sub-network with --subnet")
    if not no_measure and runtime.unmeasured(limit):
        with bar(err, "measuring this device once", quiet=as_json) as progress:
            runtime.profile(parts=False, progress=progress)
    choice = runtime.choose(limit, subnet=subnet, backend=backend, measure=not no_measure)
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
                part if given_codes is None else None,
                w_plus=None if given_codes is None else given_codes[start : start + piece],
                psi=psi,
                noise=noise,
                noise_seed=(noise_seed + start) % 2**32 if start else noise_seed,
                subnet=choice.subnet.name,
                backend=choice.engine.variant,
                batch=batch,
            )
            paths += save_images(images, part, output, sheet=sheet)
    if as_json:
        print_json({"engine": choice.engine.name, "reason": choice.reason, "files": [str(path) for path in paths]})
        return
    out.print(choice.reason, highlight=False)
    shown = str(paths[0]) if len(paths) == 1 else f"{paths[0]} ... {paths[-1].name}"
    out.print(escape(f"{len(seeds)} images of {side} px in {shown}"), highlight=False)


@app.command()
def edit(
    bundle: BundleArgument,
    settings: Annotated[
        str | None,
        typer.Option("--set", help="Directions and values, such as smiling=60,young=-20.", show_default=False),
    ] = None,
    seed: Annotated[str, typer.Option("--seed", help="Seeds of the faces to edit.")] = "0",
    codes: Annotated[
        Path | None,
        typer.Option("--w-plus", help="Codes to edit instead, a .npy from encode or project.", show_default=False),
    ] = None,
    directions: Annotated[
        Path | None,
        typer.Option(
            help="Directions to use instead of the bundle's: safetensors, or boundary_*.pt.", show_default=False
        ),
    ] = None,
    rows: Annotated[str, typer.Option(help="Rows of w+ that are moved, first and last.")] = "0-11",
    psi: Annotated[float, typer.Option(help="Truncation of the seeds.")] = 1.0,
    budget: LatencyOption = None,
    memory: MemoryOption = None,
    min_resolution: SmallestOption = None,
    max_resolution: LargestOption = None,
    max_distance: DistanceOption = None,
    no_measure: NoMeasureOption = False,
    subnet: SubnetOption = None,
    backend: BackendOption = None,
    sheet: Annotated[bool, typer.Option("--sheet", help="One PNG, each face before and after.")] = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the PNGs.")] = Path("out"),
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move faces along several directions at once; values are a slider's, -100 to 100.

    Examples:

    - `anycost edit bundle/ --seed 0-3 --set sunglasses=100,smile=60`
    - `anycost edit bundle/ --w-plus me.npy --set smiling=60,young=-20 --budget 40ms --sheet`
    - `anycost edit bundle/`: lists the directions
    """
    import numpy as np

    import anycost
    from anycost.pictures import LARGEST_SHEET, contact_sheet, save_images
    from anycost.seeds import parse_seeds

    runtime = anycost.open(bundle, threads=threads)
    known = _directions(runtime, directions)
    if settings is None:
        if codes is not None or sheet:
            raise InputError("nothing was set: add --set, such as --set smiling=60")
        if as_json:
            print_json({"directions": list(known.names)})
        else:
            out.print(escape(", ".join(known.names)), highlight=False)
        return
    limit = limits(budget, memory, min_resolution, max_resolution, max_distance)
    if not no_measure and runtime.unmeasured(limit):
        with bar(err, "measuring this device once", quiet=as_json) as progress:
            runtime.profile(parts=False, progress=progress)
    choice = runtime.choose(limit, subnet=subnet, backend=backend, measure=not no_measure)
    if codes is None:
        numbers = parse_seeds(seed)
        start = runtime.codes(numbers, psi=psi)
    else:
        start = read_codes(codes)
        numbers = list(range(len(start)))
    if len(start) * choice.subnet.resolution**2 * (2 if sheet else 1) > LARGEST_SHEET:
        raise InputError(f"{len(start)} faces of {choice.subnet.resolution} px are too many for one call: give fewer")
    edited = runtime.edit(start, settings, directions=known, rows=_rows(rows))
    subnet, backend = choice.subnet.name, choice.engine.variant
    images = runtime.generate(w_plus=edited, subnet=subnet, backend=backend)
    if sheet:
        before = runtime.generate(w_plus=start, subnet=subnet, backend=backend)
        # Each face above what became of it.
        images = contact_sheet(np.concatenate([before, images]), columns=len(edited))[None]
    paths = save_images(images, numbers, output, sheet=sheet)
    if as_json:
        print_json({"engine": choice.engine.name, "reason": choice.reason, "files": [str(path) for path in paths]})
        return
    out.print(escape(f"{len(edited)} faces in {paths[0] if len(paths) == 1 else paths[0].parent}"), highlight=False)


@app.command()
def project(
    bundle: BundleArgument,
    image: Annotated[Path, typer.Argument(help="The picture to find a code for.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The code, a .npy for edit and generate.")] = Path(
        "w_plus.npy"
    ),
    steps: Annotated[int, typer.Option(min=1, max=10_000, help="Steps of L-BFGS.")] = 100,
    consistent: Annotated[
        bool, typer.Option("--consistent", help="Sum over the bundle's sub-networks, so that previews agree.")
    ] = False,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Codes to start from (.npy); by default the bundle's encoder's, else the mean.", show_default=False
        ),
    ] = None,
    lpips: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Weight files of VGG16 (torchvision's) and of LPIPS's heads: measure LPIPS instead of the weight-free "
            "pyramid distance.",
            show_default=False,
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Also write the image of the code as PNG.", show_default=False)
    ] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the code w+ of a picture by optimisation (L-BFGS; needs PyTorch).

    Examples:

    - `anycost project bundle/ me.jpg -o me.npy`
    - `anycost project bundle/ me.jpg -o me.npy --consistent --steps 200 --picture me.png`
    - `anycost project bundle/ me.jpg --lpips vgg16-397923af.pth vgg.pth`
    """
    import numpy as np

    import anycost

    runtime = anycost.open(bundle, threads=threads)
    try:
        from anycost.projecting import project_image
    except ImportError as error:
        raise BackendError(
            f"project needs {error.name}, which is not installed: pip install 'anycost-runtime[export]'"
        ) from None
    guess = None if start is None else read_codes(start)
    with bar(err, "projecting", quiet=as_json) as progress:
        found = project_image(runtime, image, guess, steps, consistent, lpips, progress)
    write_codes(output, found.w_plus)
    if picture is not None:
        from anycost.pictures import save_png

        save_png(np.asarray(runtime.generate(w_plus=found.w_plus))[0], picture)
    if as_json:
        print_json({"file": str(output), "psnr_db": found.psnr_db, "stopped": found.stopped, "loss": found.losses[-1]})
        return
    out.print(f"wrote {escape(str(output))}: PSNR {found.psnr_db:.1f} dB ({found.stopped})", highlight=False)


def _directions(runtime: Runtime, path: Path | None) -> Directions:
    from anycost.editing.boundaries import read_directions

    return runtime.directions() if path is None else read_directions(path)


def _rows(text: str) -> range:
    first, _, last = text.partition("-")
    if not (first.isdigit() and (last or first).isdigit()) or int(last or first) < int(first):
        raise InputError(f"rows {text!r} are not FIRST-LAST, such as 0-11")
    return range(int(first), int(last or first) + 1)
