"""Tests of rejected input: bodies, members and paths that are wrong, each with a 4xx and the place of the fault."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import BadRequest

from cartsvc.api.body import parse_json
from cartsvc.carts.cart import Limits
from tests.support.api_client import JSON, Client, make_client, pointers, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from werkzeug.test import TestResponse

INVALID = (422, "invalid-request")
MALFORMED = (400, "bad-request")
SKU = {"product_id": "sku-1", "quantity": 2}
WHOLE = SKU | {"options": {"size": "M"}, "unit_price": 1999, "currency": "EUR"}  # every member there is
KIND = {"product_id": str, "quantity": int, "options": dict, "unit_price": int, "currency": str}


class Call(NamedTuple):
    """A call that takes a body; ``pointer`` is where the members of an item are in it."""

    method: str
    path: str
    place: str = ""

    def body(self, item: Any) -> Any:
        """Return a body with this item."""
        if self.method == "PATCH" and isinstance(item, dict):
            return {name: value for name, value in item.items() if name not in {"product_id", "options"}}
        return {"items": [item]} if self.place else item


ADD = Call("POST", "/cart/alice")
PUT = Call("PUT", "/cart/alice", "/items/0")
ADD_ITEMS = Call("POST", "/cart/alice/items", "/items/0")
PATCH = Call("PATCH", "/cart/alice/items/sku-1")
CALLS = pytest.mark.parametrize("call", [ADD, PUT, ADD_ITEMS, PATCH], ids=["add", "put", "add-items", "patch"])
MERGE = Call("POST", "/cart/alice/merge")  # its members are its own: see test_merge.py
BODIES = pytest.mark.parametrize(
    "call", [ADD, PUT, ADD_ITEMS, PATCH, MERGE], ids=["add", "put", "add-items", "patch", "merge"]
)
LINES = pytest.mark.parametrize("call", [ADD, PUT, ADD_ITEMS], ids=["add", "put", "add-items"])


@pytest.fixture(scope="module")
def shared() -> Client:
    """A client for all tests that change nothing: an app each would take longer than they do."""
    return make_client()


@pytest.fixture
def client(shared: Client) -> Iterator[Client]:
    """A client of an app where alice has a cart; it must be the same cart after the test."""
    made = shared.put("/cart/alice", json={"items": [SKU]})
    yield shared
    now = shared.get("/cart/alice")
    assert (now.json, now.headers["ETag"]) == (made.json, made.headers["ETag"])


def _send(client: Client, call: Call, data: bytes) -> TestResponse:
    return client.open(call.path, method=call.method, data=data, content_type=JSON)


def _refused(client: Client, call: Call, item: Any) -> list[str]:
    """Where the faults are, less where the item is."""
    response = client.open(call.path, method=call.method, json=call.body(item))
    assert problem(response) == INVALID
    assert all(pointer.startswith(call.place) for pointer in pointers(response))
    return [pointer.removeprefix(call.place) for pointer in pointers(response)]


# ---- not JSON ----


@BODIES
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"nope",
        b'{"quantity": 2',
        b'{"quantity": 2,}',
        b"{'quantity': 2}",
        b"{quantity: 2}",
        b'{"quantity": 2} x',
        b'{"quantity": 2}{}',
        b'{"quantity": 2}\x00',
        b'{"quantity": 02}',
        b'{"quantity": +2}',
        b'{"quantity": .5}',
        b'{"quantity": 0x2}',
        b'{"quantity": 2} // two',
        b'{"quantity": NaN}',
        b'{"quantity": Infinity}',
        b'{"quantity": -Infinity}',
        b'{"quantity": 1e999}',
        b'\xef\xbb\xbf{"quantity": 2}',
        '{"quantity": 2}'.encode("utf-16"),
        '{"quantity": 2}'.encode("utf-32"),
        b'{"product_id": "\xff"}',
        b'{"product_id": "\xc0\xaf"}',
        b'{"product_id": "\xed\xa0\x80"}',
        b'{"\xff": 1}',
        b'{"product_id": "a\x00b"}',
        b'{"product_id": "a\nb"}',
        b'{"product_id": "\\x41"}',
        b"\x1f\x8b\x08\x00",
        b"product_id=sku-1&quantity=2",
    ],
    ids=repr,
)
def test_not_json(client: Client, call: Call, data: bytes) -> None:
    """What RFC 8259 does not call JSON in UTF-8 is 400: NaN, a byte order mark and trailing garbage too."""
    assert problem(_send(client, call, data)) == MALFORMED


@BODIES
@pytest.mark.parametrize("text", ["\\ud800", "\\udfff", "a\\ud83d", "\\ude00\\ud83d", "\\ud800x", "\\uD800\\u0041"])
def test_lone_surrogates(client: Client, call: Call, text: str) -> None:
    """Trap: a lone surrogate cannot be encoded, so it would end as 500. As value and as name it is 400."""
    for data in (f'{{"product_id": "{text}", "quantity": 2}}', f'{{"{text}": 2}}'):
        assert problem(_send(client, call, data.encode())) == MALFORMED


@BODIES
@pytest.mark.parametrize(
    "data",
    [
        '{"quantity": 1, "quantity": 2}',
        '{"quantity": 2, "quantity": 2}',
        '{"quantity": 2, "quant\\u0069ty": 2}',
        '{"items": [{"quantity": 1, "quantity": 2}]}',
        '{"options": {"size": "M", "size": "L"}}',
        '{"items": [{"options": {"size": "M", "size": "M"}}]}',
        '{"item_id": {"deep": [{"a": 1, "a": 2}]}}',
    ],
)
def test_repeated_names(client: Client, call: Call, data: str) -> None:
    """Trap: the JSON reader takes duplicate keys. 400, however deep they are and however they are spelt."""
    assert problem(_send(client, call, data.encode())) == MALFORMED


@pytest.mark.parametrize("call", [ADD, PUT, ADD_ITEMS, PATCH], ids=["add", "put", "add-items", "patch"])
@pytest.mark.parametrize("digits", ["9" * 5000, "-" + "9" * 5000, "9" * 100_000, "9" * 5000 + ".0", "9" * 5000 + "e5"])
def test_integers_of_thousands_of_digits(client: Client, call: Call, digits: str) -> None:
    """Trap: Python does not convert 5000 digits (ValueError), which would end as 500. It is 400."""
    data = json.dumps(call.body(WHOLE | {"quantity": 1234567})).replace("1234567", digits)
    assert problem(_send(client, call, data.encode())) == MALFORMED


@CALLS
@pytest.mark.parametrize("member", ["quantity", "unit_price"])
@pytest.mark.parametrize("number", [10**4000 - 1, -(10**4000), 2**63, 2**64, -(2**63) - 1, 10**300])
def test_integers_past_every_bound(client: Client, call: Call, member: str, number: int) -> None:
    """Trap: each number has an upper bound. What Python can still convert is 422, with its place."""
    assert _refused(client, call, WHOLE | {member: number}) == [f"/{member}"]


@BODIES
@pytest.mark.parametrize("unit", [b"[", b'{"a":', b'[{"a":', b'{"items":[', b'{"options":'])
@pytest.mark.parametrize("closed", [False, True])
def test_deep_nesting(call: Call, unit: bytes, *, closed: bool) -> None:
    """Trap: 200,000 levels are a RecursionError, which would end as 500. 413 by their size, and 400 where that fits."""
    data = unit * 200_000
    if closed:
        data += b"1" + data.replace(b"[", b"]").replace(b"{", b"}").translate(None, b'"aitemsopn:')[::-1]
    assert problem(_send(make_client(), call, data)) == (413, "content-too-large")
    assert problem(_send(make_client(max_body=2**24), call, data)) == MALFORMED


@pytest.mark.parametrize("depth", [500, 900, 990, 1000, 1010, 1100, 2000, 10_000])
def test_nesting_around_the_limit_of_the_reader(client: Client, depth: int) -> None:
    """However deep a body is, it is 4xx: nothing behind the reader falls over what it let through."""
    data = b'{"items": ' + b"[" * depth + b"]" * depth + b', "zap": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
    assert _send(client, PUT, data).status_code in {400, 422}


# ---- not a body at all ----


@BODIES
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": ""},
        {"Content-Type": "nonsense"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "text/json"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/problem+json"},
        {"Content-Type": "application/merge-patch+json"},
        {"Content-Type": "application/jsonx"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": "application/json", "Content-Encoding": "identity, br"},
    ],
    ids=str,
)
@pytest.mark.parametrize("body", ["right", "wrong", "empty"])
def test_wrong_media_types(client: Client, call: Call, headers: dict[str, str], body: str) -> None:
    """Trap: a wrong Content-Type would be 422. Whatever the body is, it is 415, and without one too."""
    data = {"right": json.dumps(call.body(WHOLE)).encode(), "wrong": b"nope", "empty": b""}[body]
    response = client.open(call.path, method=call.method, data=data, headers=headers)
    assert problem(response) == (415, "unsupported-media-type")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=utf-8",
        'application/json; charset="UTF-8"',
        "application/json; charset=utf8",
        'application/json;charset="UTF8"',
        "application/json; profile=x",
    ],
)
def test_right_media_types(content_type: str) -> None:
    """Media types and charsets are case-insensitive; unknown parameters are ignored."""
    data = json.dumps(SKU).encode()
    assert make_client().post("/cart/alice", data=data, content_type=content_type).status_code == 200


@BODIES
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("over", [0, 1, 100_000])
def test_body_limit(client: Client, call: Call, *, chunked: bool, over: int) -> None:
    """Trap: MAX_CONTENT_LENGTH is set. 128 KiB are read, a byte more is 413, its length stated or not."""
    data = b"[]".ljust(131_072 + over)
    stream: dict[str, Any] = {"data": data}
    if chunked:
        stream = {
            "input_stream": io.BytesIO(data),
            "headers": {"Transfer-Encoding": "chunked"},
            "environ_overrides": {"wsgi.input_terminated": True},
        }
    response = client.open(call.path, method=call.method, content_type=JSON, **stream)
    assert problem(response) == ((413, "content-too-large") if over else INVALID)


def test_body_limit_is_a_setting() -> None:
    """CARTSVC_MAX_BODY is the limit."""
    data = json.dumps(SKU).encode().ljust(2001)
    assert _send(make_client(max_body=2001), ADD, data).status_code == 200
    assert problem(_send(make_client(max_body=2000), ADD, data)) == (413, "content-too-large")


def test_bodies_where_none_is_asked_for_are_not_looked_at(client: Client) -> None:
    """GET and DELETE ignore a body."""
    assert client.get("/cart/alice", data=b"nope", content_type="text/plain").status_code == 200
    assert problem(client.delete("/cart/bob", data=b"nope", content_type="text/plain")) == (404, "cart-not-found")


# ---- JSON of the wrong shape ----


@BODIES
@pytest.mark.parametrize("value", [[], [1], [SKU], "x", "", 3, 3.7, True, False, None], ids=json.dumps)
def test_bodies_that_are_no_object(client: Client, call: Call, value: object) -> None:
    """422, at the pointer of the whole body: the empty one."""
    response = _send(client, call, json.dumps(value).encode())
    assert (problem(response), pointers(response)) == (INVALID, [""])


_VALUES = ("3", "", 3.7, 3.0, True, False, [], ["x"], {}, {"x": 1}, [[]])


@pytest.mark.parametrize(
    ("call", "member", "value"),
    [
        (call, member, value)
        for call in (ADD, PUT, ADD_ITEMS, PATCH)
        for member, kind in KIND.items()
        if member in call.body(WHOLE) or call is not PATCH
        for value in _VALUES
        if type(value) is not kind
    ],
)
def test_types_are_strict(client: Client, call: Call, member: str, value: object) -> None:
    """Trap: Integer() takes "3", 3.7 and true. A value of another type than the member's is 422 with its place."""
    assert _refused(client, call, WHOLE | {member: value}) == [f"/{member}"]


