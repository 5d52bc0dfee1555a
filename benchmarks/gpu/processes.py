"""Running a job in a process of its own, with a limit: a crash or a hang costs that job alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anycost.benchmarks.gpu.job import Job

_LAST_LINES = 15
_COMMAND = (sys.executable, "-m", "anycost.benchmarks.gpu.worker")
# A group of its own: compilers start helpers, which must end with it.
_GROUP: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}


@dataclass(frozen=True)
class Outcome:
    """findings: what was told, also by a process that failed later. reason: of the failure, empty without one. log: the last
    lines, where it failed. late: whether the limit ended it."""

    findings: list[dict[str, Any]]
    reason: str
    seconds: float
    late: bool = False
    log: list[str] = field(default_factory=list)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Findings of a kind, without it."""
        return [{k: v for k, v in one.items() if k != "kind"} for one in self.findings if one["kind"] == kind]


def run(job: Job, limit_s: float) -> Outcome:
    """Never raises for what the job does. limit_s: seconds after which it is ended."""
    base = Path(job.folder) / f"{job.kind}-{job.name}"
    base.parent.mkdir(parents=True, exist_ok=True)
    told, findings, log = (base.with_name(base.name + end) for end in (".job.json", ".found.jsonl", ".log"))
    told.write_text(job.json())
    findings.unlink(missing_ok=True)
    command = [*_COMMAND, str(told), str(findings)]
    started, late = time.monotonic(), False
    with log.open("wb") as file:
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, **_GROUP)
        try:
            code = child.wait(timeout=max(limit_s, 1))
        except subprocess.TimeoutExpired:
            late, code = True, 0
        finally:
            _end(child)
    seconds = round(time.monotonic() - started, 1)
    lines = log.read_text(errors="replace").rstrip().splitlines()
    reason = ""
    if late:
        reason = f"it was not done within {limit_s / 60:.3g} minutes"
    elif code < 0:
        reason = f"its process was ended by {signal.Signals(-code).name}"
    elif code > 0:
        reason = lines[-1] if lines else f"its process ended with code {code}"
    return Outcome(_read(findings), reason, seconds, late, lines[-_LAST_LINES:] if reason else [])


def _end(child: subprocess.Popen[bytes]) -> None:
    """The group that the child leads, which holds nothing else."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()
    child.wait()


def _read(path: Path) -> list[dict[str, Any]]:
    """Whole lines; the last of a process that was killed may be half a line."""
    found = []
    try:
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    except OSError:
        pass
    return found
