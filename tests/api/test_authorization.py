"""Tests of access: every route with every kind of token, complete by construction; guests; merges; secrets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import jwt
import pytest

from cartsvc.errors import StoreError
from tests.support.api_client import RaisingStore, make_client, problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from werkzeug.test import TestResponse

    from tests.support.api_client import Client

KEY, GUEST_KEY = "a-secret-of-the-shop's-issuer-0123456789", "a-secret-of-this-service-9876543210abcdef"
ISSUER, AUDIENCE = "https://issuer.example", "carts"
SETTINGS = {
    "CARTSVC_AUTH": "jwt",
    "CARTSVC_JWT_KEY": KEY,
    "CARTSVC_JWT_ISSUER": ISSUER,
    "CARTSVC_JWT_AUDIENCE": AUDIENCE,
    "CARTSVC_GUEST_KEY": GUEST_KEY,
}
SKU = {"product_id": "sku-1", "quantity": 1}
HERS = "/cart/alice"


def token(sub: str = "alice", *, key: str = KEY, algorithm: str = "HS256", **claims: Any) -> str:
    """A token as the shop's issuer makes it, but for what is said here; a claim of None is left out."""
    now = int(time.time())
    given = {"sub": sub, "exp": now + 300, "iss": ISSUER, "aud": AUDIENCE} | claims
    return jwt.encode({name: value for name, value in given.items() if value is not None}, key, algorithm)


def bearing(text: str | None) -> dict[str, str]:
    """The headers of a request with this token."""
    return {} if text is None else {"Authorization": f"Bearer {text}"}


@pytest.fixture
def client() -> Client:
    """Of an app that asks for tokens, with a cart for Alice."""
    made = make_client(environ=SETTINGS)
    assert made.post(HERS, json=SKU, headers=bearing(token())).status_code == 200
    return made


# ---- the matrix ----


class Call(NamedTuple):
    """A request that succeeds for a caller with access, and its status."""

    status: int
    body: object = None


# Every route for carts. One that is not here fails test_no_route_is_forgotten.
CALLS = {
    ("GET", "/cart/<user_id>"): Call(200),
    ("POST", "/cart/<user_id>"): Call(200, SKU),
    ("PUT", "/cart/<user_id>"): Call(200, {"items": [SKU]}),
    ("DELETE", "/cart/<user_id>"): Call(204),
    ("PATCH", "/cart/<user_id>"): Call(200, {"metadata": {"note": "x"}}),
    ("PATCH", "/cart/<user_id>/items"): Call(200, {"items": [{"item_id": "sku-1", "quantity": 2}]}),
    ("POST", "/cart/<user_id>/items"): Call(200, {"items": [SKU]}),
    ("GET", "/cart/<user_id>/items/<item_id>"): Call(200),
    ("PATCH", "/cart/<user_id>/items/<item_id>"): Call(200, {"quantity": 2}),
    ("DELETE", "/cart/<user_id>/items/<item_id>"): Call(200),
    ("POST", "/cart/<user_id>/merge"): Call(200, {"from_user_id": "carol", "from_token": token("carol", exp=2**32)}),
    ("POST", "/cart"): Call(201),
}
# Routes for all callers.
PUBLIC = {
    ("GET", "/"),
    ("GET", "/healthz"),
    ("GET", "/openapi.json"),
    ("GET", "/readyz"),
    ("GET", "/swagger-ui"),
    ("GET", "/swagger-ui/start.js"),
    ("GET", "/swagger-ui/<any('swagger-ui-bundle.js', 'swagger-ui.css', 'favicon-32x32.png'):file>"),
}
_GUEST = {"typ": "cartsvc-guest+jwt"}


def guest_token(sub: str, *, key: str = GUEST_KEY) -> str:
    """A guest's token, or one that resembles it."""
    claims = {"iss": "urn:cartsvc", "aud": "urn:cartsvc:guest", "sub": sub, "exp": int(time.time()) + 300}
    return jwt.encode(claims, key, "HS256", headers=_GUEST)


