"""Compute medians, ratios and spreads over the rounds of a run."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def ratio(measured: Sequence[float], base: Sequence[float]) -> float | None:
    """Return the median of the ratios within each round; None without rounds, or if a base is 0.

    Other work on the machine slows all servers of a round alike, so it disappears from their ratio. Raises ValueError
    if the two have different numbers of rounds.
    """
    pairs = list(zip(measured, base, strict=True))
    if not pairs or not all(below for _, below in pairs):
        return None
    return median(above / below for above, below in pairs)


def percent(share: float) -> str:
    """Return a share as text."""
    return f"{100 * share:.0f} %"


def spread(measured: Sequence[float]) -> float:
    """Return the difference of the highest and the lowest round, as a fraction of the median; 0 without rounds."""
    middle = median(measured) if measured else 0
    return (max(measured) - min(measured)) / middle if middle else 0
