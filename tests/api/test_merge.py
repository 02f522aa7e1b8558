"""Tests of merging one cart into another over HTTP: strategies, refusals, seals, and what the source is afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from cartsvc.carts.cart import Limits
from cartsvc.carts.record import MergeMark, Seal
from tests.support.api_client import cart_of, make_client, pointers, problem, state
from tests.support.memory_store import MemoryStore

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

    from cartsvc.carts.combine import Strategy
    from tests.support.api_client import Client
    from tests.support.clock import FakeClock

MERGE = "/cart/alice/merge"
GUEST = {"from_user_id": "guest-1"}
INVALID = (422, "invalid-request")
REPLAYED = "Idempotency-Replayed"
MINUTE = 60_000
NEW = [("both", {"size": "M"}, 6, 30), ("theirs", {}, 4, None)]  # what only the source of test_strategies has


def line(product_id: str, quantity: int, price: int | None = None, currency: str = "EUR", **options: str) -> Any:
    """An item to put."""
    priced = {} if price is None else {"unit_price": price, "currency": currency}
    return {"product_id": product_id, "quantity": quantity, "options": options} | priced


def put(client: Client, user_id: str, *lines: Any) -> TestResponse:
    """A cart of these lines."""
    made = client.put(f"/cart/{user_id}", json={"items": list(lines)})
    assert made.status_code in {200, 201}
    return made


def items(client: Client, user_id: str) -> list[tuple[str, dict[str, str], int, int | None]]:
    """What is in the cart."""
    return [
        (item["product_id"], item["options"], item["quantity"], item["unit_price"])
        for item in client.get(f"/cart/{user_id}").json["items"]
    ]


def both(client: Client) -> list[tuple[str | None, Any]]:
    """All that can be seen of both carts."""
    return [state(client, user_id) for user_id in ("alice", "guest-1")]


def check_refused(client: Client, before: object, refused: TestResponse, expected: tuple[int, str]) -> None:
    """It was rejected like this, neither cart has changed, and both can still be written to."""
    assert problem(refused) == expected
    assert both(client) == before
    for user_id in ("alice", "guest-1"):
        assert client.post(f"/cart/{user_id}", json=line("later", 1)).status_code == 200


# ---- what comes of it ----


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (
            "sum",
            [("both", {}, 7, 10), ("mine", {}, 1, None), ("bare", {}, 3, 40), *NEW],
        ),
        (
            "max",
            [("both", {}, 5, 10), ("mine", {}, 1, None), ("bare", {}, 2, 40), *NEW],
        ),
        (
            "keep",
            [("both", {}, 2, 10), ("mine", {}, 1, None), ("bare", {}, 2, None), *NEW],
        ),
        (
            "replace",
            [("both", {}, 5, 20), *NEW, ("bare", {}, 1, 40)],
        ),
    ],
)
def test_strategies(client: Client, strategy: str, expected: list[object]) -> None:
    """Each as documented: quantities, prices, and the target's other items; the source is deleted."""
    put(client, "alice", line("both", 2, 10), line("mine", 1), line("bare", 2))
    put(client, "guest-1", line("both", 5, 20), line("both", 6, 30, size="M"), line("theirs", 4), line("bare", 1, 40))
    response = client.post(MERGE, json=GUEST | {"strategy": strategy})
    assert response.status_code == 200
    assert response.json["adjustments"] == []
    assert (response.headers["ETag"], cart_of(response)) == state(client)
    assert sorted(items(client, "alice"), key=repr) == sorted(expected, key=repr)
    assert (response.json["version"], response.json["currency"]) == (2, "EUR")
    assert state(client, "guest-1")[1]["version"] == 0
    assert problem(client.delete("/cart/guest-1")) == (409, "cart-merged")


def test_what_was_there_stays_in_front(client: Client) -> None:
    """The target's items keep their order; those that come in follow in the source's."""
    put(client, "alice", line("b", 1), line("a", 1))
    put(client, "guest-1", line("d", 1), line("a", 1), line("c", 1))
    client.post(MERGE, json=GUEST)
    assert [product for product, _, _, _ in items(client, "alice")] == ["b", "a", "d", "c"]


