"""Tests of headers: the ETag and what it saves, caching, nosniff, and CORS for storefronts in browsers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from flask.testing import FlaskClient

from cartsvc.errors import StoreError, StoreFull
from tests.support.api_client import MALFORMED_TAGS, SUFFIXES, Client, RaisingStore, make_client, problem

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

SKU = {"product_id": "sku-1", "quantity": 2}
PRICE = {"unit_price": 5, "currency": "EUR"}
ITEM = "/cart/alice/items/sku-1"
SHOP = "https://shop.example"
CORS_HEADERS = ("Access-Control-Allow-Origin", "Access-Control-Expose-Headers")


# ---- ETag ----


def test_every_cart_answer_has_an_etag(client: Client) -> None:
    """A strong and opaque tag in quotes, the same for the cart and its items."""
    responses = [
        client.put("/cart/alice", json={"items": [SKU]}),
        client.put("/cart/alice", json={"items": []}),
        client.post("/cart/alice", json=SKU),
        client.post("/cart/alice/items", json={"items": [SKU]}),
        client.patch(ITEM, json={"quantity": 1}),
        client.get("/cart/alice"),
        client.head("/cart/alice"),
        client.get(ITEM),
        client.head(ITEM),
        client.delete(ITEM),
    ]
    tags = [response.headers["ETag"] for response in responses]
    assert [re.fullmatch(r'"[A-Za-z0-9_-]{16}"', tag) is not None for tag in tags] == [True] * len(tags)
    assert len(set(tags[:5])) == 5
    assert set(tags[5:9]) == {tags[4]}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/cart/alice", {"items": [SKU | PRICE]}),
        ("PATCH", ITEM, {"quantity": 2}),
        ("PATCH", ITEM, PRICE),
        ("GET", "/cart/alice", None),
        ("POST", "/cart/alice", {"quantity": 0}),
        ("PUT", "/cart/alice", {"items": [{}]}),
        ("DELETE", "/cart/alice/items/nope", None),
        ("DELETE", "/cart/bob", None),
        ("POST", "/cart/bob", SKU),
    ],
)
def test_what_changes_nothing_keeps_the_etag(client: Client, method: str, path: str, body: object) -> None:
    """Also requests that are accepted and leave the cart as it was."""
    before = client.put("/cart/alice", json={"items": [SKU | PRICE]})
    client.open(path, method=method, json=body)
    after = client.get("/cart/alice")
    assert (after.headers["ETag"], after.json["version"]) == (before.headers["ETag"], before.json["version"])


def test_a_cart_as_it_once_was_has_a_new_etag(client: Client) -> None:
    """An ETag identifies a state in time: the same items again, or a cart created again, have another one."""
    tags = []
    for _ in range(2):
        tags.append(client.put("/cart/alice", json={"items": [SKU]}).headers["ETag"])
        tags.append(client.delete(ITEM).headers["ETag"])
    client.delete("/cart/alice")
    tags.append(client.put("/cart/alice", json={"items": [SKU]}).headers["ETag"])
    assert len(set(tags)) == len(tags)


# ---- If-None-Match ----


@pytest.mark.parametrize("path", ["/cart/alice", ITEM])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("form", ["{}", "W/{}", '"old", {}', '{} , "old"', '"old",W/{},"older"', "*"])
def test_not_modified(client: Client, path: str, method: str, form: str) -> None:
    """Trap: the library's 304 carries no ETag. Ours does, and Cache-Control too, and no body (RFC 9110, 15.4.5)."""
    tag = client.post("/cart/alice", json=SKU).headers["ETag"]
    response = client.open(path, method=method, headers={"If-None-Match": form.format(tag)})
    assert (response.status_code, response.data, response.headers["ETag"]) == (304, b"", tag)
    assert response.headers["Cache-Control"] == "private, no-cache"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/cart/alice", ITEM])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("weak", ["", "W/"])
