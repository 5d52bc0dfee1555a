"""What is in one engine, from its own files: no library of its backend is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from anycost.errors import BundleError
from anycost.runtime.backends import BINDINGS_NAME
from anycost.runtime.files import record_of
from anycost.runtime.manifest import EngineRecord
from anycost.runtime.usable import unusable

RECORD_NAME, REPORT_NAME = "engine.json", "report.json"


def is_engine(path: Path) -> bool:
    """Whether a path is an engine's folder, or a file in one."""
    return (_folder(path) / RECORD_NAME).is_file()


def engine_info(path: Path) -> dict[str, Any]:
    """Of an engine's folder or any file in it: the fields of its record, with

    weights: ``in the weights file`` (what it takes of it, in bytes), stored: bytes of its own files, here: why it cannot run on
    this machine (empty when it can), changed: files that are not what the record says, report: the builder's, where there is
    one. Raises BundleError for a damaged record.
    """
    folder = _folder(path)
    try:
        record = EngineRecord.model_validate_json((folder / RECORD_NAME).read_bytes())
    except (OSError, ValidationError) as error:
        first = " ".join(str(error).split())[:200]
        raise BundleError(f"{folder / RECORD_NAME} cannot be read: {first}; build the bundle again") from None
    changed = [
        name for name, file in record.files.items() if not (folder / name).is_file() or record_of(folder / name) != file
    ]
    report = _json(folder / REPORT_NAME) or {}
    return record.model_dump(mode="json") | {
        "name": record.name,
        "stored": record.size,
        "weights": {
            "stored": "outside, in the bundle's weights file",
            "delivery": (_json(folder / BINDINGS_NAME) or {}).get("delivery", "constants filled when it is loaded"),
            "bytes": record.weights_bytes,
        },
        "changed": changed,
        "here": unusable(record),
        "report": report,
    }


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