@pytest.mark.parametrize("member", [{}, {"strategy": None}, {"strategy": "sum"}], ids=str)
def test_sum_is_the_default(client: Client, member: dict[str, Any]) -> None:
    """Left out and null say the same."""
    put(client, "alice", line("a", 2))
    put(client, "guest-1", line("a", 3))
    assert client.post(MERGE, json=GUEST | member).json["total_quantity"] == 5


@pytest.mark.parametrize("strategy", ["sum", "max", "keep", "replace"])
def test_into_an_absent_cart(client: Client, strategy: str) -> None:
    """The result has the source's items only; the status of a merge is 200, not 201."""
    source = put(client, "guest-1", line("a", 2, 5), line("b", 1)).json
    response = client.post(MERGE, json=GUEST | {"strategy": strategy})
    assert (response.status_code, response.json["version"]) == (200, 1)
    assert response.json["items"] == source["items"]


@pytest.mark.parametrize("strategy", ["sum", "max", "keep", "replace"])
@pytest.mark.parametrize("target", ["there", "absent"])
def test_from_an_absent_cart(client: Client, strategy: str, target: str) -> None:
    """It changes nothing, whatever the strategy: 200 with the target as it is, and no cart is made."""
    if target == "there":
        put(client, "alice", line("a", 2))
    before = state(client)
    response = client.post(MERGE, json=GUEST | {"strategy": strategy})
    assert response.status_code == 200
    assert response.json["adjustments"] == []
    assert (response.headers.get("ETag"), cart_of(response)) == before == state(client)


@pytest.mark.parametrize("strategy", ["sum", "max", "keep"])
def test_from_an_empty_cart(client: Client, strategy: str) -> None:
    """An empty cart is there: it is consumed, and the target's items stay."""
    put(client, "alice", line("a", 2))
    put(client, "guest-1")
    assert client.post(MERGE, json=GUEST | {"strategy": strategy}).json["total_quantity"] == 2
    assert state(client, "guest-1")[0] is None


def test_a_guest_signs_in_and_out(client: Client) -> None:
    """From POST /cart to the user's cart; another tab that still has the guest's id adds nothing where none looks."""
    guest = client.post("/cart").json["user_id"]
    for _ in range(2):
        client.post(f"/cart/{guest}", json=line("a", 2))
        assert client.post(MERGE, json={"from_user_id": guest}).json["total_quantity"] == 2
    assert problem(client.post(f"/cart/{guest}", json=line("a", 2))) == (409, "cart-merged")
    assert client.get(f"/cart/{guest}").json["version"] == 0


# ---- what the request alone breaks ----


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, "/from_user_id"),
        ({"from_user_id": None}, "/from_user_id"),
        ({"from_user_id": 3}, "/from_user_id"),
        ({"from_user_id": ["guest-1"]}, "/from_user_id"),
        ({"from_user_id": ""}, "/from_user_id"),
        ({"from_user_id": "."}, "/from_user_id"),
        ({"from_user_id": ".."}, "/from_user_id"),
        ({"from_user_id": "a b"}, "/from_user_id"),
        ({"from_user_id": "a/b"}, "/from_user_id"),
        ({"from_user_id": "größe"}, "/from_user_id"),
        ({"from_user_id": "a\n"}, "/from_user_id"),
        ({"from_user_id": "a" * 256}, "/from_user_id"),
        ({"from_user_id": "alice"}, "/from_user_id"),
        (GUEST | {"strategy": "best"}, "/strategy"),
        (GUEST | {"strategy": "SUM"}, "/strategy"),
        (GUEST | {"strategy": ""}, "/strategy"),
        (GUEST | {"strategy": 1}, "/strategy"),
        (GUEST | {"strategy": ["sum"]}, "/strategy"),
        (GUEST | {"on_limit": "cut"}, "/on_limit"),
        (GUEST | {"on_limit": 1}, "/on_limit"),
        (GUEST | {"from_token": 7}, "/from_token"),
        (GUEST | {"zap": 1}, "/zap"),
        (GUEST | {"user_id": "alice"}, "/user_id"),
        (GUEST | {"items": []}, "/items"),
    ],
    ids=str,
)
def test_wrong_bodies(client: Client, body: dict[str, Any], wrong: str) -> None:
    """422 with its place: a bad or missing id, the cart itself, an unknown strategy, an unknown member."""
    put(client, "alice", line("a", 1))
    put(client, "guest-1", line("a", 1))
    before = both(client)
    refused = client.post(MERGE, json=body)
    assert pointers(refused) == [wrong]
    check_refused(client, before, refused, INVALID)


