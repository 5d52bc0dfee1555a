"""What a caller can spend, and reading it from text."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from anycost.errors import BudgetError


@dataclass(frozen=True)
class Budget:
    """Limits on one image. None means no limit. Raises BudgetError for limits that nothing could meet.

    latency_ms: on the measured p95 of the whole way from z to the image, at batch 1.
    memory_mb: on the peak resident memory of a process that runs the engine, in units of 10^6 bytes.
    min_resolution, max_resolution: sides in pixels, inclusive.
    max_distance: the floor of quality, inclusive, on the figure that the engines are ranked by, where smaller is better: the
    Frechet distance to the data (as FD-avatar, or FID) where it was measured of every sub-network, else that to the full
    network's images, else the build's distance to the full network (RMSE of values in [-1, 1]). ``explain`` names which.
    """

    latency_ms: float | None = None
    memory_mb: float | None = None
    min_resolution: int | None = None
    max_resolution: int | None = None
    max_distance: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("latency_ms", self.latency_ms), ("memory_mb", self.memory_mb)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise BudgetError(f"budget {name} {value:g} is not a positive number")
        for side, value in (("min_resolution", self.min_resolution), ("max_resolution", self.max_resolution)):
            if value is not None and value < 1:
                raise BudgetError(f"budget {side} {value} is not a positive number of pixels")
        if self.min_resolution and self.max_resolution and self.min_resolution > self.max_resolution:
            raise BudgetError(
                f"budget min_resolution {self.min_resolution} is above max_resolution {self.max_resolution}"
            )
        if self.max_distance is not None and not (math.isfinite(self.max_distance) and self.max_distance >= 0):
            raise BudgetError(f"budget max_distance {self.max_distance:g} is not a number from 0 on")

    @property
    def needs_profile(self) -> bool:
        return self.latency_ms is not None or self.memory_mb is not None

    def __str__(self) -> str:
        parts = []
        if self.latency_ms is not None:
            parts.append(f"p95 <= {self.latency_ms:g} ms")
        if self.memory_mb is not None:
            parts.append(f"memory <= {self.memory_mb:g} MB")
        if self.min_resolution is not None:
            parts.append(f"at least {self.min_resolution} px")
        if self.max_resolution is not None:
            parts.append(f"at most {self.max_resolution} px")
        if self.max_distance is not None:
            parts.append(f"distance <= {self.max_distance:g}")
        return ", ".join(parts) or "no limit"


_LATENCY = {"us": 1e-3, "ms": 1.0, "s": 1e3, "": 1.0}
_MEMORY = {"kb": 1e-3, "mb": 1.0, "gb": 1e3, "kib": 1024e-6, "mib": 1.048576, "gib": 1073.741824, "": 1.0}


def parse_latency_ms(text: str) -> float:
    """``40ms``, ``0.5s``, ``800us`` or a plain number of milliseconds."""
    return _parse(text, _LATENCY, "a time such as 40ms or 0.5s")


def parse_memory_mb(text: str) -> float:
    """``512MB``, ``1.5GB``, ``300MiB`` or a plain number of megabytes."""
    return _parse(text, _MEMORY, "an amount such as 512MB or 1.5GB")


def parse_distance(text: str) -> float:
    """``25`` or ``0.08``: a distance of the ranking, 0 for the best sub-network alone."""
    return _parse(text, {"": 1.0}, "a distance such as 25 or 0.08", least="a number from 0 on")


def _parse(text: str, units: dict[str, float], wanted: str, least: str = "positive") -> float:
    match = re.fullmatch(r"\s*([-+]?(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15}))\s*([A-Za-z]*)\s*", text)
    if not match or match[2].lower() not in units:
        raise BudgetError(f"budget {text!r} is not {wanted}")
    value = float(match[1]) * units[match[2].lower()]
    if value < 0 or (value == 0 and least == "positive"):
        raise BudgetError(f"budget {text!r} is not {least}: give {wanted}")
    return value