def test_a_tag_that_a_proxy_changed_is_current(client: Client, path: str, suffix: str, weak: str) -> None:
    """Proxies that compress add the content coding to a tag, and do not remove it from the client's next request."""
    tag = client.post("/cart/alice", json=SKU).headers["ETag"].strip('"')
    response = client.get(path, headers={"If-None-Match": f'"old", {weak}"{tag}{suffix}"'})
    assert (response.status_code, response.headers["ETag"]) == (304, f'"{tag}"')
    other = client.get(path, headers={"If-None-Match": f'{weak}"~{tag[1:]}{suffix}", "{tag}{suffix}x", "{suffix}"'})
    assert other.status_code == 200


@pytest.mark.parametrize("path", ["/cart/alice", ITEM])
@pytest.mark.parametrize("value", ['"old"', 'W/"old"', '""', '"*"', 'W/"*"', '"a,b", "c"', '"\xe9"', '"old",,'])
def test_modified(client: Client, path: str, value: str) -> None:
    """Another ETag, whatever it looks like: 200 with the cart. A tag that holds an asterisk is a tag."""
    client.post("/cart/alice", json=SKU)
    response = client.get(path, headers={"If-None-Match": value})
    assert response.status_code == 200
    assert response.json["product_id" if path == ITEM else "user_id"] != ""


@pytest.mark.parametrize("path", ["/cart/alice", ITEM])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("value", MALFORMED_TAGS)
def test_a_read_with_malformed_tags(client: Client, path: str, method: str, value: str) -> None:
    """400, and the detail names the header."""
    client.post("/cart/alice", json=SKU)
    refused = client.open(path, method=method, headers={"If-None-Match": value})
    assert refused.status_code == 400
    if method == "GET":
        assert problem(refused) == (400, "bad-request")
        assert "If-None-Match" in refused.json["detail"]


def test_malformed_tags_are_told_of_an_absent_cart_too(client: Client) -> None:
    """Whether a header is malformed does not depend on what is in the store."""
    assert problem(client.get("/cart/alice", headers={"If-None-Match": "nonsense"})) == (400, "bad-request")