def test_an_id_is_told_apart_by_case(client: Client) -> None:
    """Alice is not alice: this is no merge of a cart into itself."""
    put(client, "Alice", line("a", 3))
    assert client.post(MERGE, json={"from_user_id": "Alice"}).json["total_quantity"] == 3


# ---- what the carts forbid ----


@pytest.mark.parametrize(
    ("limits", "mine", "theirs", "slug"),
    [
        ({}, line("a", 998), line("a", 2), "limit-exceeded"),
        ({"max_items": 1}, line("a", 1), line("b", 1), "limit-exceeded"),
        ({"max_cart_bytes": 200}, line("a", 1, x="y" * 120), line("b", 1, x="y" * 120), "limit-exceeded"),
        ({"max_quantity": 10**9}, line("a", 900_000, 10**10), line("b", 900_000, 10**10), "limit-exceeded"),
        ({}, line("a", 1, 5), line("b", 1, 5, "USD"), "currency-mismatch"),
        ({}, line("a", 1, 5), line("b", 1, 0, "USD"), "currency-mismatch"),
    ],
    ids=["quantity", "items", "bytes", "subtotal", "currency", "free"],
)
def test_refused_for_what_is_in_the_carts(limits: dict[str, int], mine: Any, theirs: Any, slug: str) -> None:
    """409 at the member that names the other cart; neither has changed, and the source is not left sealed."""
    client = make_client(limits=Limits(**limits))
    put(client, "alice", mine)
    put(client, "guest-1", theirs)
    before = both(client)
    for _ in range(3):
        refused = client.post(MERGE, json=GUEST)
        assert (problem(refused), set(pointers(refused))) == ((409, slug), {"/from_user_id"})
        assert "Retry-After" not in refused.headers
        assert both(client) == before
    for user_id in ("alice", "guest-1"):
        assert client.delete(f"/cart/{user_id}").status_code == 204


@pytest.mark.parametrize("strategy", ["max", "keep", "replace"])
def test_another_strategy_may_fit(client: Client, strategy: str) -> None:
    """A rejected merge can be sent again with another strategy; the quantity that did not fit is not added then."""
    put(client, "alice", line("a", 998))
    put(client, "guest-1", line("a", 2))
    assert problem(client.post(MERGE, json=GUEST)) == (409, "limit-exceeded")
    response = client.post(MERGE, json=GUEST | {"strategy": strategy})
    assert response.json["total_quantity"] == (2 if strategy == "replace" else 998)


def test_replace_may_change_the_currency(client: Client) -> None:
    """The previous items are discarded, and their currency with them."""
    put(client, "alice", line("a", 1, 5))
    put(client, "guest-1", line("b", 1, 7, "USD"))
    response = client.post(MERGE, json=GUEST | {"strategy": "replace"})
    assert (response.json["currency"], response.json["subtotal"]) == ("USD", 7)


@pytest.mark.parametrize("strategy", ["sum", "max", "keep"])
def test_another_currency_that_brings_no_price(client: Client, strategy: str) -> None:
    """Where the target's prices stay, it does not matter what the source's were in."""
    put(client, "alice", line("a", 1, 5))
    put(client, "guest-1", line("a", 1, 7, "USD"))
    response = client.post(MERGE, json=GUEST | {"strategy": strategy})
    assert (response.json["currency"], response.json["items"][0]["unit_price"]) == ("EUR", 5)


