"""From the arguments of ``anycost build`` to a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anycost.errors import BackendError, CheckpointError, InputError

if TYPE_CHECKING:
    from anycost.networks.channels import Architecture, Subnet
    from anycost.runtime.manifest import Manifest


def build_bundle(
    model: str | None,
    output: Path,
    subnets: str,
    channels: Path | None,
    backend: str,
    noise: str,
    random_init: str | None,
    threads: int | None,
    fetched: Callable[[int, int | None], None],
    progress: Callable[[str, int, int], None],
) -> Manifest:
    """Read or make the checkpoint, plan the sub-networks, build. Arguments as in the command's help."""
    if (model is None) == (random_init is None):
        raise InputError("give either a MODEL (a checkpoint file or a name) or --random-init SHAPE")
    if noise not in ("input", "stored"):
        raise InputError(f"noise {noise!r} is not 'input' or 'stored'")
    try:
        import torch

        from anycost.export.build import Plan, build
    except ImportError as error:
        raise BackendError(
            f"building needs {error.name}, which is not installed: pip install 'anycost-runtime[export]'"
        ) from None
    from anycost.runtime.profile import default_threads
    from anycost.weights import catalogue, checkpoint
    from anycost.weights.random_init import random_checkpoint

    if random_init is not None:
        found = random_checkpoint(random_init)
        name = f"random-{random_init}"
    else:
        assert model is not None
        found = checkpoint.read(catalogue.resolve(model, fetched))
        name = Path(model).stem
    threads = threads or default_threads()
    torch.set_num_threads(threads)
    plan = Plan(
        name="".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).lstrip("._-") or "model",
        subnets=_planned(found.arch, subnets, channels),
        backends=[part.strip() for part in backend.split(",") if part.strip()] or _none("backend"),
        stored_noise=noise == "stored",
        threads=threads,
    )
    return build(found, plan, output, progress)


def _planned(arch: Architecture, subnets: str, channels: Path | None) -> list[Subnet]:
    from anycost.networks.channels import SubnetError, parse_subnets

    try:
        return parse_subnets(subnets, arch) if channels is None else read_flexible(channels, arch)
    except SubnetError as error:
        raise InputError(str(error)) from None


def read_flexible(path: Path, arch: Architecture) -> list[Subnet]:
    """Sub-networks of a JSON file of the form {"15G": {"channels": [...], "res": 512, ...}, ...}. Raises CheckpointError."""
    from anycost.runtime.manifest import plain_name

    try:
        entries: Any = json.loads(path.read_text())
        found = [
            arch.subnet(int(entry["res"]), list(entry["channels"]), plain_name(name)) for name, entry in entries.items()
        ]
        if not found:
            raise ValueError("it is empty")
        return found
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f'{path} is not of the form {{"NAME": {{"channels": [...], "res": 512}}}}: {type(error).__name__} {error}'
        ) from None


def _none(what: str) -> Any:
    raise InputError(f"no {what} was named")
