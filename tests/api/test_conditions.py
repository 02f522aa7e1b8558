"""Tests of the terms a client puts on a write, over HTTP: If-Match, If-None-Match and the Idempotency-Key."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import pytest
from msgspec import structs

from cartsvc.carts.record import Seal
from tests.support.api_client import JSON, MALFORMED_TAGS, SUFFIXES, cart_of, make_client, problem, state
from tests.support.memory_store import MemoryStore

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

    from tests.support.api_client import Client
    from tests.support.clock import FakeClock

SKU = {"product_id": "sku-1", "quantity": 2}
PRICED = SKU | {"unit_price": 5, "currency": "EUR"}
REPLAYED = "Idempotency-Replayed"
REUSED = (422, "idempotency-key-reused")
FAILED = (412, "precondition-failed")
SECONDS = 20


class Write(NamedTuple):
    """A write to alice's cart, with variations; ``absent`` is its status if there is no cart."""

    method: str
    rest: str
    body: Any
    other: Any
    status: int
    absent: int

    def send(self, client: Client, headers: dict[str, str], *, body: Any = ..., user_id: str = "alice") -> TestResponse:
        """Send it, perhaps with another body or to another cart."""
        body = self.body if body is ... else body
        return client.open(f"/cart/{user_id}{self.rest}", method=self.method, json=body, headers=headers)


WRITES = {
    "add": Write("POST", "", SKU, SKU | {"quantity": 3}, 200, 200),
    "put": Write("PUT", "", {"items": [SKU | {"quantity": 7}]}, {"items": []}, 200, 201),
    "update": Write("PATCH", "", {"metadata": {"note": "x"}}, {"metadata": {}}, 200, 404),
    "delete": Write("DELETE", "", None, None, 204, 404),
    "add-items": Write("POST", "/items", {"items": [SKU]}, {"items": [SKU, SKU]}, 200, 200),
    "patch-items": Write(
        "PATCH",
        "/items",
        {"items": [{"item_id": "sku-1", "quantity": 9}]},
        {"items": [{"item_id": "sku-1", "quantity": 8}]},
        200,
        404,
    ),
    "patch": Write("PATCH", "/items/sku-1", {"quantity": 9}, {"quantity": 8}, 200, 404),
    "delete-item": Write("DELETE", "/items/sku-1", None, None, 200, 404),
    "merge": Write("POST", "/merge", {"from_user_id": "guest-1"}, {"from_user_id": "guest-2"}, 200, 200),
}
EACH = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
WITH_BODIES = pytest.mark.parametrize(
    "write", [each for each in WRITES.values() if each.body], ids=[name for name, each in WRITES.items() if each.body]
)


@pytest.fixture
def cart(client: Client) -> Client:
    """A client; alice and the guest have a cart."""
    client.put("/cart/alice", json={"items": [SKU]})
    client.put("/cart/guest-1", json={"items": [SKU]})
    return client


def tag_of(client: Client, user_id: str = "alice") -> str:
    """The ETag of the cart, in its quotes."""
    tag, _ = state(client, user_id)
    assert tag is not None
    return tag


def check_refused(client: Client, refused: TestResponse, user_id: str = "alice") -> None:
    """It is a 412 with the current cart and its ETag, ready to rebase on: the very same that a GET shows."""
    assert problem(refused) == FAILED
    assert (refused.headers.get("ETag"), refused.json["cart"]) == state(client, user_id)


# ---- If-Match ----


@EACH
@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "W/{}",
        "*",
        " * ",
        '"old", {}',
        '{},"old"',
        '"old" ,\t{} , "older"',
        ", ,{},,",
        '"a,b", {}',
        'W/"old",W/{}',
        '"\xe9", {}',
        '"", {}',
    ],
)
def test_a_write_of_the_state_it_names(cart: Client, write: Write, form: str) -> None:
    """Our tag alone, weakened, in a list with blanks and empty members; or an asterisk, as there is a cart."""
    before = state(cart)
    response = write.send(cart, {"If-Match": form.format(before[0])})
    assert response.status_code == write.status
    assert state(cart) != before


