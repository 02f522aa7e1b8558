"""Compare carts with what their shoppers were promised, and count what was lost and what was applied twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_LINES = 20  # differences and rejections that are printed


def label(item: Mapping[str, Any]) -> str:
    """Return the name of an item of a request or a response: its product and its options."""
    return " ".join([item["product_id"], *item.get("options", {}).values()])


def quantities(cart: Mapping[str, Any]) -> Counter[str]:
    """Return the quantities in a cart of a response, by the label of the item."""
    found: Counter[str] = Counter()
    for item in cart["items"]:
        found[label(item)] += item["quantity"]
    return found


@dataclass
class Verdict:
    """The counts of a run.

    ``changes`` are acknowledged, ``cut`` requests were sent without reading the response, ``unresolved`` changes had no
    final response in time. ``lost`` and ``doubled`` count units. ``rejected`` counts other responses by kind, and
    ``errors`` carts that could not be loaded and journeys that failed.
    """

    changes: int = 0
    cut: int = 0
    unresolved: int = 0
    errors: int = 0
    comparisons: int = 0
    lost: int = 0
    doubled: int = 0
    differences: list[str] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)

    def compare(self, user_id: str, expected: Counter[str], cart: Mapping[str, Any]) -> None:
        """Count what a cart has too little or too much of. Items with a quantity of 0 are absent."""
        found = quantities(cart)
        self.comparisons += 1
        for name in sorted(expected | found):
            more = found[name] - expected[name]
            self.lost += max(-more, 0)
            self.doubled += max(more, 0)
            if more:
                self.differences.append(f"cart {user_id}: {name}: {expected[name]} expected, {found[name]} found")

    @property
    def holds(self) -> bool:
        """Whether there were changes, each with a known outcome, and all carts could be compared and were right."""
        return self.changes > 0 and not (self.lost or self.doubled or self.unresolved or self.errors)

    def __str__(self) -> str:
        lines = _first(
            [f"{name}: {count:,} x" for name, count in self.rejected.most_common()], "more kinds of rejections"
        )
        lines += _first(self.differences, "more differences")
        lines.append(f"{self.cut:,} responses cut off, {self.unresolved:,} changes unresolved, {self.errors:,} errors")
        found = f"{self.lost:,} lost, {self.doubled:,} doubled"
        return "\n".join([*lines, f"{self.changes:,} changes, {self.comparisons:,} comparisons: {found}"])


def _first(lines: list[str], what: str) -> list[str]:
    left = len(lines) - _MOST_LINES
    return lines[:_MOST_LINES] + ([f"{left:,} {what}"] if left > 0 else [])
