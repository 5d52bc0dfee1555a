"""Our own kernels: launches written from the generator's architecture, compiled for every target on any machine."""

from __future__ import annotations

import json
from pathlib import Path

from anycost.errors import BuildError
from anycost.export.trace import MappingSource, Traced
from anycost.export.variants import Variant
from anycost.runtime.cuda.arena import lifetimes, pack
from anycost.runtime.cuda.program import Program
from anycost.runtime.engine_info import REPORT_NAME


def write(traced: Traced, variant: Variant, folder: Path) -> None:
    """program.json and the kernels of all targets. Raises BuildError for what is no part of a generator."""
    # Imported here: Triton is needed to build, and to run nothing.
    from anycost.export.launches import mapping_draft, synthesis_draft
    from anycost.kernels.lower import lower

    source = traced.source
    if source is None:
        raise BuildError("backend cuda runs the generator's networks alone: take another for this one")
    if isinstance(source, MappingSource):
        draft = mapping_draft(source.arch)
    else:
        draft = synthesis_draft(source.arch, source.net, source.stored_noise, variant.precision)
    lowered = lower(draft, variant.targets, variant.batch[2] if variant.batch else 1)
    lowered.write(folder)
    report = _report(lowered.program, sum(len(image) for image in lowered.images.values()))
    (folder / REPORT_NAME).write_text(json.dumps(report, indent=1) + "\n")


def _report(program: Program, code_bytes: int) -> dict[str, object]:
    """What was built, for readers. scratch_bytes: of one image, with the first choice of each step; least_scratch_bytes: what no
    layout can be smaller than."""
    layout = pack(lifetimes(program, [step.choices[0] for step in program.steps], 1))
    return {
        "targets": list(program.targets),
        "precision": program.precision,
        "max_batch": program.max_batch,
        "kernels": len(program.kernels),
        "code_bytes": code_bytes,
        "scratch_bytes": layout.total,
        "least_scratch_bytes": layout.least,
        "steps": {step.name: [choice.label for choice in step.choices] for step in program.steps},
    }