@EACH
@pytest.mark.parametrize("form", ['"old"', '"old", W/"older"', '""', '"*"', 'W/"*"', '"{}"', '"{}', "{}x"])
def test_a_write_of_another_state(cart: Client, write: Write, form: str) -> None:
    """412 with the cart as it is now; nothing has changed, in the merge's source neither. ``"*"`` is a tag like any."""
    before = state(cart), state(cart, "guest-1")
    inner = tag_of(cart).strip('"')
    value = {'"{}"': f'"{inner}x"', '"{}': f'"{inner[:-1]}"', "{}x": f'"{inner.swapcase()}"'}.get(form, form)
    check_refused(cart, write.send(cart, {"If-Match": value}))
    assert (state(cart), state(cart, "guest-1")) == before


@EACH
def test_a_write_of_a_state_that_is_over(cart: Client, write: Write) -> None:
    """After another client's change an old tag matches nothing, even if the items are the same again."""
    old = tag_of(cart)
    cart.post("/cart/alice", json=SKU)
    check_refused(cart, write.send(cart, {"If-Match": old}))
    cart.put("/cart/alice", json={"items": [SKU]})
    check_refused(cart, write.send(cart, {"If-Match": old}))
    cart.delete("/cart/alice")
    cart.put("/cart/alice", json={"items": [SKU]})
    check_refused(cart, write.send(cart, {"If-Match": old}))
    assert write.send(cart, {"If-Match": tag_of(cart)}).status_code == write.status


def test_the_tag_of_another_cart_is_another_tag(cart: Client) -> None:
    """What names a state of the guest's cart names none of alice's."""
    check_refused(cart, cart.post("/cart/alice", json=SKU, headers={"If-Match": tag_of(cart, "guest-1")}))


@EACH
@pytest.mark.parametrize("value", ["*", '"old"'])
def test_a_condition_on_an_absent_cart(client: Client, write: Write, value: str) -> None:
    """There is no such state. Operations that need a cart return 404 first; the others 412 without an ETag."""
    client.put("/cart/guest-1", json={"items": [SKU]})
    before = state(client, "guest-1")
    refused = write.send(client, {"If-Match": value})
    if write.absent == 404:
        assert problem(refused) == (404, "cart-not-found")
    else:
        check_refused(client, refused)
        assert (refused.json["cart"]["version"], "ETag" in refused.headers) == (0, False)
    assert state(client)[1]["version"] == 0
    assert state(client, "guest-1") == before


@pytest.mark.parametrize("name", ["patch", "delete-item"])
def test_an_absent_item_is_told_before_a_condition(cart: Client, name: str) -> None:
    """404 comes first (RFC 9110, 13.2.1), because without the condition the response would be the same."""
    write = WRITES[name]._replace(rest="/items/none")
    assert problem(write.send(cart, {"If-Match": '"old"'})) == (404, "item-not-found")


def test_a_condition_is_told_before_what_the_cart_forbids(cart: Client) -> None:
    """412 before 409: a client that has not seen the cart cannot know its rules."""
    for headers, expected in (({"If-Match": '"old"'}, FAILED), ({}, (409, "limit-exceeded"))):
        assert problem(cart.post("/cart/alice", json=SKU | {"quantity": 998}, headers=headers)) == expected


@WITH_BODIES
def test_a_wrong_request_is_told_before_a_condition(cart: Client, write: Write) -> None:
    """422 for what is wrong whatever the cart holds."""
    assert problem(write.send(cart, {"If-Match": '"old"'}, body={"zap": 1})) == (422, "invalid-request")


def test_a_client_rebases_on_a_412(cart: Client) -> None:
    """The cart of the 412 can be edited and sent with the ETag of the 412: no GET is needed in between."""
    refused = cart.put("/cart/alice", json={"items": []}, headers={"If-Match": '"old"'})
    body = refused.json["cart"]
    body["items"][0]["quantity"] += 1
    response = cart.put("/cart/alice", json=body, headers={"If-Match": refused.headers["ETag"]})
    assert (response.status_code, response.json["total_quantity"]) == (200, 3)