def test_a_rejection_names_the_item(client: Client) -> None:
    """With the limit, and what it would have been: a page tells the shopper which one."""
    put(client, "alice", line("a", 998), line("b", 1))
    put(client, "guest-1", line("a", 6))
    (fault,) = client.post(MERGE, json=GUEST).json["errors"]
    assert fault.pop("detail") == "At most 999 of one item; this would make 1004."
    expected = {"pointer": "/from_user_id", "code": "max_quantity", "limit": 999, "value": 1004, "item_id": "a"}
    assert fault == expected


def test_a_merge_within_the_limits() -> None:
    """With clamp what does not fit is cut and listed, once; the source is deleted all the same."""
    client = make_client(limits=Limits(max_quantity=9, max_items=3))
    put(client, "alice", line("a", 5, 10), line("d", 1))
    put(client, "guest-1", line("a", 5, 10), line("b", 2, 7, "EUR"), line("c", 1))
    headers = {"Idempotency-Key": "k"}
    assert problem(client.post(MERGE, json=GUEST | {"on_limit": "refuse"}, headers=headers)) == (409, "limit-exceeded")
    body = GUEST | {"on_limit": "clamp"}
    merged = client.post(MERGE, json=body, headers=headers)
    assert merged.json["adjustments"] == [
        {"item_id": "a", "code": "max_quantity", "requested": 10, "applied": 9},
        {"item_id": "c", "code": "max_items", "requested": 1, "applied": 0},
    ]
    assert items(client, "alice") == [("a", {}, 9, 10), ("d", {}, 1, None), ("b", {}, 2, 7)]
    assert state(client, "guest-1")[0] is None
    again = client.post(MERGE, json=body, headers=headers)
    assert (again.headers[REPLAYED], again.json["adjustments"]) == ("true", [])
    assert problem(client.post(MERGE, json=GUEST, headers=headers)) == (422, "idempotency-key-reused")


def test_another_currency_within_the_limits(client: Client) -> None:
    """With clamp the item comes without its price."""
    put(client, "alice", line("a", 1, 5))
    put(client, "guest-1", line("b", 2, 7, "USD"))
    merged = client.post(MERGE, json=GUEST | {"on_limit": "clamp"})
    assert merged.json["adjustments"] == [{"item_id": "b", "code": "currency_mismatch", "requested": 2, "applied": 2}]
    assert (items(client, "alice"), merged.json["currency"]) == ([("a", {}, 1, 5), ("b", {}, 2, None)], "EUR")


@pytest.mark.parametrize("on_limit", ["refuse", "clamp"])
def test_replacing_by_nothing(client: Client, on_limit: str) -> None:
    """A merge of an empty guest cart leaves the user's cart as it was."""
    put(client, "alice", line("a", 1, 5))
    put(client, "guest-1")
    before = state(client)
    merged = client.post(MERGE, json=GUEST | {"strategy": "replace", "on_limit": on_limit})
    assert (merged.headers["ETag"], cart_of(merged)) == before == state(client)


@pytest.mark.parametrize("source", ["there", "absent"])
@pytest.mark.parametrize("headers", [{"If-Match": '"old"'}, {"If-None-Match": "*"}], ids=str)
def test_a_precondition_is_of_the_target(client: Client, source: str, headers: dict[str, str]) -> None:
    """412 with the target's cart; the source is as it was and takes writes, and the merge can be sent again."""
    put(client, "alice", line("a", 1))
    if source == "there":
        put(client, "guest-1", line("a", 2))
    before = both(client)
    refused = client.post(MERGE, json=GUEST, headers=headers | {"Idempotency-Key": "k"})
    assert problem(refused) == (412, "precondition-failed")
    assert (refused.headers["ETag"], refused.json["cart"]) == before[0]
    assert both(client) == before
    retried = client.post(MERGE, json=GUEST, headers={"If-Match": refused.headers["ETag"], "Idempotency-Key": "k"})
    assert (retried.status_code, REPLAYED in retried.headers) == (200, False)
    assert retried.json["total_quantity"] == (3 if source == "there" else 1)


