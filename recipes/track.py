"""What every training run leaves in its folder: a checkpoint to go on from, and a log."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch


class Track:
    """folder: made when it is not there. minutes: after how long ``expired``. seconds: how often a checkpoint is ``due``."""

    def __init__(self, folder: Path, minutes: float = math.inf, seconds: float = 180):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.seconds = folder, seconds
        self.checkpoint = folder / "checkpoint.pt"
        self._started = self._saved = time.monotonic()
        self._limit = minutes * 60

    def log(self, **values: Any) -> None:
        """A line of JSON, on the screen and in log.jsonl."""
        line = json.dumps(values)
        print(line, flush=True)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    def load(self) -> dict[str, Any] | None:
        """What ``save`` was given last, None for a new run."""
        if not self.checkpoint.exists():
            return None
        return torch.load(self.checkpoint, weights_only=True, map_location="cpu")

    def save(self, values: dict[str, Any]) -> None:
        """Atomic: a run that is killed while it saves keeps its last checkpoint."""
        temporary = self.checkpoint.with_suffix(".part")
        torch.save(values, temporary)
        os.replace(temporary, self.checkpoint)
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._saved > self.seconds

    @property
    def expired(self) -> bool:
        """Whether the minutes of this process are over."""
        return time.monotonic() - self._started > self._limit