def test_a_changed_cart_is_modified(client: Client) -> None:
    """An ETag got before a change is no longer current."""
    tag = client.post("/cart/alice", json=SKU).headers["ETag"]
    client.post("/cart/alice", json=SKU)
    assert client.get("/cart/alice", headers={"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize("value", ["*", '"x"', '""', 'W/""'])
def test_an_absent_cart_is_always_modified(client: Client, value: str) -> None:
    """It has no ETag that one could have got."""
    assert client.get("/cart/alice", headers={"If-None-Match": value}).status_code == 200


def test_flasks_trusted_hosts_are_held(client: Client) -> None:
    """An application that sets TRUSTED_HOSTS refuses requests for other hosts."""
    client.application.config["TRUSTED_HOSTS"] = ["shop.example"]
    assert client.get("/cart/alice", headers={"Host": "shop.example"}).status_code == 200
    assert problem(client.get("/cart/alice", headers={"Host": "evil.example"})) == (400, "bad-request")


def test_a_websocket_is_rejected(client: Client) -> None:
    """No route accepts one: a shortcut of the router must not take the request for a plain GET."""
    plain = FlaskClient(client.application)  # 405 is not documented for GET
    headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
    assert plain.get("/cart/alice", headers=headers).status_code == 405


def test_head_is_get_without_a_body(client: Client) -> None:
    """The same status and headers, its length included."""
    client.post("/cart/alice", json=SKU)
    for path in ("/cart/alice", "/cart/bob", ITEM, "/cart/bob/items/x", "/cart/..", "/nope", "/healthz", "/readyz"):
        head, get = (call(path, headers={"X-Request-ID": "the-same"}) for call in (client.head, client.get))
        assert (head.status_code, head.data, dict(head.headers)) == (get.status_code, b"", dict(get.headers))


def test_what_is_cached(client: Client) -> None:
    """Only the user's browser may store carts, and revalidates them. (The client checks each response.)"""
    client.post("/cart/alice", json=SKU)
    for path in ("/cart/alice", "/cart/bob", ITEM):
        assert client.get(path).headers["Cache-Control"] == "private, no-cache"


# ---- CORS ----


@pytest.fixture
def shop() -> Client:
    """A client of an app that two origins may use."""
    return make_client(cors_origins=(SHOP, "http://localhost:3000"))


def _cors(response: TestResponse) -> dict[str, str]:
    return {name: value for name, value in response.headers if name.lower().startswith("access-control-")}


@pytest.mark.parametrize("origin", [SHOP, "http://localhost:3000"])
def test_an_allowed_origin_reads_answers(shop: Client, origin: str) -> None:
    """And the headers it needs. No cookies: credentials are not allowed."""
    response = shop.post("/cart/alice", json=SKU, headers={"Origin": origin})
    assert response.status_code == 200
    assert _cors(response) == {
        CORS_HEADERS[0]: origin,
        CORS_HEADERS[1]: "ETag, Idempotency-Replayed, Location, Retry-After, WWW-Authenticate, X-Request-ID",
    }
    assert "Origin" in response.vary


@pytest.mark.parametrize(
    ("method", "path", "arguments", "status"),
    [
        ("GET", "/cart/alice", {}, 200),
        ("GET", "/healthz", {}, 200),
        ("GET", "/openapi.json", {}, 200),
        ("PUT", "/cart/bob", {"json": {"items": []}}, 201),
        ("POST", "/cart/alice", {"data": b"{", "content_type": "application/json"}, 400),
        ("GET", "/nope", {}, 404),
        ("GET", "/cart/alice/items/x", {}, 404),
        ("PATCH", "/cart/alice/merge", {}, 405),
        ("POST", "/cart/alice", {"json": SKU | {"quantity": 999}}, 409),
        ("DELETE", "/cart/alice", {"headers": {"If-Match": '"old"'}}, 412),
        ("POST", "/cart/alice", {"data": b" " * 200_000, "content_type": "application/json"}, 413),
        ("POST", "/cart/alice", {"data": b"x", "content_type": "text/plain"}, 415),
        ("POST", "/cart/alice", {"json": []}, 422),
        ("GET", "/cart/..", {}, 422),
        ("DELETE", "/cart/alice", {}, 204),
    ],
)
def test_problems_are_read_too(shop: Client, method: str, path: str, arguments: dict[str, Any], status: int) -> None:
    """An allowed origin may read every response, and no other origin may."""
    for origin, allowed in (("https://evil.example", False), (SHOP, True)):
        shop.put("/cart/alice", json={"items": [SKU]})
        shop.delete("/cart/bob")
        headers = {"Origin": origin} | arguments.get("headers", {})
        response = shop.open(path, method=method, **arguments | {"headers": headers})
        assert (response.status_code, CORS_HEADERS[0] in response.headers) == (status, allowed)


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("secret"), 500), (StoreError(), 503), (StoreFull(), 507)], ids=str
)
def test_failures_are_read_too(error: Exception, status: int) -> None:
    """A page can distinguish a failure of the service from one of the network, and reads Retry-After."""
    shop = make_client(cors_origins=(SHOP,), store=RaisingStore(error))
    response = shop.post("/cart/alice", json=SKU, headers={"Origin": SHOP})
    assert (response.status_code, response.headers[CORS_HEADERS[0]]) == (status, SHOP)


def test_a_replay_is_read_too(shop: Client) -> None:
    """A page of an allowed origin learns from Idempotency-Replayed that its request was done before."""
    headers = {"Origin": SHOP, "Idempotency-Key": "k"}
    for replayed in (None, "true"):
        response = shop.post("/cart/alice", json=SKU, headers=headers)
        assert response.headers.get("Idempotency-Replayed") == replayed
        assert "Idempotency-Replayed" in re.split(r", *", response.headers[CORS_HEADERS[1]])


