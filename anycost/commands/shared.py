"""What the commands share: the application itself, common options, and how results and errors are printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from anycost.errors import AnycostError, InputError
from anycost.tables import console

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
    int | None, typer.Option("--threads", min=1, max=1024, help="CPU threads (default: all this process may use).")
]
LatencyOption = Annotated[str | None, typer.Option("--budget", help="Latency limit on the measured p95, such as 40ms.")]
MemoryOption = Annotated[str | None, typer.Option("--memory", help="Limit on peak resident memory, such as 512MB.")]
SmallestOption = Annotated[int | None, typer.Option("--min-resolution", help="Smallest side in pixels.")]
LargestOption = Annotated[int | None, typer.Option("--max-resolution", help="Largest side in pixels.")]
DistanceOption = Annotated[
    str | None,
    typer.Option(
        "--max-distance",
        help="Floor of quality: the largest distance of what `explain` ranks by, such as 25 (FD-avatar) or 0.08 (RMSE).",
        show_default=False,
    ),
]
NoMeasureOption = Annotated[
    bool, typer.Option("--no-measure", help="Predict what was not profiled from its size; do not measure it.")
]
SubnetOption = Annotated[
    str | None, typer.Option("--subnet", help="A sub-network by name, such as 0.5@32.", show_default=False)
]
BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help="onnxruntime, openvino, cuda, tensorrt_rtx, tensorrt, or with a precision, as openvino-fp16.",
        show_default=False,
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option("--name", help="Which network, where the bundle holds several of the kind.", show_default=False),
]


def limits(
    latency: str | None,
    memory: str | None = None,
    smallest: int | None = None,
    largest: int | None = None,
    distance: str | None = None,
) -> Any:
    from anycost.runtime.budget import Budget, parse_distance, parse_latency_ms, parse_memory_mb

    return Budget(
        latency_ms=None if latency is None else parse_latency_ms(latency),
        memory_mb=None if memory is None else parse_memory_mb(memory),
        min_resolution=smallest,
        max_resolution=largest,
        max_distance=None if distance is None else parse_distance(distance),
    )


def print_json(value: object) -> None:
    print(json.dumps(value, indent=1))


def fail(error: AnycostError) -> NoReturn:
    # One line whatever a library put into it.
    print(f"anycost: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(2)


def read_codes(path: Path) -> Any:
    """w+ [N, n_style, style_dim] from a .npy that encode or project wrote. Raises InputError."""
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it is not a NumPy file"
        raise InputError(f"codes {path} cannot be read: {reason}; give a .npy from encode or project") from None
    if not isinstance(found, np.ndarray) or found.ndim != 3 or found.dtype.kind != "f":
        raise InputError(f"codes {path} are not float [N, n_style, style_dim]: give a .npy from encode or project")
    return found


def write_codes(path: Path, codes: Any) -> None:
    """A .npy file, whole or not at all. Raises InputError."""
    import io

    import numpy as np

    from anycost.runtime.files import write_whole

    buffer = io.BytesIO()
    np.save(buffer, np.asarray(codes, np.float32), allow_pickle=False)
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; give another file with -o") from None