def test_the_tag_of_the_source_is_no_condition(client: Client) -> None:
    """If-Match applies to the cart in the path."""
    put(client, "alice", line("a", 1))
    tag = put(client, "guest-1", line("a", 2)).headers["ETag"]
    refused = client.post(MERGE, json=GUEST, headers={"If-Match": tag})
    assert (problem(refused), refused.json["cart"]["user_id"]) == ((412, "precondition-failed"), "alice")


# ---- retries ----


def test_a_repeated_merge_is_done_once(client: Client) -> None:
    """Also when the source has put something new aside in between: that is not taken."""
    headers, source = {"Idempotency-Key": "k"}, {"from_user_id": "bob"}
    put(client, "alice", line("a", 1))
    put(client, "bob", line("a", 2))
    assert client.post(MERGE, json=source, headers=headers).json["total_quantity"] == 3
    put(client, "bob", line("a", 5))
    again = client.post(MERGE, json=source, headers=headers)
    assert (again.status_code, again.headers[REPLAYED], again.json["total_quantity"]) == (200, "true", 3)
    assert client.get("/cart/bob").json["total_quantity"] == 5


def test_a_repetition_without_a_key_adds_nothing(client: Client) -> None:
    """The source is deleted, so nothing remains to be added."""
    put(client, "alice", line("a", 1))
    put(client, "guest-1", line("a", 2))
    for _ in range(3):
        assert client.post(MERGE, json=GUEST).json["total_quantity"] == 3


@pytest.mark.parametrize(
    "repetition",
    [{"from_token": "t1"}, {"from_token": "t2"}, {"from_token": None}, {"strategy": None}, {"strategy": "sum"}],
    ids=str,
)
def test_a_renewed_token_is_the_same_request(client: Client, repetition: dict[str, Any]) -> None:
    """Trap: a digest that covers from_token would turn a retry into a 422. It has no effect yet."""
    headers = {"Idempotency-Key": "k"}
    put(client, "guest-1", line("a", 2))
    first = client.post(MERGE, json=GUEST | {"from_token": "t1"}, headers=headers)
    assert (first.status_code, REPLAYED in first.headers) == (200, False)
    assert client.post(MERGE, json=GUEST | repetition, headers=headers).headers[REPLAYED] == "true"


@pytest.mark.parametrize("other", [{"from_user_id": "guest-2"}, GUEST | {"strategy": "max"}], ids=str)
def test_another_merge_with_the_same_key(client: Client, other: dict[str, Any]) -> None:
    """422, and the source it names is left alone."""
    headers = {"Idempotency-Key": "k"}
    for user_id in ("guest-1", "guest-2"):
        put(client, user_id, line("a", 2))
    client.post(MERGE, json=GUEST, headers=headers)
    before = both(client), state(client, "guest-2")
    assert problem(client.post(MERGE, json=other, headers=headers)) == (422, "idempotency-key-reused")
    assert (both(client), state(client, "guest-2")) == before


def test_a_consumed_cart_still_knows_its_keys(client: Client) -> None:
    """An add to the guest's cart, whose response was lost, is not applied again after the sign-in."""
    headers = {"Idempotency-Key": "k"}
    client.post("/cart/guest-1", json=line("a", 2), headers=headers)
    client.post(MERGE, json=GUEST)
    again = client.post("/cart/guest-1", json=line("a", 2), headers=headers)
    assert (again.headers[REPLAYED], again.json["version"]) == ("true", 0)
    assert [state(client, user_id)[1]["total_quantity"] for user_id in ("alice", "guest-1")] == [2, 0]


def test_the_key_of_a_merge_is_the_targets(client: Client) -> None:
    """The source has not heard of it."""
    headers = {"Idempotency-Key": "k"}
    put(client, "bob", line("a", 2))
    client.post(MERGE, json={"from_user_id": "bob"}, headers=headers)
    response = client.post("/cart/bob", json=line("a", 1), headers=headers)
    assert (response.status_code, REPLAYED in response.headers) == (200, False)


