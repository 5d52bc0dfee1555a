"""What the images of contenders are compared with: the paper's form in float32 on the CPU, as for a bundle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from anycost.benchmarks.gpu.job import Emit, Job
from anycost.benchmarks.quality.kept import read_arrays
from anycost.errors import BuildError
from anycost.export.reference import Reference
from anycost.networks.channels import parse_subnets
from anycost.runtime.manifest import ParityRecord
from anycost.runtime.parity import compare, views
from anycost.runtime.verify import misfit

Array = np.ndarray
CODES = "w_plus"


def write_reference(job: Job, emit: Emit) -> None:
    """The stored codes, w+ float32 [2, n_style, style_dim], and views of the two images of every sub-network."""
    torch.set_num_threads(job.threads)
    checkpoint = job.checkpoint()
    found = read_arrays(job.reference)
    wanted = parse_subnets(",".join(job.subnets), checkpoint.arch)
    missing = [net for net in wanted if not any(name.startswith(f"{net.name}|") for name in found)]
    if missing or CODES not in found:
        # The mean is not asked for: no code is truncated.
        reference = Reference(checkpoint.generator(), torch.zeros(1, checkpoint.arch.style_dim), stored_noise=True)
        found[CODES] = reference.latents[CODES]
        for net in missing:
            print(f"reference of {net.name}", flush=True)
            made = views({"image": reference.synthesis(net)})
            found |= {f"{net.name}|{view}": array for view, array in made.items()}
        temporary = job.reference.with_name(f"{job.reference.name}.part")
        with temporary.open("wb") as file:
            np.savez(file, **found)  # type: ignore[arg-type]
        temporary.replace(job.reference)
    emit("reference", subnets=[net.name for net in wanted])


class Expected:
    """The reference of a job. Raises BuildError where it is not there."""

    def __init__(self, job: Job):
        self._found = read_arrays(job.reference)
        self._precision = job.precision
        if CODES not in self._found:
            raise BuildError(f"{job.reference} is missing or damaged: run again with --refresh")

    @property
    def codes(self) -> Array:
        """w+ float32 [2, n_style, style_dim]."""
        return self._found[CODES]

    def parity(self, subnet: str, run: Callable[[Array], Array]) -> tuple[dict[str, float], str]:
        """run: w+ [1, n_style, style_dim] -> image [1, 3, R, R]. -> figures, and why they fail, empty when they pass."""
        image = np.concatenate([run(self.codes[i : i + 1]) for i in range(len(self.codes))])
        expected = {name.split("|")[1]: x for name, x in self._found.items() if name.startswith(f"{subnet}|")}
        found: ParityRecord = compare(views({"image": image}), expected)
        return {name: float(value) for name, value in found.model_dump().items()}, misfit(found, self._precision)
