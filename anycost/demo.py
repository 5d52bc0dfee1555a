"""The demonstration behind ``make demo``: build, verify, profile and generate for three budgets with the embedded model."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import anycost
from anycost.building import BuildArguments, build_bundle
from anycost.errors import AnycostError
from anycost.pictures import contact_sheet, save_images
from anycost.progress import bar, bytes_bar
from anycost.runtime.budget import Budget
from anycost.runtime.choose import Choice
from anycost.runtime.profile import Profile
from anycost.runtime.runtime import Runtime
from anycost.tables import console, engine_table

SEEDS = list(range(16))
_console = console()


def budgets(profile: Profile) -> dict[str, Budget]:
    """Three latency limits that mean something on any device: twice the slowest engine's p95, the median of all, and a
    little above the fastest."""
    p95 = sorted(measured.p95_ms for measured in profile.engines.values())
    return {
        "loose": Budget(latency_ms=round(2 * p95[-1], 2)),
        "middle": Budget(latency_ms=round(float(np.median(p95)), 2)),
        "tight": Budget(latency_ms=round(1.25 * p95[0], 2)),
    }


def write_sheets(runtime: Runtime, choices: dict[str, Choice], folder: Path) -> list[Path]:
    """A sheet of the same seeds for each choice, and one with every sub-network in a row."""
    paths = []
    for name, choice in choices.items():
        images = runtime.generate(SEEDS, subnet=choice.subnet.name, backend=choice.engine.variant)
        paths += save_images(_enlarged(images), SEEDS, folder / name, sheet=True)
    best = {name: runtime.choose(subnet=name).engine.variant for name in (net.name for net in runtime.subnets)}
    rows = [_enlarged(runtime.generate(SEEDS[:8], subnet=name, backend=backend)) for name, backend in best.items()]
    grid = contact_sheet(np.concatenate(rows), columns=8)
    paths += save_images(grid[None], [0], folder / "every-subnetwork", sheet=True)
    return paths


def _enlarged(images: np.ndarray, side: int = 96) -> np.ndarray:
    """Whole pixels repeated, so that a 16 px image is seen as it is, then cut to a common size by nearest neighbour."""
    rows = np.arange(side) * images.shape[1] // side
    return images[:, rows][:, :, rows]


def run(model: str, folder: Path) -> None:
    """The whole way, with progress on standard error and results on standard output."""
    bundle = folder / "bundle"
    err = console(stderr=True)
    started = time.monotonic()
    with bytes_bar(err, quiet=False) as fetched, bar(err, "building", quiet=False) as progress:
        build_bundle(BuildArguments([model]), bundle, fetched, progress)
    runtime = anycost.open(bundle)
    with bar(err, "verifying", quiet=False) as progress:
        failed = [check for check in runtime.verify(progress) if check.failed]
    if failed:
        raise AnycostError(f"{failed[0].engine} failed its check: {failed[0].problem}")
    with bar(err, "measuring", quiet=False) as progress:
        profile = runtime.profile(refresh=True, progress=progress)
    choices = {name: runtime.choose(budget) for name, budget in budgets(profile).items()}
    chosen = {choice.engine.name: name for name, choice in reversed(choices.items())}
    rows = [replace(row, misfit="", chosen=row.engine.name in chosen) for row in runtime.choose().rows]
    _console.print(engine_table(rows, notes={engine: f"chosen: {name}" for engine, name in chosen.items()}))
    for name, choice in choices.items():
        _console.print(f"[bold]{name}[/bold]: {choice.reason}", highlight=False)
    paths = write_sheets(runtime, choices, folder)
    _console.print("\n".join(f"wrote {path}" for path in paths), highlight=False)
    _console.print(f"done in {time.monotonic() - started:.0f} s; the bundle is {bundle}", highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m anycost.demo", description=__doc__)
    parser.add_argument("--model", default="avatars", help="a checkpoint file or a model's name")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder of the bundle and the sheets")
    args = parser.parse_args()
    try:
        run(args.model, args.output)
    except AnycostError as error:
        print(f"anycost: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
