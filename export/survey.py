"""Every kind of network in one table: what it is, what it costs, and how near its engines come to PyTorch.

With ``verify`` each is built from random weights (the same in every run) for every backend into a folder that is thrown
away, by the same ``build`` that users call.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from anycost.errors import InputError
from anycost.export.build import Plan, build
from anycost.export.jobs import part_records
from anycost.networks.channels import macs, parameters
from anycost.networks.registry import KINDS, STYLEGAN2
from anycost.runtime import backends
from anycost.runtime.files import write_whole
from anycost.runtime.manifest import EngineRecord
from anycost.runtime.profile import default_threads
from anycost.runtime.usable import GPU_BACKENDS
from anycost.weights.random_init import SHAPES, random_checkpoint, random_network

HEADER = ("network", "title", "source", "parameter file", "parameters", "MACs", "engine sizes", "parity")
# The whole generator of the paper stands for its sub-networks, which a bundle's own table shows.
_GENERATOR = "config-f"


@dataclass(frozen=True)
class SurveyRow:
    """One kind. macs: by part, for one sample. engines: empty where nothing was built."""

    name: str
    title: str
    source: str
    file: str
    parameters: int
    macs: dict[str, int]
    engines: tuple[EngineRecord, ...] = field(default=())

    def cells(self) -> tuple[str, ...]:
        """The cells of ``HEADER``; sizes and parities are the sum and the worst over the parts, by backend."""
        by_backend = {
            engine.backend: [e for e in self.engines if e.backend == engine.backend] for engine in self.engines
        }
        sizes = [
            f"{backend} {sum(e.size + e.weights_bytes for e in engines) / 1e6:.1f} MB"
            for backend, engines in by_backend.items()
        ]
        parity = [
            f"{backend} {min(e.parity.psnr_db for e in engines):.0f} dB, {max(e.parity.max_abs for e in engines):.1e}"
            for backend, engines in by_backend.items()
        ]
        shown = [f"{name} {count / 1e9:.3f} G" if name else f"{count / 1e9:.3f} G" for name, count in self.macs.items()]
        if len(shown) > 4:
            shown = [f"{len(shown)} parts of {max(self.macs.values()) / 1e9:.3f} G at most"]
        return (
            self.name,
            self.title,
            self.source,
            self.file,
            f"{self.parameters / 1e6:.2f} M",
            ", ".join(shown),
            "; ".join(sizes) or "-",
            "; ".join(parity) or "-",
        )

    def values(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "network": self.name,
            "title": self.title,
            "source": self.source,
            "parameter_file": self.file,
            "parameters": self.parameters,
            "macs": self.macs,
            "engines": [
                {
                    "engine": engine.name,
                    "engine_bytes": engine.size,
                    "weights_bytes": engine.weights_bytes,
                    "parity": engine.parity.model_dump(),
                }
                for engine in self.engines
            ],
        }


def chosen(only: str | None) -> list[str]:
    """All kinds, or those named, separated by commas. Raises InputError for an unknown one."""
    known = [STYLEGAN2, *(kind.name for kind in KINDS)]
    if only is None:
        return known
    names = [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise InputError(f"network {name!r} is unknown: choose from {', '.join(known)}")
    return [name for name in known if name in names] or known


def survey(
    names: Sequence[str],
    *,
    verify: bool,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[SurveyRow]:
    """A row for each kind, in the order given. progress(what, done, total)."""
    rows = []
    for done, name in enumerate(names):
        if progress:
            progress(name, done, len(names))
        row = _generator_row() if name == STYLEGAN2 else _row(name)
        rows.append(_built(row, threads or default_threads()) if verify else row)
    if progress:
        progress("", len(names), len(names))
    return rows


def _row(name: str) -> SurveyRow:
    kind = next(kind for kind in KINDS if kind.name == name)
    parts = part_records(name, kind, kind.arguments)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in kind.make(**kind.arguments).parameters())
    shown = {record.name[len(name) + 1 :]: record.macs for record, _ in parts}
    return SurveyRow(name, kind.title, kind.source, kind.file, count, shown)


def _generator_row() -> SurveyRow:
    net = SHAPES[_GENERATOR].full()
    return SurveyRow(
        STYLEGAN2,
        "Elastic generator, config-f at full width",
        "arXiv 2103.03243, 1912.04958",
        "generator_anycost-ffhq-config-f.pt",
        parameters(net),
        {net.name: macs(net)},
    )


def _built(row: SurveyRow, threads: int) -> SurveyRow:
    torch.set_num_threads(threads)
    cpu = [backend for backend in backends.BACKENDS if backend not in GPU_BACKENDS]
    installed = [backend for backend in cpu if backends.installed(backend)]
    with tempfile.TemporaryDirectory(prefix="anycost-") as folder:
        if row.name == STYLEGAN2:
            generator = random_checkpoint(_GENERATOR)
            plan = Plan(row.name, [generator.arch.full()], installed, threads=threads)
            manifest = build(generator, plan, Path(folder))
        else:
            networks = {row.name: random_network(row.name)}
            manifest = build(None, Plan(row.name, [], installed, threads=threads, networks=networks), Path(folder))
    return SurveyRow(row.name, row.title, row.source, row.file, row.parameters, row.macs, manifest.engines)


def write(path: Path, rows: Sequence[SurveyRow]) -> None:
    """The table as a Markdown page. Raises InputError where it cannot be written."""
    lines = [
        "# Networks",
        "",
        "Every network that the runtime builds, verifies and runs. The table is written by",
        "`anycost inspect --networks --verify -o docs/networks.md`: each network is made with random weights, built for every",
        "backend and compared with the PyTorch reference on stored samples. MACs are multiply-adds for one sample, by part;",
        "sizes are of graph and weights, summed over the parts; parity is the lowest PSNR and the largest absolute difference",
        "over the parts (the bound is 80 dB).",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
        *("| " + " | ".join(cell.replace("|", "/") or "-" for cell in row.cells()) + " |" for row in rows),
        "",
    ]
    try:
        write_whole(path, "\n".join(lines).encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; give another file with -o") from None