def test_a_write_that_changes_nothing_keeps_its_tag(cart: Client) -> None:
    """The same quantity again: the ETag is still right for the next conditional write."""
    tag = tag_of(cart)
    same = cart.patch("/cart/alice/items/sku-1", json={"quantity": 2}, headers={"If-Match": tag})
    assert (same.status_code, same.headers["ETag"]) == (200, tag)
    assert cart.delete("/cart/alice", headers={"If-Match": tag}).status_code == 204


def test_an_expired_cart_matches_nothing(clock: FakeClock) -> None:
    """Its tag expires with it."""
    client = make_client(environ={"CARTSVC_CART_TTL": "60"}, clock=clock)
    tag = client.post("/cart/alice", json=SKU).headers["ETag"]
    clock.advance(60_000)
    for value in (tag, "*"):
        check_refused(client, client.post("/cart/alice", json=SKU, headers={"If-Match": value}))


# ---- If-None-Match on writes ----


def test_put_creates_only(client: Client) -> None:
    """If-None-Match: * is 201 when there is no cart, and 412 with the cart when there is one; also an empty one."""
    headers = {"If-None-Match": "*"}
    made = client.put("/cart/alice", json={"items": []}, headers=headers)
    assert made.status_code == 201
    check_refused(client, client.put("/cart/alice", json={"items": [SKU]}, headers=headers))
    client.delete("/cart/alice")
    assert client.put("/cart/alice", json={"items": [SKU]}, headers=headers).status_code == 201


@EACH
@pytest.mark.parametrize("form", ["*", "{}", "W/{}", '"old", {}'])
def test_a_write_unless_the_cart_is_so(cart: Client, write: Write, form: str) -> None:
    """Every write accepts If-None-Match and is rejected while the cart is in one of these states."""
    before = state(cart), state(cart, "guest-1")
    check_refused(cart, write.send(cart, {"If-None-Match": form.format(tag_of(cart))}))
    assert (state(cart), state(cart, "guest-1")) == before


@EACH
@pytest.mark.parametrize("value", ['"old"', '"*"', 'W/"old", "older"'])
def test_a_write_when_the_cart_is_not_so(cart: Client, write: Write, value: str) -> None:
    """Tags of other states refuse nothing."""
    assert write.send(cart, {"If-None-Match": value}).status_code == write.status


@EACH
@pytest.mark.parametrize("value", ["*", '"old"'])
def test_an_absent_cart_is_in_no_state(client: Client, write: Write, value: str) -> None:
    """What can make a cart makes it."""
    assert write.send(client, {"If-None-Match": value}).status_code == write.absent


@EACH
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("weak", ["", "W/"])
def test_a_tag_that_a_proxy_changed_names_the_same_state(cart: Client, write: Write, suffix: str, weak: str) -> None:
    """Under If-Match the write is applied, under If-None-Match it is rejected."""
    tag = tag_of(cart).strip('"')
    changed = f'{weak}"{tag}{suffix}"'
    check_refused(cart, write.send(cart, {"If-None-Match": changed}))
    check_refused(cart, write.send(cart, {"If-Match": f'"~{tag[1:]}{suffix}"'}))
    assert write.send(cart, {"If-Match": changed}).status_code == write.status


@pytest.mark.parametrize("end", [*SUFFIXES, "-"])
def test_a_tag_may_end_like_a_content_coding(clock: FakeClock, end: str) -> None:
    """Of the tags one in 260,000 ends in -br by chance, and one in 64 in -: it still names its cart's state."""
    tag = f"abc{end}"
    store = MemoryStore(clock=clock, limit=2**20)
    client = make_client(store=store, clock=clock)
    client.post("/cart/alice", json=SKU)

    def change(record: Any) -> tuple[Any, None]:
        return structs.replace(record, tag=tag, cart=structs.replace(record.cart, etag=tag)), None

    store.update("alice", change)
    assert tag_of(client) == f'"{tag}"'
    for value in (f'"{tag}"', *[f'"{tag}{suffix}"' for suffix in SUFFIXES]):
        assert client.get("/cart/alice", headers={"If-None-Match": value}).status_code == 304


