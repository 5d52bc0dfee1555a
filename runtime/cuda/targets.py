"""Compute capabilities: what runs where, and how much shared memory there is."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Shared memory that one block may have, in bytes, by compute capability; others have what all have.
SHARED_BYTES = {(7, 5): 64 << 10, (8, 0): 163 << 10, (8, 6): 99 << 10, (8, 7): 163 << 10, (8, 9): 99 << 10}
SHARED_BYTES |= {(9, 0): 227 << 10, (10, 0): 227 << 10, (10, 3): 227 << 10, (11, 0): 227 << 10, (12, 0): 99 << 10}
SHARED_BYTES |= {(12, 1): 99 << 10}
_LEAST_SHARED = 48 << 10
# Systems on a chip, whose kernels are binary compatible with no other device's.
_CHIPS = {(7, 2), (8, 7), (10, 1), (11, 0)}
# From here on kernels use what only their own architecture has (sm_90a, sm_120a).
_FIRST_SPECIFIC = (9, 0)


def capability(target: str) -> tuple[int, int]:
    """``sm_120`` -> (12, 0). Raises ValueError."""
    found = re.fullmatch(r"sm_(\d+)(\d)", target)
    if not found:
        raise ValueError(f"{target!r} is no compute capability such as sm_89")
    return int(found[1]), int(found[2])


def shared_limit(target: str) -> int:
    """The most shared memory of one block, in bytes."""
    return SHARED_BYTES.get(capability(target), _LEAST_SHARED)


def runs_on(target: str, device: str) -> bool:
    """Whether kernels compiled for one capability run on a device of another.

    Machine code runs on devices of the same major version and an equal or higher minor one, but not between systems on a
    chip and others; from sm_90 on kernels use what is particular to the one architecture, and run on nothing else.
    """
    if target == device:
        return True
    built, has = capability(target), capability(device)
    if built >= _FIRST_SPECIFIC or built in _CHIPS or has in _CHIPS:
        return False
    return built[0] == has[0] and built[1] <= has[1]


def best_target(targets: Sequence[str], device: str) -> str | None:
    """The newest of the targets that runs on a device, None where none does."""
    return max((target for target in targets if runs_on(target, device)), key=capability, default=None)
