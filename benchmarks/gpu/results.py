"""The result of a run as it grows: one JSON file, written whole after every step, so that a run that is stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anycost.benchmarks.gpu import report
from anycost.benchmarks.gpu.processes import Outcome
from anycost.errors import InputError
from anycost.runtime.files import write_whole

MEASURED = "measured"  # all or, with what failed named, some of its sub-networks
FAILED = "failed"  # tried, and none ran; like parts of a measured one, not tried again without --retry
UNAVAILABLE = "unavailable"  # it cannot run here; looked at again in every run
UNFINISHED = "unfinished"  # the time of the whole run was up; measured again


@dataclass(frozen=True)
class Settings:
    """What a result depends on: a file of other settings is not gone on with. checkpoint: sha256 of the weights."""

    model: str
    checkpoint: str
    subnets: tuple[str, ...]
    batches: tuple[int, ...]
    precision: str
    seconds: float
    device: str
    software: Mapping[str, str | None]


class Results:
    """values: what is written. path: the JSON file; the table gets its name, with .md. order: of the contenders. Raises
    InputError for a folder that cannot be written to."""

    def __init__(self, path: Path, settings: Settings, refresh: bool, order: Sequence[str]):
        self.path, self._order = path, list(order)
        wanted = json.loads(json.dumps(asdict(settings)))
        before = None if refresh else _read(path)
        self.continued = before is not None and before.get("settings") == wanted
        self.values: dict[str, Any] = {"settings": wanted, "contenders": {}}
        if before is not None and self.continued:
            self.values = before
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path.parent} cannot be made: {error.strerror}: give another with --output") from None
        self.keep()

    def keep(self, **values: Any) -> None:
        self.values |= values
        found = self.contenders
        self.values["contenders"] = {name: found[name] for name in self._order if name in found}
        try:
            write_whole(self.path, (json.dumps(self.values, indent=1) + "\n").encode())
            write_whole(self.path.with_suffix(".md"), report.markdown(self.values).encode())
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}: give another with --output") from None

    @property
    def contenders(self) -> dict[str, Any]:
        found: dict[str, Any] = self.values["contenders"]
        return found

    def settled(self, name: str, retry: bool) -> bool:
        """Whether a contender needs no further run."""
        entry = self.contenders.get(name, {})
        if retry:
            return entry.get("state") == MEASURED and not flawed(entry)
        return entry.get("state") in (MEASURED, FAILED)

    def unavailable(self, name: str, reason: str) -> None:
        self.contenders[name] = {"state": UNAVAILABLE, "reason": reason}
        self.keep()

    def unfinished(self, name: str, reason: str) -> None:
        """Keeps what an earlier run had of it."""
        self.contenders[name] = self.contenders.get(name, {}) | {"state": UNFINISHED, "reason": reason}
        self.keep()

    def outcome(self, name: str, outcome: Outcome, unfinished: bool) -> None:
        """unfinished: whether the end of the whole run's time ended it, and not its own limit."""
        figures = [row | report.shares(self.values, row) for row in outcome.of("figures")]
        failed = {one["subnet"]: one["reason"] for one in outcome.of("failed")}
        state = UNFINISHED if unfinished else MEASURED if figures else FAILED
        reason = outcome.reason
        if not figures and not reason:
            reason = next(iter(failed.values()), "it gave no figures")
        entry: dict[str, Any] = {
            "state": state,
            "reason": reason,
            "seconds": outcome.seconds,
            "figures": figures,
            "subnets": {one.pop("subnet"): one for one in outcome.of("subnet")},
            "failed": failed,
        }
        for kind in ("all", "notes"):
            for one in outcome.of(kind):
                entry |= one if kind == "notes" else {"all": one["memory"]}
        if outcome.log:
            entry["log"] = outcome.log
        self.contenders[name] = entry
        self.keep()


def flawed(entry: Mapping[str, Any]) -> bool:
    """Whether anything of a contender that can run here has no figures."""
    if entry["state"] == MEASURED:
        return bool(entry["reason"] or entry["failed"])
    return bool(entry["state"] != UNAVAILABLE)


def _read(path: Path) -> dict[str, Any] | None:
    """An earlier result; a damaged one counts as none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("contenders"), dict) else None