@pytest.mark.parametrize("text", ["3.0", "30e-1", "3E0", "1e2", "3.7", "-0.0", "2.0000000000000000000001"])
@CALLS
def test_whole_numbers_are_written_as_such(client: Client, call: Call, text: str) -> None:
    """A number with a fraction or an exponent is no integer, whatever it comes to."""
    data = json.dumps(call.body(WHOLE | {"quantity": 1234567})).replace("1234567", text)
    response = _send(client, call, data.encode())
    assert (problem(response), pointers(response)) == (INVALID, [f"{call.place}/quantity"])


@LINES
@pytest.mark.parametrize("value", [3, 3.7, True, None, [], {}], ids=json.dumps)
def test_option_values_are_strings(client: Client, call: Call, value: object) -> None:
    """Anything else is 422; the pointer leads to the option, its name escaped as in RFC 6901."""
    assert _refused(client, call, SKU | {"options": {"size": "M", "a/b~c": value}}) == ["/options/a~1b~0c"]


@pytest.mark.parametrize("path", ["/cart/alice", "/cart/alice/items"])
@pytest.mark.parametrize("value", ["x", 3, True, None, {}, {"0": SKU}], ids=json.dumps)
def test_items_are_a_list(client: Client, path: str, value: object) -> None:
    """Anything else is 422, and so is leaving them out."""
    method = "PUT" if path == "/cart/alice" else "POST"
    for body in ({"items": value}, {}):
        response = client.open(path, method=method, json=body)
        assert (problem(response), pointers(response)) == (INVALID, ["/items"])