# What comes with a request for Alice's cart, and what becomes of it: None when it is done.
BEARERS: dict[str, tuple[Callable[[], str | None], tuple[int, str] | None]] = {
    "no token": (lambda: None, (401, "Bearer")),
    "her own": (token, None),
    "forged": (lambda: token(key="another-secret-of-another-issuer-0123456789"), (401, "invalid_token")),
    "signed with the guests' key": (lambda: token(key=GUEST_KEY), (401, "invalid_token")),
    "expired": (lambda: token(exp=int(time.time()) - 60), (401, "invalid_token")),
    "without an end": (lambda: token(exp=None), (401, "invalid_token")),
    "not yet valid": (lambda: token(nbf=int(time.time()) + 60), (401, "invalid_token")),
    "wrong issuer": (lambda: token(iss="https://other.example"), (401, "invalid_token")),
    "no issuer": (lambda: token(iss=None), (401, "invalid_token")),
    "wrong audience": (lambda: token(aud="payments"), (401, "invalid_token")),
    "no audience": (lambda: token(aud=None), (401, "invalid_token")),
    "unsigned": (lambda: token(key="", algorithm="none"), (401, "invalid_token")),
    "wrong algorithm": (lambda: token(key=KEY * 2, algorithm="HS512"), (401, "invalid_token")),
    "no token at all": (lambda: "abc", (401, "invalid_token")),
    "two words": (lambda: "a b", (400, "invalid_request")),
    "another user's": (lambda: token("bob"), (403, "insufficient_scope")),
    "in another case": (lambda: token("Alice"), (403, "insufficient_scope")),
    "a guest's": (lambda: guest_token("guest-1"), (403, "insufficient_scope")),
    "a forged guest's": (lambda: guest_token("guest-1", key=KEY), (401, "invalid_token")),
    "a guest who is none": (lambda: guest_token("alice"), (401, "invalid_token")),
    "a user who is a guest": (lambda: token("guest-1"), (401, "invalid_token")),
    "every cart's": (lambda: token("till", scope="profile carts:all"), None),
    "nearly every cart's": (
        lambda: token("till", scope="carts:all-not xcarts:all CARTS:ALL"),
        (403, "insufficient_scope"),
    ),
}


def send(client: Client, method: str, rule: str, user_id: str, *, bearer: str | None, body: object) -> TestResponse:
    """Send a request of this route for this user, with this token."""
    path = rule.replace("<user_id>", user_id).replace("<item_id>", "sku-1")
    more = {} if body is None else {"json": body}
    return client.open(path, method=method, headers=bearing(bearer), **more)


