"""Pictures in, codes, names and pictures out: encode, attributes, tag, inpaint, translate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from anycost.commands.shared import (
    BundleArgument,
    JsonOption,
    NameOption,
    ThreadsOption,
    app,
    err,
    fail,
    out,
    print_json,
    write_codes,
)
from anycost.errors import InputError
from anycost.progress import bar

ImagesArgument = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Picture files.", show_default=False)]
ImageArgument = Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture file.", show_default=False)]
MostOption = Annotated[int | None, typer.Option(min=1, help="Print this many at most.", show_default=False)]
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")


@app.command()
def encode(
    bundle: BundleArgument,
    images: ImagesArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The codes, a .npy for edit and generate.")] = Path(
        "w_plus.npy"
    ),
    fit: Annotated[str, typer.Option(help="How a picture becomes square: crop, stretch or pad.")] = "crop",
    name: NameOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the codes w+ of pictures with the bundle's encoder, in one pass.

    Examples:

    - `anycost encode bundle/ me.jpg -o me.npy`
    """
    import anycost
    from anycost.runtime.pipelines.encode import encode as run

    found = run(anycost.open(bundle, threads=threads).network("encoder", name), images, fit)
    write_codes(output, found)
    if as_json:
        print_json({"file": str(output), "shape": list(found.shape)})
        return
    out.print(
        f"wrote {escape(str(output))}: {len(found)} codes of {found.shape[1]} x {found.shape[2]}", highlight=False
    )


