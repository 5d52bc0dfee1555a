"""Working on checkpoints: convert, blend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from anycost.commands.shared import JsonOption, app, err, fail, out, print_json
from anycost.errors import InputError
from anycost.progress import bytes_bar

KeyOption = Annotated[
    str | None,
    typer.Option(help="Which network of a file that holds several, such as G_B2A_ema.", show_default=False),
]


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A checkpoint file, or a model's name.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The safetensors file to write.")],
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write any readable checkpoint as safetensors, under Anycost GAN's names, with where it came from in its header.

    Read are Anycost GAN's and rosinality's files, NVIDIA's StyleGAN2 pickles, GANs N' Roses, plain state dicts of every
    network of `anycost inspect --networks`, and safetensors; nothing in a file is ever executed.

    Examples:

    - `anycost convert stylegan2-ffhq-256x256.pkl ffhq256.safetensors`
    - `anycost convert gnr.pt toon.safetensors --key G_A2B_ema`
    """
    from anycost.weights import catalogue
    from anycost.weights.checkpoint import Checkpoint, read_any
    from anycost.weights.save import save

    with bytes_bar(err, quiet=as_json) as fetched:
        found = read_any(catalogue.resolve(source, fetched), key)
    tensors = found.stored() if isinstance(found, Checkpoint) else found.tensors
    header = found.described() | {"source": found.source, "source_sha256": found.sha256}
    if target.is_dir():
        fail(InputError(f"{target} is a folder: give the name of a file"))
    save(target, tensors, header)
    if as_json:
        print_json(
            {"file": str(target), "tensors": len(tensors), **header, "arguments": json.loads(header["arguments"])}
        )
        return
    out.print(
        f"{escape(str(target))}: {header['network']} with {len(tensors)} tensors from {escape(found.source)}",
        highlight=False,
    )


@app.command()
def blend(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Generator whose layers below the swap are taken.")],
    transfer: Annotated[
        str, typer.Argument(metavar="TRANSFER", help="Generator whose layers from there on are taken.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The safetensors file to write.", show_default=False)
    ] = None,
    swap_resolution: Annotated[int, typer.Option(help="Resolution of the swap, 4 up to the network's.")] = 32,
    level: Annotated[
        int, typer.Option(help="0: from its upsampling convolution on; 1: from its second convolution and to-RGB on.")
    ] = 0,
    ramp: Annotated[float, typer.Option(help="Layers that a smooth change is spread over; 0 is a hard swap.")] = 0.0,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Write a PNG with a row for every swap point instead, to choose by eye.", show_default=False),
    ] = None,
    seed: Annotated[str, typer.Option("--seed", help="Seeds of the sheet.")] = "0-5",
    psi: Annotated[float, typer.Option(help="Truncation of the sheet's images.")] = 0.7,
    as_json: JsonOption = False,
) -> None:
    """Blend two generators of one shape: coarse layers of one, fine layers of the other (arXiv 2010.05334).

    The result is an ordinary checkpoint. Exchange BASE and TRANSFER for the other way round.

    Examples:

    - `anycost blend ffhq.pt toon.pkl --sheet choose.png`
    - `anycost blend ffhq.pt toon.pkl -o mixed.safetensors --swap-resolution 32 --level 1 --ramp 3`
    """
    from anycost.building import read_model
    from anycost.seeds import parse_seeds
    from anycost.weights import blend as blending
    from anycost.weights.checkpoint import Checkpoint
    from anycost.weights.save import save

    if (output is None) == (sheet is None):
        fail(InputError("give either -o FILE for the blended checkpoint or --sheet FILE.png for the choice"))
    with bytes_bar(err, quiet=as_json) as fetched:
        read = [read_model(given, fetched)[1] for given in (base, transfer)]
    first, second = (found if isinstance(found, Checkpoint) else _no_generator(found.source) for found in read)
    if sheet is not None:
        from anycost.pictures import save_png
        from anycost.weights.blend_sheet import sheet as make_sheet

        pixels = make_sheet(first, second, parse_seeds(seed), psi, ramp)
        save_png(pixels, sheet)
        written, shown = sheet, {"file": str(sheet), "width": pixels.shape[1], "height": pixels.shape[0]}
    else:
        assert output is not None
        found = blending.blend(first, second, swap_resolution, level, ramp)
        save(output, found.stored(), found.described())
        written, shown = output, {"file": str(output), "source": found.source, "sha256": found.sha256}
    if as_json:
        print_json(shown)
        return
    out.print(f"wrote {escape(str(written))}", highlight=False)


def _no_generator(source: str) -> NoReturn:
    fail(InputError(f"{source} holds no elastic generator: only these can be blended"))
