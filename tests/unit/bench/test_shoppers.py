"""The parts of ``make load`` that send no requests: the verdict, the latencies and their picture, tokens."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench.processes import Broken
from bench.shoppers.caller import Tokens
from bench.shoppers.latencies import Latencies, percentile
from bench.shoppers.verdict import Verdict

_SVG = "{http://www.w3.org/2000/svg}"


def _cart(**items: int) -> dict[str, Any]:
    return {"items": [{"product_id": name, "options": {}, "quantity": quantity} for name, quantity in items.items()]}


# ---- the verdict ----


def test_a_right_cart_is_no_difference() -> None:
    """An item whose quantity must be 0 is absent, and options belong to what an item is."""
    verdict = Verdict(changes=1)
    cart = {"items": [{"product_id": "tea", "options": {"size": "S"}, "quantity": 2}]}
    verdict.compare("alice", Counter({"tea S": 2, "tea": 0}), cart)
    assert verdict.holds
    assert str(verdict).endswith("1 changes, 1 comparisons: 0 lost, 0 doubled")


def test_lost_and_doubled_units_are_counted_and_named() -> None:
    """One cart may have both; an item that must not be there is one too much."""
    verdict = Verdict(changes=1_234)
    verdict.compare("alice", Counter(mug=3, tea=1), _cart(mug=1, tea=2, hat=1))
    assert (verdict.lost, verdict.doubled, verdict.holds) == (2, 2, False)
    assert str(verdict).splitlines() == [
        "cart alice: hat: 0 expected, 1 found",
        "cart alice: mug: 3 expected, 1 found",
        "cart alice: tea: 1 expected, 2 found",
        "0 responses cut off, 0 changes unresolved, 0 errors",
        "1,234 changes, 1 comparisons: 2 lost, 2 doubled",
    ]


@pytest.mark.parametrize("counts", [{"changes": 0}, {"unresolved": 1}, {"errors": 1}, {"lost": 1}, {"doubled": 1}])
def test_a_run_that_proves_nothing_does_not_hold(counts: dict[str, int]) -> None:
    """Without changes, with an unknown outcome, or with a cart that could not be compared."""
    assert not Verdict(**{"changes": 1, **counts}).holds


def test_many_differences_are_cut_short() -> None:
    """Twenty lines, and the number of the others; the same for rejections, the most frequent first."""
    verdict = Verdict(rejected=Counter(a=1, b=2))
    verdict.compare("alice", Counter(), _cart(**{f"sku-{n:02}": 1 for n in range(23)}))
    lines = str(verdict).splitlines()
    assert lines[:2] == ["b: 2 x", "a: 1 x"]
    assert len(lines) == 2 + 20 + 3
    assert lines[-3] == "3 more differences"


# ---- latencies ----


def test_percentiles_are_times_of_requests() -> None:
    """The time within which that share had a response."""
    times = Counter({1.0: 50, 2.0: 45, 3.0: 4, 9.0: 1})
    assert [percentile(times, share) for share in (0.5, 0.95, 0.99, 1)] == [1, 2, 3, 9]
    with pytest.raises(ValueError, match="no request"):
        percentile(Counter(), 0.5)


def _measured(seconds: int) -> Latencies:
    latencies = Latencies()
    for second in range(seconds):
        for kind in ("view cart", "add item", "sign in"):
            latencies.add(kind, at_s=second + 0.5, took_ms=1.23456 + second, failed=second == 0)
    return latencies


def test_the_table_has_a_row_for_each_kind() -> None:
    """Times have three digits; failures are counted."""
    _, _, first, *others = _measured(2).table().splitlines()
    assert [cell.strip() for cell in first.split("|")[1:-1]] == ["add item", "2", "1", "1.2", "2.2", "2.2", "2.2"]
    assert len(others) == 2


@pytest.mark.parametrize(("seconds", "points"), [(2, 2), (60, 60), (61, 31), (3_600, 60)])
def test_the_picture_shows_the_whole_run(seconds: int, points: int) -> None:
    """Three lines for each kind, of at most sixty points each, all within the picture."""
    svg = ET.fromstring(_measured(seconds).draw("a < b"))  # noqa: S314 - our own text
    lines = [
        [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        for line in svg.iter(f"{_SVG}polyline")
    ]
    assert [len(line) for line in lines] == [points] * 9
    assert 0 < min(x for line in lines for x, _ in line) < max(x for line in lines for x, _ in line) < 960
    assert max(y for line in lines for _, y in line) < float(svg.attrib["height"])


def test_a_run_without_requests_has_a_picture() -> None:
    """An empty one."""
    assert "nothing" in Latencies().draw("nothing")


# ---- tokens ----


def test_a_token_is_kept_until_it_is_to_be_renewed() -> None:
    """The command gets the user id as its last argument."""
    tokens = Tokens(f"{sys.executable} -c 'import sys, uuid; print(sys.argv[1], uuid.uuid4())'")
    first = tokens.of("alice")
    assert f"{first}".startswith("alice ")
    assert tokens.of("alice") == first != tokens.of("alice", renew=True)
    assert tokens.of("bob") != first


def test_no_command_gives_no_token() -> None:
    """As without authentication."""
    assert (bool(Tokens("")), Tokens("").of("alice")) == (False, None)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("false", "returned non-zero exit status 1"),
        ("sh -c 'echo much >&2; echo no key >&2; exit 1'", "no key"),
        ("./no-such", "No such file"),
    ],
)
def test_a_command_that_fails_is_an_error(command: str, reason: str) -> None:
    """With the last line of its messages."""
    with pytest.raises(Broken, match=f"no token for alice: .*{reason}"):
        Tokens(command).of("alice")
