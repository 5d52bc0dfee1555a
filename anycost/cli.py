"""The command line: every command is one step of the way from a checkpoint to an image."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from anycost._version import __version__
from anycost.commands import (  # noqa: F401 - they add theirs
    bundles,
    checkpoints,
    images,
    inspecting,
    pictures,
    quality,
    scaling,
    serve,
)
from anycost.commands.shared import app, fail
from anycost.errors import AnycostError


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


def main() -> None:
    """Entry point: user errors are one line and exit code 2; an interrupt is exit code 130."""
    try:
        app()
    except AnycostError as error:
        fail(error)
    except KeyboardInterrupt:
        print("anycost: interrupted; finished parts are kept", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None


if __name__ == "__main__":
    main()