@app.command()
def attributes(
    bundle: BundleArgument,
    images: ImagesArgument,
    threshold: Annotated[float, typer.Option(help="Print what is at least this probable.")] = 0.5,
    most: MostOption = None,
    name: NameOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell the attributes of faces with the bundle's attribute predictor.

    Examples:

    - `anycost attributes bundle/ me.jpg --most 5`
    """
    import anycost
    from anycost.runtime.pipelines.attributes import attributes as run
    from anycost.runtime.pipelines.attributes import strongest

    found = run(anycost.open(bundle, threads=threads).network("attributes", name), images)
    if as_json:
        print_json({str(image): scores for image, scores in zip(images, found, strict=True)})
        return
    _print_scores(images, [strongest(scores, threshold, most) for scores in found])


@app.command()
def tag(
    bundle: BundleArgument,
    images: ImagesArgument,
    threshold: Annotated[float, typer.Option(help="Print what is at least this probable.")] = 0.5,
    most: MostOption = None,
    tags: Annotated[
        Path | None,
        typer.Option(
            help="Text file of the tags, a line for each output, instead of the bundle's.", show_default=False
        ),
    ] = None,
    name: NameOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tag pictures with the bundle's tagger.

    Examples:

    - `anycost tag bundle/ picture.png --threshold 0.7`
    """
    import anycost
    from anycost.runtime.pipelines.tag import read_tags
    from anycost.runtime.pipelines.tag import tag as run

    network = anycost.open(bundle, threads=threads).network("tagger", name)
    found = run(network, images, threshold, most, tags=None if tags is None else read_tags(tags))
    if as_json:
        print_json({str(image): dict(scores) for image, scores in zip(images, found, strict=True)})
        return
    _print_scores(images, found)


@app.command()
def inpaint(
    bundle: BundleArgument,
    image: ImageArgument,
    mask: Annotated[
        str, typer.Option(help="What is missing: center, box:X,Y,W,H, boxes:N, strokes, or a PNG (white is missing).")
    ] = "center",
    seed: Annotated[int, typer.Option(help="Seed of random boxes and strokes.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="The PNG to write.")] = Path("inpainted.png"),
    name: NameOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fill what is missing of a picture; pixels outside the mask stay exactly as they are.

    Examples:

    - `anycost inpaint bundle/ photo.jpg --mask box:40,60,64,64 -o whole.png`
    - `anycost inpaint bundle/ photo.jpg --mask hole.png -o whole.png`
    """
    import anycost
    from anycost.pictures import save_png
    from anycost.runtime.images import read_image
    from anycost.runtime.masks import parse_mask

    runtime = anycost.open(bundle, threads=threads)
    pixels = read_image(image)
    missing = parse_mask(mask, pixels.shape[0], pixels.shape[1], seed)
    save_png(runtime.inpaint(pixels, missing, name=name), output)
    if as_json:
        print_json({"file": str(output), "missing": int(missing.sum())})
        return
    out.print(f"wrote {escape(str(output))}: {missing.mean():.1%} of the picture filled", highlight=False)


@app.command()
def translate(
    bundle: BundleArgument,
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A picture or a video.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="A PNG for a picture (a sheet for several styles), a video for a video.",
            show_default=False,
        ),
    ] = None,
    style_seed: Annotated[
        str | None, typer.Option(help="Seeds of styles, such as 0-3: a picture for each.", show_default=False)
    ] = None,
    style_file: Annotated[
        Path | None, typer.Option(help="Styles from a .npy or safetensors file.", show_default=False)
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="A picture whose style is taken.", show_default=False)] = None,
    reference_network: Annotated[
        str | None,
        typer.Option(
            help="Network that reads the reference's style: the other direction's for a picture of the target domain.",
            show_default=False,
        ),
    ] = None,
    style_end: Annotated[
        int | None,
        typer.Option(help="Video: seed of the style that is moved to until the last frame.", show_default=False),
    ] = None,
    fit: Annotated[str, typer.Option(help="How a picture becomes square: crop, stretch or pad.")] = "crop",
    keep_size: Annotated[bool, typer.Option("--keep-size", help="Video: frames of the source's size.")] = False,
    name: NameOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Translate a picture or a video to another domain; a video keeps its sound and goes on after a stop.

    Examples:

    - `anycost translate bundle/ me.jpg --style-seed 0-7 -o toons.png`
    - `anycost translate bundle/ me.jpg --name toon --reference drawing.png --reference-network photo`
    - `anycost translate bundle/ clip.mp4 --style-seed 3 -o toon.mp4`
    """
    import anycost
    from anycost.pictures import contact_sheet, save_png
    from anycost.runtime.pipelines import translate as pipeline

    runtime = anycost.open(bundle, threads=threads)
    network = runtime.one_of(pipeline.KINDS, name)
    reader = network if reference_network is None else runtime.one_of(pipeline.KINDS, reference_network)
    target = output or source.with_name(
        f"{source.stem}-translated{'.mp4' if source.suffix.lower() in VIDEOS else '.png'}"
    )
    styles = _styles(network, reader, style_seed, style_file, reference)
    if source.suffix.lower() in VIDEOS:
        dim = pipeline.style_dim(network)
        end = None if style_end is None else pipeline.style_from_seed(style_end, dim)
        if dim and styles is None:
            styles = pipeline.style_from_seed(0, dim)
        with bar(err, "translating", quiet=as_json) as progress:
            frames = pipeline.translate_file(
                network, source, target, styles, style_end=end, fit=fit, keep_size=keep_size, progress=progress
            )
        shown: dict[str, Any] = {"file": str(target), "frames": frames}
    else:
        if style_end is not None or keep_size:
            raise InputError("--style-end and --keep-size are for videos: leave them out for a picture")
        images = pipeline.translate_image(network, source, styles, fit)
        save_png(images[0] if len(images) == 1 else contact_sheet(images), target)
        shown = {"file": str(target), "styles": len(images)}
    if as_json:
        print_json(shown)
        return
    out.print(f"wrote {escape(str(target))}", highlight=False)


def _styles(network: Any, reader: Any, seeds: str | None, file: Path | None, reference: Path | None) -> Any:
    """The styles asked for, None for none."""
    from anycost.runtime.pipelines import translate as pipeline
    from anycost.seeds import parse_seeds

    if sum(given is not None for given in (seeds, file, reference)) > 1:
        fail(InputError("give one of --style-seed, --style-file and --reference"))
    dim = pipeline.style_dim(network)
    if dim == 0 and any(given is not None for given in (seeds, file, reference)):
        fail(InputError(f"{network.record.name} has no styles: it translates in one way only"))
    if seeds is not None:
        return pipeline.style_from_seed(parse_seeds(seeds), dim)
    if file is not None:
        return pipeline.read_style(file, dim)
    return None if reference is None else pipeline.style_of(reader, reference)


def _print_scores(images: list[Path], found: list[list[tuple[str, float]]]) -> None:
    table = Table("picture", "", "probability", box=None)
    for image, scores in zip(images, found, strict=True):
        for label, score in scores or [("nothing that probable", float("nan"))]:
            table.add_row(escape(str(image)), escape(label), "-" if score != score else f"{score:.3f}")
    out.print(table)