# ---- seals ----


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    """The store of a test that leaves in it what a crash would have left."""
    return MemoryStore(clock=clock, limit=2**24)


@pytest.fixture
def sealed(store: MemoryStore, clock: FakeClock) -> Client:
    """Return a client; a merge of guest-1 into alice has stopped after its second step."""
    client = make_client(store=store, clock=clock)
    put(client, "alice", line("a", 1))
    put(client, "guest-1", line("a", 2))
    seal(store, "guest-1", clock.now)
    mark(
        store, "alice", MergeMark("merge-1", "guest-1", done=False, at=clock.now, source_expires_at=clock.now + MINUTE)
    )
    return client


def seal(store: MemoryStore, user_id: str, at: int, strategy: Strategy = "sum") -> None:
    """Leave a seal there, of a merge into alice whose third step never came."""

    def change(record: Any) -> tuple[Any, None]:
        return structs.replace(record, tag=f"tag-{at}", seal=Seal("merge-1", "alice", strategy, at)), None

    store.update(user_id, change)


def mark(store: MemoryStore, user_id: str, *marks: MergeMark) -> None:
    """Leave these marks there."""
    store.update(user_id, lambda record: (structs.replace(record, tag="marked", merge_marks=marks), None))


WRITES = [
    ("POST", "", line("a", 1)),
    ("PUT", "", {"items": []}),
    ("DELETE", "", None),
    ("POST", "/items", {"items": [line("a", 1)]}),
    ("PATCH", "/items/a", {"quantity": 1}),
    ("DELETE", "/items/a", None),
    ("POST", "/merge", {"from_user_id": "bob"}),
]


@pytest.mark.parametrize(("method", "rest", "body"), WRITES)
def test_a_sealed_cart_takes_no_writes(sealed: Client, clock: FakeClock, method: str, rest: str, body: Any) -> None:
    """409 with Retry-After for five seconds; reads return the cart with its ETag, and do not resolve the merge."""
    put(sealed, "bob", line("b", 1))
    before = state(sealed, "guest-1")
    assert before[1]["total_quantity"] == 2
    for _ in range(2):
        refused = sealed.open(f"/cart/guest-1{rest}", method=method, json=body)
        assert (problem(refused), refused.headers["Retry-After"]) == ((409, "cart-sealed"), "5")
        assert sealed.get("/cart/guest-1/items/a").json == before[1]["items"][0]
        assert sealed.get("/cart/guest-1", headers={"If-None-Match": str(before[0])}).status_code == 304
        assert state(sealed, "guest-1") == before
        clock.advance(5_000)
    clock.advance(-4_999)  # the seal is one millisecond older than its life
    response = sealed.open(f"/cart/guest-1{rest}", method=method, json=body)
    assert response.status_code in {200, 204}
    assert sealed.get("/cart/alice").json["total_quantity"] == 1


def test_a_seal_from_the_future_is_settled(sealed: Client, store: MemoryStore, clock: FakeClock) -> None:
    """Another server's clock is ahead: no client has to wait for that time."""
    seal(store, "guest-1", clock.now + 1)
    assert sealed.post("/cart/guest-1", json=line("a", 1)).json["total_quantity"] == 3


def test_repeated_merge_is_resumed(sealed: Client) -> None:
    """The same target and strategy finish it, however young the seal is."""
    assert sealed.post(MERGE, json=GUEST).json["total_quantity"] == 3
    assert state(sealed, "guest-1")[0] is None


@pytest.mark.parametrize(("strategy", "total"), [("max", 2), ("keep", 1), ("replace", 2)])
def test_merge_with_another_strategy(sealed: Client, clock: FakeClock, strategy: str, total: int) -> None:
    """409 while the seal is young; afterwards the first merge is aborted, and this one is applied."""
    before = both(sealed)
    refused = sealed.post(MERGE, json=GUEST | {"strategy": strategy})
    assert (problem(refused), refused.headers["Retry-After"]) == ((409, "cart-sealed"), "5")
    assert both(sealed) == before
    clock.advance(5_001)
    assert sealed.post(MERGE, json=GUEST | {"strategy": strategy}).json["total_quantity"] == total
    assert state(sealed, "guest-1")[0] is None