def test_both_conditions_must_hold(cart: Client) -> None:
    """Each of them refuses by itself."""
    tag = tag_of(cart)
    for matching, other, status in (('"old"', '"old"', 412), (tag, tag, 412), (tag, "*", 412), (tag, '"old"', 200)):
        response = cart.post("/cart/alice", json=SKU, headers={"If-Match": matching, "If-None-Match": other})
        assert response.status_code == status


def test_reads_take_no_terms_of_writes(cart: Client) -> None:
    """If-Match and an Idempotency-Key on GET are not looked at."""
    for path in ("/cart/alice", "/cart/alice/items/sku-1"):
        assert cart.get(path, headers={"If-Match": '"old"', "Idempotency-Key": "no key"}).status_code == 200


# ---- malformed headers ----


@EACH
@pytest.mark.parametrize("header", ["If-Match", "If-None-Match"])
def test_malformed_tags(cart: Client, write: Write, header: str) -> None:
    """400, and the detail names the header; nothing has changed."""
    before = state(cart), state(cart, "guest-1")
    for value in MALFORMED_TAGS:
        refused = write.send(cart, {header: value})
        assert (problem(refused), header in refused.json["detail"]) == ((400, "bad-request"), True), value
    assert (state(cart), state(cart, "guest-1")) == before


@pytest.mark.parametrize("piece", [" ", ",", ", ", " ,\t", '"",', '"" ', '"a', "W/", 'W/"",', '"*",'])
@pytest.mark.parametrize("end", ["", "x", '"', "*"])
def test_long_headers_are_read_in_a_moment(client: Client, piece: str, end: str) -> None:
    """8,000 characters that could be split in many ways must not be tried in all of them."""
    value = (piece * 8000)[:8000] + end
    before = signal.signal(signal.SIGALRM, _too_slow)  # a search for a pattern holds the GIL, but not signals
    signal.alarm(SECONDS)
    try:
        response = client.post("/cart/alice", json=SKU, headers={"If-Match": value})
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert response.status_code in {400, 412}


def _too_slow(*_: object) -> NoReturn:
    raise TimeoutError


@EACH
@pytest.mark.parametrize(
    "key",
    ["", " ", "a b", "a\tb", "x" * 256, "x" * 4000, "\xe9", "a\x7f", "kl\xfcssel"],
    ids=lambda key: repr(key[:8]) + str(len(key)),
)
def test_malformed_keys(cart: Client, write: Write, key: str) -> None:
    """Empty, too long, with a blank inside, not ASCII: 400, and nothing has changed."""
    before = state(cart), state(cart, "guest-1")
    refused = write.send(cart, {"Idempotency-Key": key})
    assert (problem(refused), "Idempotency-Key" in refused.json["detail"]) == ((400, "bad-request"), True)
    assert (state(cart), state(cart, "guest-1")) == before


@pytest.mark.parametrize("key", ["k", "x" * 255, "!", "~", '"quoted"', "7c0f1d3a-2f5e-4d9b-9d52-0c6f5c1e8a11", "a,b;c"])
def test_right_keys(client: Client, key: str) -> None:
    """1 to 255 visible ASCII characters, whatever they are; each is a key of its own."""
    for replayed in (None, "true"):
        response = client.post("/cart/alice", json=SKU, headers={"Idempotency-Key": key})
        assert (response.status_code, response.headers.get(REPLAYED)) == (200, replayed)
    response = client.post("/cart/alice", json=SKU, headers={"Idempotency-Key": key[:-1] + "_"})
    assert REPLAYED not in response.headers
    assert client.get("/cart/alice").json["total_quantity"] == 4


# ---- replays ----


@EACH
def test_a_repetition_is_done_once(cart: Client, write: Write) -> None:
    """The same status as the first time, Idempotency-Replayed: true, and the cart as it is; however often it comes."""
    headers = {"Idempotency-Key": "k"}
    first = write.send(cart, headers)
    after = state(cart), state(cart, "guest-1")
    assert (first.status_code, REPLAYED in first.headers) == (write.status, False)
    for _ in range(3):
        again = write.send(cart, headers)
        assert (again.status_code, again.data, again.headers[REPLAYED]) == (write.status, first.data, "true")
        assert again.headers.get("ETag") == first.headers.get("ETag")
    assert (state(cart), state(cart, "guest-1")) == after


