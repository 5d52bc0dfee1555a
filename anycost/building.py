"""From the arguments of ``anycost build`` to a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anycost.errors import BackendError, CheckpointError, InputError

if TYPE_CHECKING:
    from anycost.editing.directions import Directions
    from anycost.networks.channels import Architecture, Subnet
    from anycost.runtime.manifest import Manifest
    from anycost.runtime.quality import Quality
    from anycost.weights.checkpoint import Checkpoint, NetworkCheckpoint

Fetched = Callable[[int, int | None], None]


@dataclass(frozen=True)
class BuildArguments:
    """As in the command's help. models: ``[NAME=]FILE[:KEY]`` or names of the catalogue. backend: None for the targets' own."""

    models: Sequence[str]
    random_init: str | None = None
    subnets: str = "grid"
    channels: Path | None = None
    backend: str | None = None
    precision: str = "fp32"
    target: str | None = None
    batch: str = "1:1:8"
    workspace_mb: int | None = None
    calibration: int | None = None
    fused: bool = False
    segments: bool = False
    refresh: bool = False
    noise: str = "input"
    labels: Path | None = None
    directions: Path | None = None
    threads: int | None = None


def build_bundle(
    arguments: BuildArguments, output: Path, fetched: Fetched, progress: Callable[[str, int, int], None]
) -> Manifest:
    """Read or make the checkpoints, plan the sub-networks, build."""
    if bool(arguments.models) == bool(arguments.random_init):
        raise InputError("give either a MODEL (a checkpoint file or a name) or --random-init SHAPE")
    if arguments.noise not in ("input", "stored"):
        raise InputError(f"noise {arguments.noise!r} is not 'input' or 'stored'")
    try:
        import torch

        from anycost.export.build import Plan, build
        from anycost.export.variants import variants
    except ImportError as error:
        raise BackendError(
            f"building needs {error.name}, which is not installed: pip install 'anycost-runtime[export]'"
        ) from None
    from anycost.runtime.profile import default_threads

    wanted = variants(
        None if arguments.backend is None else _listed(arguments.backend, "backend"),
        _listed(arguments.precision, "precision"),
        [] if arguments.target is None else _listed(arguments.target, "target"),
        arguments.batch,
        arguments.workspace_mb,
        arguments.calibration,
        arguments.fused,
    )
    for model in arguments.models:
        path = Path(model.rpartition("=")[2].partition(":")[0])
        if path.exists() and path.resolve().is_relative_to(output.resolve()):
            raise InputError(f"{path} lies in {output}, which the build writes and clears: give another folder with -o")
    generator, networks, first = _read_all(arguments, fetched)
    threads = arguments.threads or default_threads()
    torch.set_num_threads(threads)
    plan = Plan(
        name=_plain(first),
        subnets=_planned(generator.arch, arguments.subnets, arguments.channels) if generator else [],
        variants=wanted,
        stored_noise=arguments.noise == "stored",
        threads=threads,
        networks=_labelled(networks, arguments.labels),
        directions=_directions(arguments),
        quality=_quality(arguments),
        refresh=arguments.refresh,
        segments=arguments.segments,
    )
    return build(generator, plan, output, progress)


def _read_all(
    arguments: BuildArguments, fetched: Fetched
) -> tuple[Checkpoint | None, dict[str, NetworkCheckpoint], str]:
    """The generator if one was given, the other networks by their names in the bundle, and the bundle's own name."""
    from anycost.weights.checkpoint import Checkpoint

    generator: Checkpoint | None = None
    networks: dict[str, NetworkCheckpoint] = {}
    names = [part.strip() for part in (arguments.random_init or "").split(",") if part.strip()]
    first = f"random-{names[0]}" if names else Path(arguments.models[0].rpartition("=")[2]).stem
    for given, made in [(name, True) for name in names] + [(model, False) for model in arguments.models]:
        name, found = ("", _random(given)) if made else read_model(given, fetched)
        if isinstance(found, Checkpoint):
            if generator is not None:
                raise InputError(f"{found.source} is a second elastic generator: a bundle holds one at most")
            generator = found
            continue
        wanted = name or found.network
        if name and wanted in networks:
            raise InputError(f"two networks are called {wanted}: give each its own name, as in NAME={given}")
        number = 2
        while wanted in networks:
            wanted = f"{found.network}-{number}"
            number += 1
        networks[wanted] = found
    return generator, networks, first


def read_model(given: str, fetched: Fetched) -> tuple[str, Checkpoint | NetworkCheckpoint]:
    """``[NAME=]FILE[:KEY]``, or a name of the catalogue -> NAME (or nothing) and what the file holds."""
    from anycost.runtime.manifest import plain_name
    from anycost.weights import catalogue, checkpoint

    name, key = "", None
    rest = given
    # A file of exactly this name comes first, whatever is in the name.
    if not Path(given).exists():
        if not Path(given.rpartition(":")[0]).is_file():
            name, _, rest = given.partition("=") if "=" in given else ("", "", given)
        if not Path(rest).exists() and Path(rest.rpartition(":")[0]).is_file():
            rest, _, key = rest.rpartition(":")
    if name:
        try:
            plain_name(name)
        except ValueError as error:
            raise InputError(str(error)) from None
    return name, checkpoint.read_any(catalogue.resolve(rest, fetched), key)


def _random(name: str) -> Checkpoint | NetworkCheckpoint:
    from anycost.networks.registry import BY_NAME
    from anycost.weights.random_init import random_checkpoint, random_network

    return random_network(name) if name in BY_NAME else random_checkpoint(name)


def _directions(arguments: BuildArguments) -> Directions | None:
    """The directions asked for, else those that an embedded model comes with."""
    from anycost.editing.boundaries import read_directions
    from anycost.weights import catalogue

    if arguments.directions is not None:
        return read_directions(arguments.directions)
    found = [path for model in arguments.models if (path := catalogue.directions_of(model)) is not None]
    return read_directions(found[0]) if found else None


def _quality(arguments: BuildArguments) -> Quality | None:
    """What was measured of an embedded model's sub-networks."""
    from anycost.runtime.quality import read
    from anycost.weights import catalogue

    found = [path for model in arguments.models if (path := catalogue.quality_of(model)) is not None]
    return read(found[0]) if found else None


def _labelled(networks: dict[str, NetworkCheckpoint], labels: Path | None) -> dict[str, NetworkCheckpoint]:
    """With the labels of a text file for the one network that has outputs to name."""
    if labels is None:
        return networks
    from anycost.runtime.pipelines.tag import read_tags

    tags = read_tags(labels)
    named = [name for name, found in networks.items() if found.network in ("tagger", "attributes")]
    if len(named) != 1:
        raise InputError(f"--labels needs exactly one tagger or attribute predictor: there are {len(named)}")
    labelled = replace(
        networks[named[0]], metadata=networks[named[0]].metadata | {"labels": json.dumps(tags, ensure_ascii=False)}
    )
    if labelled.labels != tags:
        outputs = labelled.arguments.get("tags", labelled.arguments.get("attributes"))
        raise InputError(f"{labels} names {len(tags)} outputs, and {named[0]} has {outputs}")
    return networks | {named[0]: labelled}


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


def _plain(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).lstrip("._-") or "model"


def _listed(text: str, what: str) -> list[str]:
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise InputError(f"no {what} was named")
    return found
