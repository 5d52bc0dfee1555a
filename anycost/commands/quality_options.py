"""Options of what measures quality: `bench quality` and `verify --quality`. None is what was not given."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anycost.errors import BackendError, InputError

if TYPE_CHECKING:
    from anycost.benchmarks.quality.measure import Settings
    from anycost.benchmarks.quality.pools import Pool

ImagesOption = Annotated[
    int | None,
    typer.Option("--images", min=2, help="Images of each sub-network and engine (default 2000).", show_default=False),
]
PsiOption = Annotated[
    float | None, typer.Option("--psi", help="Truncation of the images (default 1: none).", show_default=False)
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Pictures to compare with: a folder of PNG or JPEG files, or of an images.npy (default: for the embedded model "
        "its own, else none).",
        show_default=False,
    ),
]
FidOption = Annotated[
    Path | None,
    typer.Option(
        "--fid",
        metavar="WEIGHTS",
        help="FID by the standard file of Inception's weights, pt_inception-2015-12-05-6726825d.pth.",
        show_default=False,
    ),
]
ResizeOption = Annotated[
    str | None,
    typer.Option(
        "--resize", help="With --fid: pytorch-fid (the default) or clean-fid, its way to 299 px.", show_default=False
    ),
]
FeaturesOption = Annotated[
    Path | None,
    typer.Option(
        "--features", help="An attribute predictor of your own for FD-NAME and consistency.", show_default=False
    ),
]
LpipsOption = Annotated[
    tuple[Path, Path] | None,
    typer.Option("--lpips", metavar="VGG HEADS", help="LPIPS by its two files of weights.", show_default=False),
]
ProcessesOption = Annotated[
    int | None,
    typer.Option("--processes", min=1, max=1024, help="Processes of this machine (default 2).", show_default=False),
]
RayOption = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Over a Ray cluster, or `local` for one here.", show_default=False),
]
WorkOption = Annotated[
    Path | None,
    typer.Option(
        "--work", help="Folder for finished parts, kept (default: the cache, until all is done).", show_default=False
    ),
]


@dataclass(frozen=True)
class QualityOptions:
    """As in the commands' help."""

    images: int | None = None
    psi: float | None = None
    data: Path | None = None
    fid: Path | None = None
    resize: str | None = None
    features: Path | None = None
    lpips: tuple[Path, Path] | None = None
    processes: int | None = None
    ray: str | None = None
    work: Path | None = None

    def refuse_all(self) -> None:
        """Raises InputError where one was given although nothing is measured."""
        for field in fields(self):
            if getattr(self, field.name) is not None:
                raise InputError(f"--{field.name} means nothing without --quality: add it, or leave the option out")

    def settings(self, **more: Any) -> Settings:
        """Raises InputError for what does not go together, BackendError where a package is missing."""
        needed()
        from anycost.benchmarks.quality.measure import Settings
        from anycost.benchmarks.quality.tools import Tools

        if self.resize is not None and self.fid is None:
            raise InputError("--resize is the way to FID's 299 px: give --fid WEIGHTS too, or leave it out")
        for path in (self.fid, self.features, *(self.lpips or ())):
            if path is not None and not path.is_file():
                raise InputError(f"{path} is not a file: give the file of the network's weights")
        tools = Tools(self.features, self.fid, self.resize or "pytorch-fid", self.lpips)
        given = {"images": self.images, "psi": self.psi} | more
        return Settings(
            tools=tools,
            data=self.data,
            work=self.work,
            **{name: value for name, value in given.items() if value is not None},
        )

    def pool(self, threads: int | None) -> Pool:
        """threads: of all processes of this machine together."""
        from anycost.benchmarks.quality.pools import LocalPool, RayPool
        from anycost.runtime.profile import default_threads

        processes = self.processes or min(2, default_threads())
        each = None if threads is None else max(1, threads // processes)
        if self.ray is None:
            return LocalPool(processes, each)
        if self.processes is not None and self.ray != "local":
            raise InputError(f"--processes are of this machine: leave it out with --ray {self.ray}")
        return RayPool(self.ray, processes, each)


def needed() -> None:
    """Raises BackendError that says what to install where a package is missing."""
    try:
        import torch  # noqa: F401
        import torchmetrics  # noqa: F401

        from anycost.benchmarks.quality import measure  # noqa: F401
    except ImportError as error:
        raise BackendError(
            f"measuring quality needs {error.name}, which is not installed: pip install 'anycost-runtime[export,bench]'"
        ) from None