@EACH
def test_a_replay_shows_what_is_there_now(cart: Client, write: Write) -> None:
    """Not the cart of that time: another change has followed, and it stays."""
    headers = {"Idempotency-Key": "k"}
    write.send(cart, headers)
    cart.put("/cart/alice", json={"items": [SKU | {"quantity": 77}]})
    now = state(cart)
    again = write.send(cart, headers)
    assert (again.status_code, again.headers[REPLAYED]) == (write.status, "true")
    if write.status != 204:
        assert (again.headers["ETag"], cart_of(again)) == now
    assert state(cart) == now


def test_a_put_that_made_the_cart_replays_201(client: Client) -> None:
    """The status of the first response, although the cart exists by now; after its deletion too, without ETag."""
    headers = {"Idempotency-Key": "k"}
    body = {"items": [SKU]}
    assert client.put("/cart/alice", json=body, headers=headers).status_code == 201
    again = client.put("/cart/alice", json=body, headers=headers)
    assert (again.status_code, again.headers[REPLAYED]) == (201, "true")
    client.delete("/cart/alice")
    gone = client.put("/cart/alice", json=body, headers=headers)
    assert (gone.status_code, gone.headers[REPLAYED], gone.json["version"]) == (201, "true", 0)
    assert client.get("/cart/alice").json["version"] == 0


def test_a_delete_replays_204(client: Client) -> None:
    """With its key a retry differs from the deletion of an absent cart; and a new cart is left alone."""
    client.post("/cart/alice", json=SKU)
    headers = {"Idempotency-Key": "k"}
    for _ in range(2):
        assert client.delete("/cart/alice", headers=headers).status_code == 204
    assert problem(client.delete("/cart/alice")) == (404, "cart-not-found")
    client.post("/cart/alice", json=SKU)
    again = client.delete("/cart/alice", headers=headers)
    assert (again.status_code, again.headers[REPLAYED], again.data) == (204, "true", b"")
    assert client.get("/cart/alice").json["total_quantity"] == 2


@EACH
def test_a_replay_asks_no_precondition(cart: Client, write: Write) -> None:
    """A retry has the tag of its first try, which has changed since: the response is a replay, not 412."""
    headers = {"Idempotency-Key": "k", "If-Match": tag_of(cart)}
    assert write.send(cart, headers).status_code == write.status
    assert write.send(cart, headers).headers[REPLAYED] == "true"
    assert write.send(cart, headers | {"If-Match": '"old"'}).headers[REPLAYED] == "true"
    assert problem(write.send(cart, headers | {"If-Match": "old"})) == (400, "bad-request")


@pytest.mark.parametrize("name", ["put", "update", "patch-items", "patch", "merge"])
def test_a_write_that_changes_nothing_is_remembered(cart: Client, name: str) -> None:
    """It was accepted; if the cart has changed since, its retry must not change it back."""
    write, headers = WRITES[name], {"Idempotency-Key": "k"}
    write.send(cart, {})
    unchanged = tag_of(cart)
    assert write.send(cart, headers).headers["ETag"] == unchanged
    cart.put("/cart/alice", json={"items": [SKU | {"quantity": 77}]})
    again = write.send(cart, headers)
    assert (again.headers[REPLAYED], again.json["total_quantity"]) == ("true", 77)


@EACH
def test_another_request_with_the_same_key(cart: Client, write: Write) -> None:
    """422 for another method, path or body; nothing has changed, and the key still stands for the first request."""
    headers = {"Idempotency-Key": "k"}
    write.send(cart, headers)
    before = state(cart), state(cart, "guest-1")
    for other in WRITES.values():
        if other is not write:
            assert problem(other.send(cart, headers)) == REUSED
        if other.body is not None:
            assert problem(other.send(cart, headers, body=other.other)) == REUSED
    assert (state(cart), state(cart, "guest-1")) == before
    assert write.send(cart, headers).headers[REPLAYED] == "true"