@pytest.mark.parametrize("call", [PUT, ADD_ITEMS], ids=["put", "add-items"])
@pytest.mark.parametrize("value", ["x", 3, 3.7, True, None, [], [SKU]], ids=json.dumps)
def test_items_are_objects(client: Client, call: Call, value: object) -> None:
    """The pointer of each item contains its index in the list."""
    response = client.open(call.path, method=call.method, json={"items": [SKU, value, SKU]})
    assert (problem(response), pointers(response)) == (INVALID, ["/items/1"])


@CALLS
@pytest.mark.parametrize("name", ["zap", "", "Quantity", "quantity ", "a/b~c", "\x00", "größe", "__proto__", "_schema"])
def test_unknown_members(client: Client, call: Call, name: str) -> None:
    """422, with a pointer to the member, escaped as in RFC 6901."""
    escaped = name.replace("~", "~0").replace("/", "~1")
    assert _refused(client, call, WHOLE | {name: None}) == [f"/{escaped}"]


@pytest.mark.parametrize(
    ("method", "path", "unknown"),
    [
        ("PUT", "/cart/alice", ["zap", "quantity", "product_id", "etag", "added_at", "line_total", "item_id"]),
        ("POST", "/cart/alice/items", ["zap", "user_id", "version", "metadata", "subtotal", "expires_at"]),
    ],
)
def test_unknown_members_beside_the_items(client: Client, method: str, path: str, unknown: list[str]) -> None:
    """The read-only members of a cart are known to PUT alone, those of an item in items alone."""
    for name in unknown:
        response = client.open(path, method=method, json={"items": [SKU], name: None})
        assert (problem(response), pointers(response)) == (INVALID, [f"/{name}"])


