# ruff: noqa: RUF001, RUF002 - the page has these signs
"""Hold the arithmetic of docs/capacity.md, and its figures to the pages that they come from."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

_DOCS = Path(__file__).parents[2] / "docs"
_PAGE = (_DOCS / "capacity.md").read_text()
_NUMBER = r"[\d,]*\d(?:\.\d+)?"
_CALCULATIONS = re.findall(rf"({_NUMBER}(?: \w+)?(?: [×÷] {_NUMBER}(?: \w+)?)+) = ({_NUMBER})", _PAGE)
_CARTS = 100_000_000


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def _result(calculation: str) -> float:
    """Return the result of "2 carts × 3 ÷ 4 s"; words are units."""
    first, *rest = re.findall(rf"([×÷]?) ?({_NUMBER})", calculation)
    result = _value(first[1])
    for sign, number in rest:
        result = result * _value(number) if sign == "×" else result / _value(number)
    return result


@pytest.mark.parametrize(("calculation", "stated"), _CALCULATIONS, ids=lambda text: text)
def test_a_calculation_is_right(calculation: str, stated: str) -> None:
    """To the digits that are shown."""
    digits = len(stated.partition(".")[2])
    assert round(_result(calculation), digits) == _value(stated)


def test_the_calculations_are_found() -> None:
    """With units, and with several signs."""
    assert len(_CALCULATIONS) >= 6
    assert math.isclose(_result("1,000 carts × 20 requests ÷ 10 s"), 2_000)


def test_the_sizes_of_stores_follow_from_their_rules() -> None:
    """Bytes of a cart, times the factor of the rule, times 100 million; stores.md has the same rules and sizes."""
    rows = re.findall(
        r"^\| (Valkey|PostgreSQL|LMDB) \| ([\d,]+) \| .*?× bytes × ([\d.]+) \| (\d+) GB", _PAGE, re.MULTILINE
    )
    assert [row[0] for row in rows] == ["Valkey", "PostgreSQL", "LMDB"]
    for _, bytes_each, factor, total in rows:
        assert round(_value(bytes_each) * float(factor) * _CARTS / 1e9) == int(total)
    stores = (_DOCS / "stores.md").read_text()
    (sizes,) = re.findall(
        r"^\| 5 items, and 5 keys \| ([\d.]+) KB \| ([\d.]+) KB \| ([\d.]+) KB \|$", stores, re.MULTILINE
    )
    lmdb, valkey, postgresql = (float(each) * 1000 for each in sizes)
    for stated, row in ((valkey, rows[0]), (postgresql, rows[1]), (lmdb, rows[2])):
        assert abs(stated - _value(row[1])) < 100
    for factor, rule in (("1.5", "`maxmemory` |"), ("2", "`map_size` ="), ("2", "The table needs")):
        assert re.search(rf"{re.escape(rule)}.*in the table above × {factor}\b", stores), rule