def test_not_modified_is_read_too(shop: Client) -> None:
    """304 has the headers as well."""
    tag = shop.post("/cart/alice", json=SKU).headers["ETag"]
    response = shop.get("/cart/alice", headers={"Origin": SHOP, "If-None-Match": tag})
    assert (response.status_code, response.headers[CORS_HEADERS[0]], response.headers["ETag"]) == (304, SHOP, tag)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://shop.example",
        "https://shop.example:8443",
        "https://shop.example.evil.example",
        "https://evil.example/https://shop.example",
        "https://xshop.example",
        "https://shopxexample",
        "null",
        "*",
        "",
    ],
)
def test_other_origins_read_nothing(shop: Client, origin: str) -> None:
    """No header allows them anything, also where they look like an allowed one."""
    for method in ("GET", "OPTIONS"):
        headers = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
        response = shop.open("/cart/alice", method=method, headers=headers)
        assert origin not in response.headers.getlist(CORS_HEADERS[0])
        assert origin == "" or _cors(response) == {}


@pytest.mark.parametrize("origin", [SHOP, "null", "https://evil.example"])
def test_no_origin_is_allowed_by_default(client: Client, origin: str) -> None:
    """Without CARTSVC_CORS_ORIGINS there is no CORS header, on a preflight neither."""
    preflight = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    responses = [
        client.get("/cart/alice", headers={"Origin": origin}),
        client.post("/cart/alice", json={}, headers={"Origin": origin}),
        client.get("/nope", headers={"Origin": origin}),
        client.options("/cart/alice", headers=preflight),
    ]
    assert [_cors(response) for response in responses] == [{}] * 4


def test_every_origin() -> None:
    """``*`` allows each."""
    shop = make_client(cors_origins=("*",))
    for origin in (SHOP, "https://other.example", "null"):
        response = shop.get("/cart/alice", headers={"Origin": origin})
        assert response.headers[CORS_HEADERS[0]] in {"*", origin}


def test_an_ipv6_origin() -> None:
    """An origin is a text and no pattern, even with brackets."""
    shop = make_client(cors_origins=("http://[::1]:3000",))
    assert (
        shop.get("/cart/alice", headers={"Origin": "http://[::1]:3000"}).headers[CORS_HEADERS[0]] == "http://[::1]:3000"
    )
    assert _cors(shop.get("/cart/alice", headers={"Origin": "http://1:3000"})) == {}


_PREVIEWS = "https://*.preview.example"


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        (_PREVIEWS, "https://pr-7.preview.example"),
        (_PREVIEWS, "https://PR_7.preview.example"),
        (_PREVIEWS, f"https://{'a' * 63}.preview.example"),
        ("http://*.localhost:3000", "http://shop.localhost:3000"),
    ],
)
def test_a_wildcard_is_one_label(allowed: str, origin: str) -> None:
    """A preview of any name reads responses, and a shared cache keeps them apart by origin."""
    shop = make_client(cors_origins=(allowed,))
    headers = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    for response in (shop.get("/cart/alice", headers=headers), shop.options("/cart/alice", headers=headers)):
        assert response.headers[CORS_HEADERS[0]] == origin
        assert "Origin" in response.vary


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        (_PREVIEWS, "https://preview.example"),
        (_PREVIEWS, "https://.preview.example"),
        (_PREVIEWS, "https://a.b.preview.example"),
        (_PREVIEWS, "https://evil.example/a.preview.example"),
        (_PREVIEWS, "https://evil.example#.preview.example"),
        (_PREVIEWS, "https://evil.example:1.preview.example"),
        (_PREVIEWS, "https://a@b.preview.example"),
        (_PREVIEWS, "https://ä.preview.example"),
        (_PREVIEWS, "https://a.previewxexample"),
        (_PREVIEWS, "https://apreview.example"),
        (_PREVIEWS, "https://a.preview.example.evil.example"),
        (_PREVIEWS, "https://a.preview.example:8443"),
        (_PREVIEWS, "https://a.preview.example:443"),
        (_PREVIEWS, "http://a.preview.example"),
        (_PREVIEWS, "xhttps://a.preview.example"),
        (_PREVIEWS, "https://*.preview.example"),
        (_PREVIEWS, f"https://{'a' * 64}.preview.example"),
        (_PREVIEWS, "null"),
        ("http://*.localhost:3000", "http://shop.localhost:3001"),
        ("http://*.localhost:3000", "http://shop.localhost"),
    ],
)
def test_a_wildcard_is_nothing_else(allowed: str, origin: str) -> None:
    """Not the bare domain, not two labels, no other scheme, port or end."""
    shop = make_client(cors_origins=(allowed,))
    headers = {"Origin": origin.encode().decode("latin-1"), "Access-Control-Request-Method": "PUT"}
    for response in (shop.get("/cart/alice", headers=headers), shop.options("/cart/alice", headers=headers)):
        assert _cors(response) == {}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/cart/alice"),
        ("PUT", "/cart/alice"),
        ("DELETE", "/cart/alice"),
        ("GET", "/cart/alice"),
        ("POST", "/cart/alice/items"),
        ("PATCH", ITEM),
        ("DELETE", ITEM),
        ("POST", "/cart"),
        ("POST", "/cart/alice/merge"),
    ],
)
@pytest.mark.parametrize(
    "asked",
    [
        "content-type,if-none-match",
        "Content-Type",
        "if-none-match",
        "if-match",
        "idempotency-key",
        "content-type,idempotency-key,if-match,if-none-match",
        None,
    ],
)
def test_preflight(shop: Client, method: str, path: str, asked: str | None) -> None:
    """A preflight allows the method and the requested headers for a while, and does nothing."""
    headers = {"Origin": SHOP, "Access-Control-Request-Method": method}
    if asked is not None:
        headers["Access-Control-Request-Headers"] = asked
    response = shop.options(path, headers=headers)
    assert response.status_code == 200
    assert response.headers[CORS_HEADERS[0]] == SHOP
    assert method in re.split(r", *", response.headers["Access-Control-Allow-Methods"])
    allowed = re.split(r", *", response.headers.get("Access-Control-Allow-Headers", "").lower())
    assert set((asked or "").lower().split(",")) <= set(allowed)
    assert int(response.headers["Access-Control-Max-Age"]) > 0
    assert shop.get("/cart/alice").json["version"] == 0