@LINES
@pytest.mark.parametrize("name", ["user_id", "version", "subtotal", "created_at", "expires_at", "etag"])
def test_unknown_members_of_an_item(client: Client, call: Call, name: str) -> None:
    """What is read-only in a cart is unknown in its items."""
    assert _refused(client, call, SKU | {name: None}) == [f"/{name}"]


def test_every_fault_is_told(client: Client) -> None:
    """One response lists all of them, each with its place; the detail contains the reasons."""
    lines = [{"product_id": "", "quantity": 0}, SKU, {"product_id": "a", "quantity": 1, "unit_price": 5}]
    response = client.put("/cart/alice", json={"items": lines})
    assert problem(response) == INVALID
    assert sorted(pointers(response)) == ["/items/0/product_id", "/items/0/quantity", "/items/2/currency"]
    response = client.put("/cart/alice", json={"items": [{"quantity": "3", "zap": 1}, 3], "currency": 3, "zip": 1})
    expected = ["/currency", "/items/0/product_id", "/items/0/quantity", "/items/0/zap", "/items/1", "/zip"]
    assert sorted(pointers(response)) == expected


@pytest.mark.parametrize(
    "body", [{f"zap{number}": 1 for number in range(5000)}, {"z" * 100_000: 1}], ids=["many", "long"]
)
def test_problems_stay_small(client: Client, body: dict[str, int]) -> None:
    """However much is wrong, the response is not many times larger: it lists the first faults and shortens pointers."""
    response = client.post("/cart/alice", json=body)
    assert problem(response) == INVALID
    assert len(response.data) < 10_000


