"""What calls of an engine have taken lately, to tell what the next one will take."""

from __future__ import annotations

WEIGHT = 0.3  # of the newest figure: after five calls the older ones count for a sixth


class Costs:
    """Milliseconds by engine and rows of a call, exponentially weighted."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, float]] = {}

    def observe(self, engine: str, rows: int, elapsed_ms: float) -> None:
        known = self._known.setdefault(engine, {})
        known[rows] = elapsed_ms if rows not in known else (1 - WEIGHT) * known[rows] + WEIGHT * elapsed_ms

    def expected_ms(self, engine: str, rows: int, first_guess_ms: float) -> float:
        """Of a call of so many rows. What was not seen is taken from the nearest smaller call, in proportion: no more than
        that on any hardware, so that a batch which is tried is never a bad surprise. first_guess_ms: of one row, where
        nothing was seen."""
        known = self._known.get(engine, {})
        smaller = [seen for seen in known if seen <= rows]
        if smaller:
            nearest = max(smaller)
            return known[nearest] * rows / nearest
        if known:
            return known[min(known)]
        return first_guess_ms * rows