@pytest.mark.parametrize("name", ["patch", "delete-item"])
def test_another_item_with_the_same_key(cart: Client, name: str) -> None:
    """The path is part of the request."""
    cart.post("/cart/alice", json={"product_id": "b", "quantity": 1})
    write, headers = WRITES[name], {"Idempotency-Key": "k"}
    assert write.send(cart, headers).status_code == 200
    assert problem(write._replace(rest="/items/b").send(cart, headers)) == REUSED


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ('{"product_id":"a","quantity":1}', '{"quantity":1,\n\t"product_id" : "a"}', True),
        ('{"product_id":"a","quantity":1}', '{"product_id":"\\u0061","quantity":1}', True),
        ('{"product_id":"a","quantity":1}', '{"product_id":"a","quantity":1,"options":null}', True),
        ('{"product_id":"a","quantity":1}', '{"product_id":"a","quantity":1,"options":{}}', True),
        ('{"product_id":"a","quantity":1}', '{"product_id":"a","quantity":1,"unit_price":null,"currency":null}', True),
        ('{"product_id":"a","quantity":1}', '{"product_id":"a","quantity":1,"item_id":"x","line_total":7}', True),
        (
            '{"product_id":"a","quantity":1,"options":{"x":"1","y":"2"}}',
            '{"options":{"y":"2","x":"1"},"product_id":"a","quantity":1}',
            True,
        ),
        ('{"product_id":"a","quantity":1}', '{"product_id":"a","quantity":2}', False),
        ('{"product_id":"a","quantity":1}', '{"product_id":"A","quantity":1}', False),
        ('{"product_id":"a","quantity":1}', '{"product_id":"a","quantity":1,"options":{"x":""}}', False),
        (
            '{"product_id":"a","quantity":1,"options":{"x":"1","y":"2"}}',
            '{"product_id":"a","quantity":1,"options":{"x":"2","y":"1"}}',
            False,
        ),
        (
            '{"product_id":"a","quantity":1,"unit_price":0,"currency":"EUR"}',
            '{"product_id":"a","quantity":1,"unit_price":null}',
            False,
        ),
        (
            '{"product_id":"a","quantity":1,"unit_price":5,"currency":"EUR"}',
            '{"product_id":"a","quantity":1,"unit_price":5,"currency":"USD"}',
            False,
        ),
    ],
)
@pytest.mark.parametrize("rest", ["", "/items", "put"])
def test_what_is_the_same_request(client: Client, rest: str, first: str, second: str, *, same: bool) -> None:
    """The content counts, not the format: order, blanks, escapes, nulls and ignored members do not matter."""
    responses = []
    for text in (first, second):
        data = f'{{"items": [{text}]}}' if rest else text
        path = "/cart/alice/items" if rest == "/items" else "/cart/alice"
        method = "PUT" if rest == "put" else "POST"
        headers = {"Idempotency-Key": "k"}
        responses.append(client.open(path, method=method, data=data, content_type=JSON, headers=headers))
    assert responses[0].status_code in {200, 201}
    assert responses[1].headers.get(REPLAYED) == ("true" if same else None)
    if not same:
        assert problem(responses[1]) == REUSED
    assert client.get("/cart/alice").json["version"] == 1


def test_the_order_of_items_is_part_of_a_request(client: Client) -> None:
    """A cart keeps the order of its items, so another order is another request."""
    lines = [{"product_id": each, "quantity": 1} for each in "ab"]
    headers = {"Idempotency-Key": "k"}
    client.put("/cart/alice", json={"items": lines}, headers=headers)
    assert problem(client.put("/cart/alice", json={"items": lines[::-1]}, headers=headers)) == REUSED


def test_the_same_path_written_otherwise(cart: Client) -> None:
    """A path percent-encoded by one client library and not by another is one path; so are two with a query."""
    headers = {"Idempotency-Key": "k"}
    cart.patch("/cart/alice/items/sku-1", json={"quantity": 9}, headers=headers)
    for path in ("/cart/%61lice/items/sku%2D1", "/cart/alice/items/%73ku-1", "/cart/alice/items/sku-1?x=1"):
        assert cart.patch(path, json={"quantity": 9}, headers=headers).headers[REPLAYED] == "true"