def test_problems_of_many_lines_stay_small(client: Client) -> None:
    """As above, where it is the rules that find the faults."""
    lines = [{"product_id": "p", "quantity": 0, "unit_price": -1, "options": {f"\x00{n}": "" for n in range(5)}}] * 400
    response = client.put("/cart/alice", json={"items": lines})
    assert problem(response) == INVALID
    assert len(response.data) < 10_000


# ---- bounds: each rule once; tests/unit/carts/test_cart_limits.py has its edges ----


@LINES
@pytest.mark.parametrize(
    ("item", "wrong"),
    [
        ({"quantity": 0}, "/quantity"),
        ({"unit_price": -1}, "/unit_price"),
        ({"currency": "eur"}, "/currency"),
        ({"unit_price": None}, "/unit_price"),
        ({"product_id": "a\x00"}, "/product_id"),
        ({"options": {f"o{number}": "" for number in range(11)}}, "/options"),
        ({"options": {"x" * 65: "x"}}, "/options"),
        ({"options": {"e\u0301": "x", "\u00e9": "x"}}, "/options/\u00e9"),
        ({"options": {"a/b~": "\x00"}}, "/options/a~1b~0"),
    ],
    ids=repr,
)
def test_out_of_bounds(client: Client, call: Call, item: dict[str, object], wrong: str) -> None:
    """What passes a limit by itself is 422 with its place; nothing is clamped."""
    assert _refused(client, call, WHOLE | item) == [wrong]


@LINES
def test_prices_and_currencies_need_each_other(client: Client, call: Call) -> None:
    """Either without the other is 422; the pointer is where the missing one would be."""
    assert _refused(client, call, SKU | {"unit_price": 5}) == ["/currency"]
    assert _refused(client, call, SKU | {"currency": "EUR"}) == ["/unit_price"]


@pytest.mark.parametrize(
    "item",
    [
        {"quantity": 999},
        {"unit_price": 10**10},
        {"product_id": "größe 🛒/~%"},
        {"product_id": "\u200b\u202e\ufeff\u3000"},
        {"options": {"note": "Happy\r\n\tBirthday"}},
        {"options": {"🛒" * 64: "🛒" * 256}},
    ],
    ids=repr,
)
@LINES
def test_within_bounds(call: Call, item: dict[str, object]) -> None:
    """The bounds themselves are taken, and come back as they were sent."""
    client = make_client()
    response = client.open(call.path, method=call.method, json=call.body(WHOLE | item))
    assert response.status_code in {200, 201}
    shown = response.json["items"][0] | {"currency": response.json["currency"]}
    assert {name: shown[name] for name in WHOLE} == WHOLE | item


def test_one_request_has_one_currency(client: Client) -> None:
    """Two currencies in one request are wrong whatever the cart holds: 422."""
    lines = [WHOLE, WHOLE | {"product_id": "b", "currency": "USD"}]
    for call in (PUT, ADD_ITEMS):
        response = client.open(call.path, method=call.method, json={"items": lines})
        assert (problem(response), pointers(response)) == (INVALID, ["/items/1/currency"])


@pytest.mark.parametrize("call", [PUT, ADD_ITEMS], ids=["put", "add-items"])
@pytest.mark.parametrize(
    ("limits", "lines", "wrong"),
    [
        (Limits(), [SKU | {"quantity": 500}, SKU | {"quantity": 500}], "/items/1/quantity"),
        (Limits(max_items=2), [{"product_id": each, "quantity": 1} for each in "abc"], "/items/2"),
        (Limits(max_cart_bytes=1024), [SKU | {"options": {"x": "y" * 256}, "product_id": p} for p in "abcd"], ""),
        (
            Limits(),
            [WHOLE | {"product_id": f"p{n}", "quantity": 999, "unit_price": 10**10} for n in range(100)],
            None,
        ),
        (
            Limits(max_quantity=10**9),
            [WHOLE | {"quantity": 10**6, "unit_price": 10**10}],
            "",
        ),
    ],
    ids=["quantity", "items", "bytes", "subtotal-fits", "subtotal"],
)
def test_what_one_request_breaks_alone(
    call: Call, limits: Limits, lines: list[dict[str, object]], wrong: str | None
) -> None:
    """Past a limit by its lines together, whatever the cart holds: 422, and no cart is made."""
    client = make_client(limits=limits)
    response = client.open(call.path, method=call.method, json={"items": lines})
    if wrong is None:
        assert response.status_code in {200, 201}
    else:
        assert (problem(response), pointers(response)) == (INVALID, [wrong])
        assert client.get("/cart/alice").json["version"] == 0