def test_no_route_is_forgotten(client: Client) -> None:
    """Each route is in the matrix or public by decision; HEAD and OPTIONS go with GET."""
    routes = {
        (method, rule.rule)
        for rule in client.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert routes == CALLS.keys() | PUBLIC


@pytest.mark.parametrize("bearer", BEARERS)
@pytest.mark.parametrize(("method", "rule"), [each for each in CALLS if "<user_id>" in each[1]])
def test_the_matrix(client: Client, method: str, rule: str, bearer: str) -> None:
    """What each token permits on Alice's cart. Rejections are alike, and change nothing."""
    make, refused = BEARERS[bearer]
    call = CALLS[method, rule]
    before = client.get(HERS, headers=bearing(token())).data
    response = send(client, method, rule, "alice", bearer=make(), body=call.body)
    if refused is None:
        assert response.status_code == call.status
        return
    status, error = refused
    assert response.status_code == status
    challenge = "Bearer" if error == "Bearer" else f'Bearer error="{error}"'
    assert response.headers.getlist("WWW-Authenticate") == [challenge]
    assert problem(response)[1] == {400: "bad-request", 401: "unauthorized", 403: "forbidden"}[status]
    assert client.get(HERS, headers=bearing(token())).data == before


@pytest.mark.parametrize("bearer", BEARERS)
def test_the_matrix_of_new_guests(client: Client, bearer: str) -> None:
    """POST /cart needs no token; a wrong one is rejected, and a guest's own returns the same guest."""
    make, refused = BEARERS[bearer]
    text = make()
    response = client.post("/cart", headers=bearing(text))
    if text is not None and refused is not None and refused[0] in {400, 401}:
        assert response.status_code == refused[0]
        return
    assert response.status_code == 201
    again = bearer == "a guest's"
    assert (response.json["user_id"] == "guest-1") == again
    assert response.json["user_id"].startswith("guest-")


@pytest.mark.parametrize(("method", "rule"), [each for each in CALLS if "<user_id>" in each[1]])
def test_a_guest_opens_the_guests_cart(client: Client, method: str, rule: str) -> None:
    """With the token that POST /cart gave, all of it; with another guest's, nothing."""
    guest = client.post("/cart").json
    call = CALLS[method, rule]
    body = {"from_user_id": "carol", "from_token": token("carol")} if rule.endswith("merge") else call.body
    assert client.post(f"/cart/{guest['user_id']}", json=SKU, headers=bearing(guest["token"])).status_code == 200
    other = client.post("/cart").json["token"]
    assert send(client, method, rule, guest["user_id"], bearer=other, body=body).status_code == 403
    assert send(client, method, rule, guest["user_id"], bearer=guest["token"], body=body).status_code == call.status


@pytest.mark.parametrize(("method", "path"), sorted(each for each in PUBLIC if "<" not in each[1]))
def test_public_routes_ask_nobody(client: Client, method: str, path: str) -> None:
    """No token, and no wrong one either, keeps anybody from them."""
    for text in (None, "abc"):
        assert client.open(path, method=method, headers=bearing(text)).status_code in {200, 302}


# ---- the order of the checks ----


def test_tokens_come_before_everything_else() -> None:
    """Nothing of the request is looked at before: neither body, nor headers, nor user_id, nor the store."""
    client = make_client(environ=SETTINGS, store=RaisingStore(StoreError()))
    wrong = {"Idempotency-Key": "not visible", "If-Match": "no tag", "Content-Type": "text/plain"}
    for path in (HERS, "/cart/not a user", f"{HERS}/items/x", f"{HERS}/merge"):
        for text, status in ((None, 401), (token("bob"), 403)):
            for method in ("POST", "PATCH", "DELETE"):
                response = client.open(path, method=method, data="{", headers=wrong | bearing(text))
                assert response.status_code in {status, 405}


def test_a_403_does_not_tell_whether_a_cart_is_there(client: Client) -> None:
    """The responses are the same to the byte."""
    sent = bearing(token("bob")) | {"X-Request-ID": "the-same"}
    there = client.get(HERS, headers=sent)
    absent = client.get("/cart/nobody", headers=sent)
    assert (there.status_code, there.data, sorted(there.headers)) == (403, absent.data, sorted(absent.headers))


def test_a_preflight_needs_no_token() -> None:
    """A browser asks before it sends a token; and a problem can be read by the page."""
    client = make_client(environ=SETTINGS | {"CARTSVC_CORS_ORIGINS": "https://shop.example"})
    origin = {"Origin": "https://shop.example"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    response = client.options(HERS, headers=origin | asked)
    assert response.status_code == 200
    assert "authorization" in response.headers["Access-Control-Allow-Headers"].lower()
    refused = client.get(HERS, headers=origin)
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, "https://shop.example")
    assert "WWW-Authenticate" in refused.headers["Access-Control-Expose-Headers"]


# ---- guests and merges ----


def test_a_guests_token_is_renewed(client: Client) -> None:
    """The same guest, the cart as it was, and a token that opens it; no cache may keep either."""
    first = client.post("/cart")
    user_id = first.json["user_id"]
    client.post(f"/cart/{user_id}", json=SKU, headers=bearing(first.json["token"]))
    second = client.post("/cart", headers=bearing(first.json["token"]))
    assert (second.status_code, second.json["user_id"], second.headers["Location"]) == (
        201,
        user_id,
        f"cart/{user_id}",
    )
    assert [each.headers["Cache-Control"] for each in (first, second)] == ["no-store", "no-store"]
    cart = client.get(f"/cart/{user_id}", headers=bearing(second.json["token"]))
    assert cart.json["total_quantity"] == 1


def test_the_token_of_a_merged_guest_gives_a_new_guest(client: Client) -> None:
    """Its cart takes no more writes, and reads as absent; the new guest's does."""
    guest = client.post("/cart").json
    path, headers = f"/cart/{guest['user_id']}", bearing(guest["token"])
    client.post(path, json=SKU, headers=headers)
    body = {"from_user_id": guest["user_id"], "from_token": guest["token"]}
    assert client.post(f"{HERS}/merge", json=body, headers=bearing(token())).status_code == 200
    assert problem(client.post(path, json=SKU, headers=headers)) == (409, "cart-merged")
    assert client.get(path, headers=headers).json["version"] == 0
    new = client.post("/cart", headers=headers).json
    assert new["user_id"] != guest["user_id"]
    assert client.post(f"/cart/{new['user_id']}", json=SKU, headers=bearing(new["token"])).status_code == 200


def test_a_merge_needs_the_right_to_both_carts(client: Client) -> None:
    """Only with the guest's token the guest's items come over; whatever else is given, both carts stay as they are."""
    guest = client.post("/cart").json
    source = f"/cart/{guest['user_id']}"
    client.post(source, json=SKU, headers=bearing(guest["token"]))
    stranger = client.post("/cart").json["token"]
    for text in (None, "abc", "", stranger, token("bob"), token(), guest_token(guest["user_id"], key=KEY)):
        body = {"from_user_id": guest["user_id"], "from_token": text}
        sent = bearing(token()) | {"X-Request-ID": "the-same"}
        response = client.post(f"{HERS}/merge", json=body, headers=sent)
        assert problem(response) == (403, "forbidden")
        absent = client.post(f"{HERS}/merge", json=body | {"from_user_id": "guest-2"}, headers=sent)
        assert (absent.status_code, absent.data) == (403, response.data)
    assert client.get(source, headers=bearing(guest["token"])).json["total_quantity"] == 1
    body = {"from_user_id": guest["user_id"], "from_token": guest["token"]}
    merged = client.post(f"{HERS}/merge", json=body, headers=bearing(token()))
    assert (merged.status_code, merged.json["total_quantity"]) == (200, 2)


def test_a_service_merges_without_the_guests_token(client: Client) -> None:
    """The scope carts:all opens both carts."""
    guest = client.post("/cart").json
    client.post(f"/cart/{guest['user_id']}", json=SKU, headers=bearing(guest["token"]))
    body = {"from_user_id": guest["user_id"]}
    merged = client.post(f"{HERS}/merge", json=body, headers=bearing(token("till", scope="carts:all")))
    assert (merged.status_code, merged.json["total_quantity"]) == (200, 2)


def test_a_renewed_token_does_not_make_a_retry_another_request(client: Client) -> None:
    """The Idempotency-Key's digest leaves from_token out."""
    guest = client.post("/cart").json
    client.post(f"/cart/{guest['user_id']}", json=SKU, headers=bearing(guest["token"]))
    renewed = client.post("/cart", headers=bearing(guest["token"])).json["token"]
    headers = bearing(token()) | {"Idempotency-Key": "sign-in"}
    for text, replayed in ((guest["token"], None), (renewed, "true")):
        body = {"from_user_id": guest["user_id"], "from_token": text}
        response = client.post(f"{HERS}/merge", json=body, headers=headers)
        assert (response.status_code, response.json["total_quantity"]) == (200, 2)
        assert response.headers.get("Idempotency-Replayed") == replayed


# ---- without authentication ----


def test_without_authentication_tokens_are_not_looked_at() -> None:
    """CARTSVC_AUTH=none: every cart is open, guests get no token, and a wrong one is no fault."""
    client = make_client()
    for text in (None, "abc", "a b", token("bob")):
        assert client.post(HERS, json=SKU, headers=bearing(text)).status_code == 200
        assert client.post("/cart", headers=bearing(text)).json["token"] is None
    body = {"from_user_id": "bob", "from_token": "abc"}
    assert client.post(f"{HERS}/merge", json=body).status_code == 200


def test_the_document_says_whether_tokens_are_needed(client: Client) -> None:
    """With tokens each operation on carts names them, and 401 and 403; without, none does."""
    for document, asked in ((client.contract.document, True), (make_client().contract.document, False)):
        assert ("securitySchemes" in document["components"]) == asked
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                needs = asked and path.startswith("/cart/")
                assert (operation.get("security") == [{"token": []}]) == needs, (method, path)
                assert ("403" in operation["responses"]) == needs
                assert ("401" in operation["responses"]) == (asked and path.startswith("/cart"))


def test_no_answer_shows_a_token_or_a_secret(client: Client) -> None:
    """Whatever the token, the problem contains neither the token nor a key."""
    for name, (make, refused) in BEARERS.items():
        text = make()
        response = client.get(HERS, headers=bearing(text))
        text_sent = response.get_data(as_text=True) + str(response.headers)
        assert KEY not in text_sent
        assert GUEST_KEY not in text_sent
        if text and refused is not None and len(text) > 5:
            assert text not in text_sent, name