@EACH
def test_keys_belong_to_their_cart(cart: Client, write: Write) -> None:
    """The same key on another cart is another key: two shoppers may make up the same one."""
    for user_id in ("bob", "Alice"):
        cart.put(f"/cart/{user_id}", json={"items": [SKU]})
    headers = {"Idempotency-Key": "k"}
    for user_id in ("alice", "bob", "Alice"):
        response = write.send(cart, headers, user_id=user_id)
        assert (response.status_code, REPLAYED in response.headers) == (write.status, False)


@pytest.mark.parametrize(
    ("refused", "status", "accepted"),
    [
        (("POST", "", SKU | {"quantity": 998}, {}), 409, ("POST", "", SKU)),
        (("POST", "", SKU, {"If-Match": '"old"'}), 412, ("POST", "", SKU)),
        (("PUT", "", {"items": []}, {"If-None-Match": "*"}), 412, ("DELETE", "", None)),
        (("POST", "", SKU | {"quantity": 0}, {}), 422, ("POST", "/items", {"items": [SKU]})),
        (("PATCH", "/items/none", {"quantity": 1}, {}), 404, ("PATCH", "/items/sku-1", {"quantity": 1})),
        (("DELETE", "/items/none", None, {}), 404, ("DELETE", "/items/sku-1", None)),
        (("POST", "/merge", {"from_user_id": "alice"}, {}), 422, ("POST", "/merge", {"from_user_id": "guest-1"})),
        (("POST", "", [], {}), 422, ("PUT", "", {"items": []})),
        (("POST", "", SKU, {"If-Match": "old"}), 400, ("POST", "", SKU)),
    ],
)
def test_refused_requests_are_not_remembered(
    cart: Client, refused: tuple[str, str, Any, dict[str, str]], status: int, accepted: tuple[str, str, Any]
) -> None:
    """The key is free: the request may be fixed and sent again under it, and a retry is evaluated again."""
    key = {"Idempotency-Key": "k"}
    method, rest, body, headers = refused
    for _ in range(2):
        assert cart.open(f"/cart/alice{rest}", method=method, json=body, headers=headers | key).status_code == status
    method, rest, body = accepted
    response = cart.open(f"/cart/alice{rest}", method=method, json=body, headers=key)
    assert response.status_code < 300
    assert REPLAYED not in response.headers


def test_a_404_is_not_remembered(client: Client) -> None:
    """DELETE of an absent cart is applied again once the cart exists."""
    headers = {"Idempotency-Key": "k"}
    assert problem(client.delete("/cart/alice", headers=headers)) == (404, "cart-not-found")
    client.post("/cart/alice", json=SKU)
    response = client.delete("/cart/alice", headers=headers)
    assert (response.status_code, REPLAYED in response.headers) == (204, False)


@pytest.mark.parametrize(("environ", "kept"), [({}, 32), ({"CARTSVC_IDEMPOTENCY_KEYS": "3"}, 3)])
def test_so_many_keys_are_remembered(environ: dict[str, str], kept: int) -> None:
    """The 33rd keyed write evicts the first key only; CARTSVC_IDEMPOTENCY_KEYS is the number."""
    client = make_client(environ=environ)

    def add(number: int) -> bool:
        response = client.post("/cart/alice", json=SKU, headers={"Idempotency-Key": f"k{number}"})
        assert response.status_code == 200
        return REPLAYED in response.headers

    assert [add(number) for number in range(kept)] == [False] * kept
    client.post("/cart/alice", json=SKU)
    client.post("/cart/bob", json=SKU, headers={"Idempotency-Key": "k"})
    assert [add(number) for number in range(kept)] == [True] * kept
    assert add(kept) is False
    assert [add(number) for number in range(1, kept + 1)] == [True] * kept
    assert add(0) is False