def test_limits_are_settings() -> None:
    """The limit set is the limit in force."""
    client = make_client(limits=Limits(max_quantity=3))
    assert client.post("/cart/alice", json=SKU | {"quantity": 3}).status_code == 200
    assert problem(client.post("/cart/bob", json=SKU | {"quantity": 4})) == INVALID


# ---- paths ----

EVERY = [
    ("GET", "", None),
    ("POST", "", SKU),
    ("PUT", "", {"items": [SKU]}),
    ("DELETE", "", None),
    ("POST", "/items", {"items": [SKU]}),
    ("GET", "/items/sku-1", None),
    ("PATCH", "/items/sku-1", {"quantity": 1}),
    ("DELETE", "/items/sku-1", None),
    ("POST", "/merge", {"from_user_id": "bob"}),
]


@pytest.mark.parametrize(("method", "rest", "body"), EVERY, ids=lambda value: value if isinstance(value, str) else "")
def test_every_call_checks_the_user_id(client: Client, method: str, rest: str, body: object) -> None:
    """What is no user_id is 422 for every call, before the body is looked at."""
    for sent in ({"json": body}, {"data": b"nope", "content_type": "text/plain"}):
        response = client.open(f"/cart/a%20b{rest}", method=method, **sent)
        assert (problem(response), pointers(response)) == (INVALID, ["/user_id"])


@pytest.mark.parametrize("user_id", ["..", "%2E%2E", "%00", "a%0A", "%ff%fe", "%ed%a0%80", "é", "a%25", "a%23", "a%3F"])
def test_wrong_user_ids(client: Client, user_id: str) -> None:
    """Whatever bytes it is made of, encoded or not."""
    response = client.get(f"/cart/{user_id}")
    assert (problem(response), pointers(response)) == (INVALID, ["/user_id"])


@pytest.mark.parametrize("user_id", ["a", "a" * 255, "A.b_c~d@e:f+g|h-1", "...", "~", "-", "guest-1", "items", "null"])
def test_right_user_ids(user_id: str) -> None:
    """Every character of the list, at both ends of the length; nothing is decoded twice or read as a blank."""
    client = make_client()
    for path in (user_id, "".join(f"%{ord(character):02X}" for character in user_id)):
        assert client.post(f"/cart/{path}", json=SKU).json["user_id"] == user_id
    assert client.get(f"/cart/{user_id}").json["total_quantity"] == 4


@pytest.mark.parametrize(
    "path",
    [
        "/cart/a%2Fb",
        "/cart/a%2F",
        "/cart/%2Fa",
        "/cart//",
        "/cart/",
        "/cart",
        "/cart/a/",
        "/cart//items/x",
        "/cart/a//items",
    ],
)
def test_slashes_make_other_paths(client: Client, path: str) -> None:
    """An encoded slash is a slash: such a path is no cart's. 404, and no redirect to what might have been meant."""
    expected = (405, "method-not-allowed") if path == "/cart" else (404, "not-found")  # guests are made there, by POST
    for method in ("GET", "PUT", "DELETE"):
        assert problem(client.open(path, method=method, json={"items": []})) == expected


# ---- anything at all ----