def test_preflight_allows_no_other_headers(shop: Client) -> None:
    """What the service does not read, a page of another origin may not send."""
    asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type,x-evil"}
    response = shop.options("/cart/alice", headers={"Origin": SHOP} | asked)
    assert response.headers["Access-Control-Allow-Headers"].lower() == "content-type"


@pytest.mark.parametrize(
    "name",
    [
        *("traceparent", "tracestate", "baggage", "sentry-trace", "X-Request-ID", "X-Requested-With", "Cache-Control"),
        *("authorization", "x-session", "x$app"),
    ],
)
def test_preflight_allows_tracing_and_what_the_setting_adds(name: str) -> None:
    """Tracing that is turned on in a page must not block its cart; a name is a text and no pattern."""
    shop = make_client(cors_origins=(SHOP,), cors_headers=("X-Session", "X$App", "x.y"))
    for asked in (name, name.lower()):
        assert _allowed_headers(shop, asked) == {asked}
    assert _allowed_headers(shop, f"{name},content-type,{name}y,x,x-y") == {name, "content-type"}


def test_preflight_allows_no_header_by_default_that_the_setting_adds(shop: Client) -> None:
    """Each of the built-in ones is allowed, and no other."""
    assert _allowed_headers(shop, "traceparent,x-session") == {"traceparent"}


def _allowed_headers(shop: Client, asked: str) -> set[str]:
    headers = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": asked}
    response = shop.options("/cart/alice", headers={"Origin": SHOP} | headers)
    return set(re.split(r", *", response.headers["Access-Control-Allow-Headers"]))


def test_preflight_asks_no_store() -> None:
    """The response depends on the configuration only, also while the store is unavailable, and for any user_id."""
    shop = make_client(cors_origins=(SHOP,), store=RaisingStore(StoreError()))
    for path in ("/cart/alice", "/cart/..", "/cart/%00"):
        response = shop.options(path, headers={"Origin": SHOP, "Access-Control-Request-Method": "PUT"})
        assert (response.status_code, response.headers[CORS_HEADERS[0]]) == (200, SHOP)