@pytest.mark.parametrize(("environ", "seconds"), [({}, 86_400), ({"CARTSVC_IDEMPOTENCY_TTL": "60"}, 60)])
def test_so_long_keys_are_remembered(clock: FakeClock, environ: dict[str, str], seconds: int) -> None:
    """24 hours from the first time, to the millisecond; a replay makes it no longer. CARTSVC_IDEMPOTENCY_TTL."""
    client = make_client(environ=environ, clock=clock)
    headers = {"Idempotency-Key": "k"}
    client.post("/cart/alice", json=SKU, headers=headers)
    clock.advance(seconds * 1000 - 1)
    assert client.post("/cart/alice", json=SKU, headers=headers).headers[REPLAYED] == "true"
    clock.advance(1)
    assert REPLAYED not in client.post("/cart/alice", json=SKU, headers=headers).headers
    assert client.get("/cart/alice").json["total_quantity"] == 4


def test_keys_outlive_their_cart(clock: FakeClock) -> None:
    """A cart that was removed, and one whose time is over, still know what was done."""
    client = make_client(environ={"CARTSVC_CART_TTL": "60"}, clock=clock)
    headers = {"Idempotency-Key": "k"}
    for user_id in ("alice", "bob"):
        client.post(f"/cart/{user_id}", json=SKU, headers=headers)
    client.delete("/cart/alice")
    clock.advance(86_399_000)
    for user_id in ("alice", "bob"):
        again = client.post(f"/cart/{user_id}", json=SKU, headers=headers)
        assert (again.status_code, again.headers[REPLAYED], again.json["version"]) == (200, "true", 0)
        assert "ETag" not in again.headers


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**4000 - 1])
@pytest.mark.parametrize("member", ["quantity", "unit_price"])
def test_numbers_past_every_bound_with_a_key(cart: Client, member: str, number: int) -> None:
    """A digest is made of the body before its limits are checked: that must not fall over any number."""
    line = PRICED | {member: number}
    for method, rest, body in (
        ("POST", "", line),
        ("PUT", "", {"items": [line]}),
        ("POST", "/items", {"items": [line]}),
        ("PATCH", "/items/sku-1", {"currency": "EUR", "unit_price": 5} | {member: number}),
    ):
        refused = cart.open(f"/cart/alice{rest}", method=method, json=body, headers={"Idempotency-Key": "k"})
        assert problem(refused) == (422, "invalid-request")


# ---- in which order ----


def test_the_order_of_refusals(clock: FakeClock) -> None:
    """Replay, seal, absent cart or item, precondition, rules: the first check that fails decides the response."""
    store = MemoryStore(clock=clock, limit=2**20)
    client = make_client(store=store, clock=clock)
    known, old = {"Idempotency-Key": "known"}, {"If-Match": '"old"'}
    path, body = "/cart/alice/items/sku-1", {"quantity": 999}
    client.put("/cart/alice", json={"items": [PRICED]}, headers=known)
    wrong = {"unit_price": 5, "currency": "USD"}

    assert problem(client.patch(path, json=wrong)) == (409, "currency-mismatch")
    assert problem(client.patch(path, json=wrong, headers=old)) == FAILED
    assert problem(client.patch("/cart/alice/items/none", json=wrong, headers=old)) == (404, "item-not-found")
    _seal(store, clock.now)
    for write in (*WRITES.values(), WRITES["patch"]._replace(rest="/items/none"), WRITES["patch"]._replace(body=wrong)):
        refused = write.send(client, old)
        assert (problem(refused), "errors" in refused.json) == ((409, "cart-sealed"), False)
        assert refused.headers["Retry-After"] == "5"
    assert problem(client.patch(path, json=body, headers=known)) == REUSED
    again = client.put("/cart/alice", json={"items": [PRICED]}, headers=known | old)
    assert (again.status_code, again.headers[REPLAYED]) == (201, "true")


def _seal(store: MemoryStore, now: int) -> None:
    def change(record: Any) -> tuple[Any, None]:
        return structs.replace(record, tag="sealed", seal=Seal("merge-1", "bob", "sum", now)), None

    store.update("alice", change)