_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, 2, 999, 1000, 10**10, 10**10 + 1, 2**53, 2**63, 2**64]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.sampled_from(["sku-1", "EUR", "USD", ".", "~", "a/b", "x" * 129]),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def _near(members: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Objects of these members, most of them right, some left out, some of any value, some unknown."""
    usual = st.fixed_dictionaries({}, optional={name: right | _values for name, right in members.items()})
    return st.builds(lambda a, b: a | b, usual, st.just({}) | st.dictionaries(st.text(max_size=5), _values, max_size=1))


_ITEM = {
    "product_id": st.sampled_from(["sku-1", "b", "größe"]),
    "quantity": st.integers(1, 400),
    "options": st.dictionaries(st.sampled_from(["size", "a/b"]), st.sampled_from(["M", "L", ""]), max_size=2),
    "unit_price": st.integers(0, 10**10),
    "currency": st.sampled_from(["EUR", "USD"]),
    "item_id": _values,
}
_items = st.builds(lambda item: SKU | item, _near(_ITEM)) | _near(_ITEM) | _values
_bodies = {
    ADD: _items,
    PATCH: _near({name: _ITEM[name] for name in ("quantity", "unit_price", "currency")}) | _values,
    PUT: _near(
        {"items": st.lists(_items, max_size=3), "currency": st.sampled_from(["EUR", "USD"]), "version": _values}
    ),
    ADD_ITEMS: _near({"items": st.lists(_items, max_size=3)}),
    MERGE: _near(
        {
            "from_user_id": st.sampled_from(["bob", "alice", "guest-1", "nobody"]),
            "strategy": st.sampled_from(["sum", "max", "keep", "replace", None]),
            "from_token": st.text(max_size=3) | st.none(),
        }
    )
    | _values,
}


@pytest.fixture(scope="module")
def fuzzed() -> Client:
    """A client for all examples of a hypothesis test: what is in its carts must not matter to the promise."""
    return make_client()


@BODIES
@given(data=st.data())
def test_any_body(fuzzed: Client, call: Call, data: st.DataObject) -> None:
    """No body causes a 500; every response is as documented, and the document allows all that is accepted."""
    body = data.draw(_bodies[call])
    response = fuzzed.open(call.path, method=call.method, data=json.dumps(body), content_type=JSON)
    assert response.status_code in {200, 201, 404, 409, 422}


@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
    segments=st.lists(
        st.sampled_from([b"cart", b"items", b"alice", b"swagger-ui"]) | st.binary(max_size=4), max_size=5
    ),
)
def test_any_path(fuzzed: Client, method: str, segments: list[bytes]) -> None:
    """No path gets a 500, whatever bytes are encoded in it."""
    # As a server hands the path on (PEP 3333): decoded, a byte a character.
    path = (b"/" + b"/".join(segments)).decode("latin-1")
    response = fuzzed.open("/", method=method, json={}, environ_overrides={"PATH_INFO": path})
    assert response.status_code < 500


# ---- the reader itself ----


def _json_like() -> st.SearchStrategy[bytes]:
    right = _values.map(lambda value: json.dumps(value, ensure_ascii=False).encode())
    cut = st.builds(lambda text, at: text[: at % (len(text) + 1)], right, st.integers(0, 50))
    changed = st.builds(
        lambda text, at, piece: text[: at % (len(text) + 1)] + piece + text[at % (len(text) + 1) + 1 :],
        right,
        st.integers(0, 50),
        st.sampled_from(
            [b"\\ud800", b"\xed\xa0\x80", b"\xff", b"NaN", b"\x00", b'"', b"\\", b",", b"1e999", b"\xef\xbb\xbf"]
        ),
    )
    made = st.text('{}[]",:0123456789eE+-.\\u trufalsnd\x00', max_size=30).map(str.encode)
    return st.one_of(st.binary(max_size=30), right, cut, changed, made)


@given(data=_json_like())
def test_the_reader_takes_json_or_raises_bad_request(data: bytes) -> None:
    """For any bytes: what the standard library reads from them, or BadRequest, and nothing else."""
    try:
        value = parse_json(data)
    except BadRequest:
        return
    assert value == json.loads(data)
    assert json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False).encode()) == value


@given(value=_values, ascii_only=st.booleans(), indent=st.none() | st.integers(0, 2))
def test_the_reader_takes_all_json(value: object, *, ascii_only: bool, indent: int | None) -> None:
    """Whatever has no repeated name and no number out of range comes back as it was."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert parse_json(text.encode()) == value


@given(name=st.text(max_size=5), first=_values, second=_values, depth=st.integers(0, 3))
def test_the_reader_refuses_repeated_names(name: str, first: object, second: object, depth: int) -> None:
    """Whatever the name and the values, and however deep."""
    member = json.dumps(name)
    text = f"{{{member}: {json.dumps(first)}, {member}: {json.dumps(second)}}}"
    with pytest.raises(BadRequest, match="more than once"):
        parse_json(('[{"a":' * depth + text + "}]" * depth).encode())
