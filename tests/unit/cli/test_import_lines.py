"""Test which lines ``flask carts import`` accepts, one wrong member at a time."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cartsvc.carts.cart import MAX_LIMITS, MAX_VERSION
from cartsvc.carts.record import (
    CART_TTL_RANGE_MS,
    IDEMPOTENCY_TTL_RANGE_MS,
    MAX_IDEMPOTENCY_KEYS,
    Policy,
)
from cartsvc.carts.validation import NewItem
from cartsvc.errors import SettingsError
from cartsvc.settings import Settings
from tests.support.carts_cli import NONE, CartsCli, good_line
from tests.support.services import make_service

# ---- lines that are wrong ----


_ABSENT = object()
WRONG: list[tuple[str, Any, str]] = [  # the place where the line is made wrong, how, and the place that is named
    ("/format", 2, "/format"),
    ("/format", _ABSENT, ""),
    ("/more", 1, ""),
    ("/user_id", "..", "/user_id"),
    ("/user_id", "a b", "/user_id"),
    ("/user_id", 7, "/user_id"),
    ("/expires_at", "2026-03-01T03:04:05.678Z", "/expires_at"),
    ("/expires_at", "2026-01-03T03:04:05.678Z", "/expires_at"),
    ("/expires_at", 1_767_323_045_678, "/expires_at"),
    ("/expires_at", "2026-02-01", "/expires_at"),
    ("/cart", _ABSENT, ""),
    ("/cart", [], "/cart"),
    ("/cart", None, "/seal"),
    ("/cart/etag", 'a"b', "/cart/etag"),
    ("/cart/etag", "a\n", "/cart/etag"),
    ("/cart/etag", "", "/cart/etag"),
    ("/cart/version", 0, "/cart/version"),
    ("/cart/version", 1.5, "/cart/version"),
    ("/cart/version", True, "/cart/version"),
    ("/cart/version", 1, "/cart/updated_at"),  # it was changed a millisecond after it was created
    ("/cart/version", MAX_VERSION + 1, "/cart/version"),
    ("/cart/version", 2**53 - 1, "/cart/version"),
    ("/cart/version", 2**70, "/cart/version"),
    ("/cart/more", 1, "/cart"),
    ("/cart/currency", "euro", "/cart/items/0/currency"),
    ("/cart/currency", None, "/cart/items/0/currency"),
    ("/cart/created_at", "2026-13-02T03:04:05.678Z", "/cart/created_at"),
    ("/cart/created_at", "2026-01-02T03:04:05.678", "/cart/created_at"),
    ("/cart/created_at", "2026-01-02T03:04:05.678+00:00", "/cart/created_at"),
    ("/cart/created_at", "2026-01-02T03:04:05.6789Z", "/cart/created_at"),
    ("/cart/created_at", "2026-01-02T03:04:05Z", "/cart/created_at"),
    ("/cart/created_at", None, "/cart/created_at"),
    ("/cart/created_at", "1969-12-31T23:59:59.999Z", "/cart/created_at"),
    ("/cart/created_at", "2026-01-03T03:04:05.680Z", "/cart/updated_at"),
    ("/cart/updated_at", "2026-01-01T03:04:05.677Z", "/cart/updated_at"),
    ("/cart/expires_at", "2026-01-02T03:04:06.678Z", "/cart/expires_at"),  # 999 ms later
    ("/cart/expires_at", "2035-12-31T03:04:05.680Z", "/cart/expires_at"),  # 3650 days and 1 ms later
    ("/cart/expires_at", "9999-12-31T23:59:59.999Z", "/cart/expires_at"),
    ("/cart/expires_at", "2026-01-02T03:04:05.678Z", "/cart/expires_at"),
    ("/cart/items/0/item_id", "cup", "/cart/items/0/item_id"),
    ("/cart/items/1/item_id", "~8c05560463916580", "/cart/items/1/item_id"),
    ("/cart/items/1/options/size", "L", "/cart/items/1/item_id"),
    ("/cart/items/1/options/size", "\x00", "/cart/items/1/options/size"),
    ("/cart/items/1/options/size", 3, "/cart/items/1/options"),
    ("/cart/items/1/options", [["size", "M"]], "/cart/items/1/options"),
    ("/cart/items/0/product_id", "", "/cart/items/0/product_id"),
    ("/cart/items/0/quantity", 0, "/cart/items/0/quantity"),
    ("/cart/items/0/quantity", -1, "/cart/items/0/quantity"),
    ("/cart/items/0/quantity", 10**9 + 1, "/cart/items/0/quantity"),
    ("/cart/items/0/quantity", 2**70, "/cart/items/0/quantity"),
    ("/cart/items/0/quantity", "2", "/cart/items/0/quantity"),
    ("/cart/items/0/unit_price", -1, "/cart/items/0/unit_price"),
    ("/cart/items/0/unit_price", None, "/cart/currency"),
    ("/cart/items/0/line_total", 1, "/cart/items/0"),
    ("/cart/items/0/added_at", 1, "/cart/items/0/added_at"),
    ("/cart/items/0/added_at", "2026-01-03T03:04:05.680Z", "/cart/items/0/added_at"),
    ("/seal/target", ".", "/seal/target"),
    ("/seal/target", "alice", "/seal/target"),
    ("/seal/strategy", "both", "/seal/strategy"),
    ("/seal/merge_id", "", "/seal/merge_id"),
    ("/seal/at", "2026-01-01T03:04:05.678Z", "/seal/at"),
    ("/seal/at", "2026-02-01T03:04:05.679Z", "/seal/at"),  # the cart expires then
    ("/keys/0/key", "", "/keys/0/key"),
    ("/keys/0/key", "@", "/keys/0/key"),
    ("/keys/0/key", "AAAAAAAAAAAAAAAAAAAA", "/keys/0/key"),
    ("/keys/0/request", "AAAAAAAAAAAAAAAAAAAAAAAA", "/keys/0/request"),
    ("/keys/0/status", 404, "/keys/0/status"),
    ("/keys/0/status", 202, "/keys/0/status"),
    ("/keys/0/status", 299, "/keys/0/status"),
    ("/keys/0/at", "2026-01-03T03:04:05.680Z", "/keys/0/at"),
    ("/keys/0/at", "2025-12-03T03:04:05.679Z", "/keys/0/at"),  # 30 days before the cart's last change
    ("/marks/0/source", "a/b", "/marks/0/source"),
    ("/marks/0/source", "alice", "/marks/0/source"),
    ("/marks/0/done", 1, "/marks/0/done"),
    ("/marks/0/at", "2026-01-03T03:04:05.680Z", "/marks/0/at"),
    ("/marks/0/source_expires_at", "2026-02-02T03:04:05.678Z", "/expires_at"),
    ("/marks/0/source_expires_at", "2025-12-31T03:04:05.678Z", "/marks/0/source_expires_at"),
    ("/marks/0/source_expires_at", "2036-01-01T03:04:05.680Z", "/marks/0/source_expires_at"),
    ("/marks/0/source_expires_at", "9999-12-31T23:59:59.999Z", "/marks/0/source_expires_at"),
]


def _changed(line: dict[str, Any], pointer: str, value: Any) -> dict[str, Any]:
    part: Any = line
    *path, last = [int(each) if each.isdigit() else each for each in pointer[1:].split("/")]
    for each in path:
        part = part[each]
    if value is _ABSENT:
        del part[last]
    else:
        part[last] = value
    return line


def test_the_line_to_be_made_wrong_is_right(other: CartsCli) -> None:
    """Otherwise the next test would prove nothing."""
    imported = other.run("import", stdin=json.dumps(good_line()))
    assert imported.exit_code == 0
    assert set(other.content()) == {"alice"}


@pytest.mark.parametrize(("pointer", "value", "named"), WRONG)
def test_a_wrong_line_is_named_and_left_out(cli: CartsCli, pointer: str, value: Any, named: str) -> None:
    """Its number and the place of the fault are printed; the line is skipped, and the lines around it are imported."""
    line = good_line()
    around = [dict(line, user_id=user_id) for user_id in ("before", "after")]
    wrong = json.dumps(_changed(good_line(), pointer, value))
    imported = cli.run("import", stdin="\n".join([json.dumps(around[0]), "", wrong, json.dumps(around[1])]))
    assert imported.exit_code == 1
    assert set(cli.content()) == {"before", "after"}
    message, summary = imported.stderr.splitlines()
    assert message.startswith(f"line 3: {named} " if named else "line 3: ")
    assert "2 imported" in summary
    assert "1 invalid" in summary


@pytest.mark.parametrize(
    "wrong",
    [
        b"{",
        b'{"format":1',
        b"[]",
        b"3",
        b"\xff",
        b'{"user_id":"\xff"}',
        b"\xef\xbb\xbf{}",
        b"[" * 9_999,
        b"{}{}",
        b"null",
    ],
)
def test_what_is_no_json_is_a_wrong_line(cli: CartsCli, wrong: bytes) -> None:
    """As are a line cut short and a value of another kind."""
    imported = cli.run("import", stdin=wrong + b"\n" + json.dumps(good_line()).encode())
    assert imported.exit_code == 1
    assert imported.stderr.startswith("line 1: ")
    assert set(cli.content()) == {"alice"}


def test_two_items_that_are_the_same_are_wrong(cli: CartsCli) -> None:
    """A cart has an item once."""
    line = good_line()
    line["cart"]["items"].append(line["cart"]["items"][0])
    imported = cli.run("import", stdin=json.dumps(line))
    assert imported.stderr.startswith("line 1: /cart/items Two items have")
    assert cli.content() == {}


def test_a_record_of_nothing_is_wrong(cli: CartsCli) -> None:
    """A record holds a cart, a key or a mark."""
    line = good_line() | {"cart": None, "seal": None, "keys": [], "marks": []}
    assert cli.run("import", stdin=json.dumps(line)).stderr.startswith("line 1: A record has")
    assert cli.content() == {}


def test_a_line_without_an_end_is_not_read_into_memory(cli: CartsCli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with a line longer than any record is not a backup, so the import ends there."""
    monkeypatch.setattr("cartsvc.cli.commands._MAX_LINE_BYTES", 100)
    imported = cli.run("import", stdin=b"\n" + b" " * 101)
    assert imported.exit_code == 1
    assert imported.stderr == "Error: line 2: Longer than any record. The file is not a backup.\n"


