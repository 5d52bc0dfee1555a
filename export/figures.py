"""Measured quality in a bundle that is built, or built again."""

from __future__ import annotations

from pathlib import Path

from anycost.errors import BundleError
from anycost.runtime.bundle import Bundle
from anycost.runtime.manifest import Manifest
from anycost.runtime.quality import QUALITY_NAME, Quality, read, write


def keep_quality(folder: Path, manifest: Manifest, given: Quality | None) -> None:
    """What was measured of the manifest's checkpoint stays; what is of another, or damaged, goes.

    given: what was measured of a checkpoint elsewhere. If it is the same, its figures of sub-networks are written where
    nothing was measured here, or not of all of them.
    """
    path, source = folder / QUALITY_NAME, Bundle(folder, manifest, "").source_sha256
    try:
        found = read(path) if path.exists() else None
    except BundleError:
        found = None
    if path.exists() and (found is None or found.source_sha256 != source):
        path.unlink()
        found = None
    names = {net.name for net in manifest.generator.subnets} if manifest.generator else set()
    if given is None or given.source_sha256 != source or (found and names <= set(found.subnets)):
        return
    kept = {name: net for name, net in given.subnets.items() if name in names}
    if kept:
        write(path, given.model_copy(update={"subnets": kept, "engines": {}, "networks": {}}))
