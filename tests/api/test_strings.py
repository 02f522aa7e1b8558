"""Holds the document and the service to one rule for every string: what the schema allows is accepted, and no more.

The schema is read by Node, because JSON Schema's patterns are those of ECMA-262.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cartsvc.carts.cart import MAX_LIMITS
from cartsvc.carts.strings import CURRENCY, GROWN, PRODUCT_ID, STORED_PRODUCT_ID, USER_ID, StringRule
from cartsvc.carts.validation import option_rules
from tests.support.api_client import make_client
from tests.support.node import Ecma, ecma

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.api_client import Client

_OF_USER_IDS = "abcXYZ019._~@:+|-"
_ODD = [
    *"\0\t\n\r\x0b\x0c\x1b\x1f \x7f\x80\x85\x9f\xa0\xad",
    *"\u0301\u0958\u1680\u2028\u2029\u200b\u200c\u200d\u202e\u3000\ufb2c\ufe0f\ufeff",  # separators, format, combining
    *"\ud7ff\ud800\udbff\udc00\udfff\ue000\uf8ff\ufdd0\uffff",  # surrogates and their neighbours, private use
    *"\U00010000\U0001f6d2\U000e0041\U000f0000\U0010ffff",
    "\u0378",  # unassigned
]


def _as_sent(text: str) -> str:
    """Return the text as JSON carries it: two surrogates that make a pair are one character."""
    return str(json.loads(json.dumps(text)))


_characters = st.one_of(st.sampled_from(_ODD), st.sampled_from(_OF_USER_IDS), st.characters(codec=None))
# What NFC adds to a text may exceed a limit, which JSON Schema cannot express (docs/concepts.md).
_counted = _characters.filter(lambda each: not unicodedata.combining(each) and each not in GROWN)
_lengths = st.sampled_from([63, 64, 65, 127, 128, 129, 254, 255, 256, 257])
_ends = st.sampled_from(["", "\n"])
texts = st.one_of(
    st.text(_characters, max_size=8),
    st.text(_OF_USER_IDS, max_size=8),
    st.from_regex(r"\A[A-Z]{2,4}\n?\Z"),
    st.builds(lambda character, length, end: character * length + end, _counted, _lengths, _ends),
).map(_as_sent)


@pytest.fixture(scope="module")
def node() -> Iterator[Ecma]:
    with ecma() as running:
        yield running


@pytest.fixture(scope="module")
def client() -> Client:
    return make_client()


def _put(client: Client, item: dict[str, object], **more: object) -> int:
    body = {"items": [{"product_id": "p", "quantity": 1} | item], **more}
    return client.put("/cart/u", data=json.dumps(body), content_type="application/json").status_code


def _merge(client: Client, text: str) -> int:
    body = json.dumps({"from_user_id": text})
    return client.post("/cart/the-target/merge", data=body, content_type="application/json").status_code


def _path(client: Client, text: str) -> int:
    if any("\ud800" <= each <= "\udfff" for each in text):
        return 422  # a URL has no way to write it
    return client.get("/cart/" + quote(text, safe="")).status_code


def _member(schema: str, *steps: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def find(document: dict[str, Any]) -> dict[str, Any]:
        found = document["components"]["schemas"][schema]["properties"]
        for each in steps:
            found = found[each]
        return dict(found)

    return find


def _of_path(document: dict[str, Any]) -> dict[str, Any]:
    return dict(document["components"]["parameters"]["UserId"]["schema"])


# The strings of requests: where the document states what each may be, and a request that contains one.
PLACES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], Callable[[Client, str], int]]] = {
    "product_id": (_member("ItemInput", "product_id"), lambda client, text: _put(client, {"product_id": text})),
    "name": (
        _member("ItemInput", "options", "propertyNames"),
        lambda client, text: _put(client, {"options": {text: "v"}}),
    ),
    "value": (
        _member("ItemInput", "options", "additionalProperties"),
        lambda client, text: _put(client, {"options": {"n": text}}),
    ),
    "currency": (
        _member("ItemInput", "currency"),
        lambda client, text: _put(client, {"unit_price": 1, "currency": text}),
    ),
    "top currency": (
        _member("CartInput", "currency"),
        lambda client, text: _put(client, {"unit_price": 1}, currency=text),
    ),
    "from_user_id": (_member("MergeInput", "from_user_id"), _merge),
    "user_id": (_of_path, _path),
}


@pytest.mark.parametrize("place", PLACES)
@given(text=texts)
@example(text="")
@example(text=".")
@example(text="..")
@example(text="...")
@example(text="EUR\n")
@example(text="\ud83d")
@example(text="\U0001f6d2" * 128)
def test_the_service_accepts_what_the_document_allows_and_no_more(
    client: Client, node: Ecma, place: str, text: str
) -> None:
    """Whatever the string: private, unassigned, format, separator and combining characters, and lone surrogates."""
    find, send = PLACES[place]
    schema = find(client.contract.document)
    status = send(client, text)
    assert status in {200, 201, 400, 404, 405, 422}
    assert (status in {200, 201}) == node.allows(schema, text)


# Of rules that differ in their lengths only, one.
_RULES = {rule.pattern: rule for rule in (USER_ID, CURRENCY, PRODUCT_ID, STORED_PRODUCT_ID, *option_rules(MAX_LIMITS))}


@pytest.mark.parametrize("rule", _RULES.values(), ids=map(str, range(len(_RULES))))
def test_a_pattern_means_the_same_in_python_and_in_node(node: Ecma, rule: StringRule) -> None:
    """For each code point of Unicode, alone: Python's ``re`` and ECMA-262 read one pattern, and must read it alike."""
    inside = [rule.allows(chr(code)) for code in range(sys.maxunicode + 1)]
    edges = [code for code, (before, now) in enumerate(zip([False, *inside], inside, strict=False)) if before != now]
    assert node.edges(str(rule.json_schema()["pattern"])) == edges


def test_no_pattern_of_the_document_contains_a_surrogate(client: Client) -> None:
    """Validators in Rust refuse a whole document for one."""
    document = json.dumps(client.get("/openapi.json").json, indent=0)
    patterns = [line.lower() for line in document.splitlines() if line.startswith('"pattern"')]
    assert len(patterns) > 8
    assert [each for each in patterns if "ud800" in each or "udfff" in each] == []