def test_the_limits_here_are_not_those_of_where_it_comes_from(cli: CartsCli, other: CartsCli) -> None:
    """A cart that was within the limits when it was filled comes in, as it would stay if they were lowered."""
    line = NewItem("mug", 5_000, {"engraving": "x" * 2_000}, 10**11, "EUR")
    make_service(cli.store, cli.clock, policy=Policy(limits=MAX_LIMITS)).add("alice", [line], conditions=NONE)
    assert other.run("import", stdin=cli.run("export").stdout_bytes).exit_code == 0
    assert other.content() == cli.content()


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("CARTSVC_MAX_QUANTITY", MAX_LIMITS.max_quantity),
        ("CARTSVC_MAX_ITEMS", MAX_LIMITS.max_items),
        ("CARTSVC_MAX_CART_BYTES", MAX_LIMITS.max_cart_bytes),
        ("CARTSVC_MAX_OPTIONS", MAX_LIMITS.max_options),
        ("CARTSVC_MAX_OPTION_NAME", MAX_LIMITS.max_option_name),
        ("CARTSVC_MAX_OPTION_VALUE", MAX_LIMITS.max_option_value),
        ("CARTSVC_MAX_UNIT_PRICE", MAX_LIMITS.max_unit_price),
        ("CARTSVC_MAX_METADATA", MAX_LIMITS.max_metadata),
        ("CARTSVC_MAX_METADATA_VALUE", MAX_LIMITS.max_metadata_value),
        ("CARTSVC_IDEMPOTENCY_TTL", IDEMPOTENCY_TTL_RANGE_MS[1] // 1000),
        ("CARTSVC_IDEMPOTENCY_KEYS", MAX_IDEMPOTENCY_KEYS),
        ("CARTSVC_CART_TTL", CART_TTL_RANGE_MS[1] // 1000),
        ("CARTSVC_GUEST_TTL", CART_TTL_RANGE_MS[1] // 1000),
    ],
)
def test_no_setting_makes_what_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, name: str, bound: int) -> None:
    """The bounds of a line are those of the settings."""
    monkeypatch.setenv(name, str(bound))
    Settings.from_env()
    monkeypatch.setenv(name, str(bound + 1))
    with pytest.raises(SettingsError):
        Settings.from_env()