def test_a_sealed_cart_is_merged_nowhere_else(sealed: Client, clock: FakeClock) -> None:
    """409 while the seal is young; afterwards the first merge is aborted and the second one done."""
    put(sealed, "bob", line("a", 10))
    refused = sealed.post("/cart/bob/merge", json=GUEST)
    assert (problem(refused), refused.headers["Retry-After"]) == ((409, "cart-sealed"), "5")
    clock.advance(5_001)
    assert sealed.post("/cart/bob/merge", json=GUEST).json["total_quantity"] == 12
    assert sealed.post(MERGE, json=GUEST).json["total_quantity"] == 1


def test_nothing_is_merged_into_a_sealed_cart(sealed: Client) -> None:
    """409, and the cart that was to come in is not left sealed."""
    put(sealed, "bob", line("b", 1))
    before = state(sealed, "bob"), state(sealed, "guest-1")
    refused = sealed.post("/cart/guest-1/merge", json={"from_user_id": "bob"})
    assert (problem(refused), refused.headers["Retry-After"]) == ((409, "cart-sealed"), "5")
    assert (state(sealed, "bob"), state(sealed, "guest-1")) == before
    assert sealed.post("/cart/bob", json=line("b", 1)).status_code == 200


def test_a_removed_target_settles_a_seal_too(sealed: Client, clock: FakeClock) -> None:
    """The target of an interrupted merge was removed: the merge is aborted."""
    sealed.delete("/cart/alice")
    clock.advance(5_001)
    assert sealed.post("/cart/guest-1", json=line("a", 1)).json["total_quantity"] == 3
    assert state(sealed)[0] is None


# ---- too many ----


def test_many_merges_into_one_cart(client: Client) -> None:
    """The marks of 64 merges are there, and none of them is needed any more: the 65th is accepted at once."""
    put(client, "alice", line("a", 1))
    for number in range(130):
        put(client, f"guest-{number}", line("a", 1))
        response = client.post(MERGE, json={"from_user_id": f"guest-{number}"})
        assert (response.status_code, response.json["total_quantity"]) == (200, number + 2)


@pytest.fixture
def crowded(store: MemoryStore, clock: FakeClock) -> Client:
    """Return a client; 64 merges into alice have begun within the last minute."""
    client = make_client(store=store, clock=clock)
    client.post("/cart/alice", json=line("a", 1), headers={"Idempotency-Key": "k"})
    marks = [MergeMark(f"m-{n}", f"g-{n}", done=False, at=clock.now, source_expires_at=clock.now) for n in range(64)]
    mark(store, "alice", *marks)
    put(client, "guest-1", line("a", 1))
    return client


def test_too_many_merges_at_once(crowded: Client, clock: FakeClock) -> None:
    """429 with Retry-After, and both carts take other writes. A minute later what was abandoned makes room."""
    before = both(crowded)
    for _ in range(2):
        refused = crowded.post(MERGE, json=GUEST)
        assert (problem(refused), refused.headers["Retry-After"]) == ((429, "too-many-merges"), "60")
        assert both(crowded) == before
        clock.advance(MINUTE - 1)
    assert crowded.post("/cart/guest-1", json=line("a", 1)).status_code == 200
    assert crowded.post("/cart/alice", json=line("a", 1)).status_code == 200
    clock.advance(-MINUTE + 2)
    assert crowded.post(MERGE, json=GUEST).json["total_quantity"] == 4


def test_replay_though_there_are_too_many(crowded: Client) -> None:
    """A retry needs no mark, so it gets its response."""
    merged = {"from_user_id": "absent"}
    headers = {"Idempotency-Key": "merge"}
    assert crowded.post(MERGE, json=merged, headers=headers).status_code == 200
    again = crowded.post(MERGE, json=merged, headers=headers)
    assert (again.headers[REPLAYED], again.json["total_quantity"]) == ("true", 1)
