"""The project's tests that need a GPU, as one outcome."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

# Of the repository this package lies in.
TESTS = Path(__file__).resolve().parents[2] / "tests"
_MARK = "mark.gpu"


def run_tests(folder: Path, limit_s: float) -> dict[str, Any]:
    """``pytest -m gpu`` on the files that have such tests, no others, which may need packages that are not here. -> passed,
    failed, errors, skipped (numbers), problems and skips (by test), seconds, reason (why there is no outcome, else empty)."""
    found: dict[str, Any] = {"passed": 0, "failed": 0, "errors": 0, "skipped": 0, "problems": {}, "skips": {}}
    files = [path for path in sorted(folder.rglob("test_*.py")) if _MARK in path.read_text(errors="replace")]
    if not files:
        return found | {"seconds": 0.0, "reason": f"{folder} has no tests for a GPU: run from a copy of the repository"}
    started, reason = time.monotonic(), ""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", f"--junitxml={report}"]
        command += ["--continue-on-collection-errors", *map(str, files)]
        try:
            done = subprocess.run(
                command, cwd=folder.parent, capture_output=True, text=True, timeout=limit_s, check=False
            )
            if report.is_file():
                for kind, name, message in _cases(report):
                    found[kind] += 1
                    if kind in ("failed", "errors"):
                        found["problems"][name] = message
                    elif kind == "skipped":
                        found["skips"][name] = message
            else:
                last = (done.stdout + done.stderr).strip().splitlines() or [f"code {done.returncode}"]
                reason = f"pytest gave no report: {last[-1]}"
        except subprocess.TimeoutExpired:
            reason = f"the tests were not done within {limit_s / 60:.3g} minutes"
    return found | {"seconds": round(time.monotonic() - started, 1), "reason": reason}


def _cases(report: Path) -> Iterator[tuple[str, str, str]]:
    """(passed, failed, errors or skipped; name; first line of the message)."""
    kinds = {"failure": "failed", "error": "errors", "skipped": "skipped"}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        ended = [(kinds[child.tag], child.get("message") or "") for child in case if child.tag in kinds]
        kind, message = ended[0] if ended else ("passed", "")
        yield kind, name, " ".join(message.split())[:300]
