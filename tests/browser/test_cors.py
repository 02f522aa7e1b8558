"""A storefront's page calls the service from an origin of its own: it can when it is allowed, and only then."""

from __future__ import annotations

import json
import urllib.request
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.http_server import Quiet, serving
from tests.support.servers import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Watched
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

# What a storefront's script sees of an answer, or the name of the error that fetch fails with.
_FETCH = """
async ([url, options]) => {
  try {
    const answer = await fetch(url, {cache: "no-store", ...options});
    const text = await answer.text();
    return {
      status: answer.status,
      etag: answer.headers.get("ETag"),
      type: answer.headers.get("Content-Type"),
      body: text ? JSON.parse(text) : null,
    };
  } catch (error) {
    return {failed: error.name};
  }
}
"""


class _Blank(Quiet, BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        page = b"<!doctype html><title>A shop</title><link rel='icon' href='data:,'>"
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    """The origin of a storefront whose only page is blank."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Blank)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture(scope="module")
def allowing(shop: str) -> Iterator[str]:
    """A service that allows the shop, and one other origin before it."""
    with serve(CARTSVC_CORS_ORIGINS=f"https://shop.example,{shop}", CARTSVC_CORS_HEADERS="X-Session") as server:
        yield server.url


@pytest.fixture
def page(watched: Watched, shop: str) -> Page:
    """The storefront's page."""
    watched.page.goto(shop)
    return watched.page


def test_an_allowed_origin_adds_and_reads_the_etag(page: Page, allowing: str) -> None:
    """Adding with a JSON body works across origins, and script sees the cart and its ETag."""
    added = _add(page, allowing, "alice")
    assert added["status"] == 200
    assert [(item["product_id"], item["quantity"]) for item in added["body"]["items"]] == [("sku-1", 2)]
    with urllib.request.urlopen(f"{allowing}/cart/alice", timeout=20) as read:  # noqa: S310 - our own URL
        assert (added["etag"], added["body"]) == (read.headers["ETag"], json.load(read))


def test_an_allowed_origin_asks_whether_its_cart_is_current(page: Page, allowing: str) -> None:
    """If-None-Match passes the preflight: script sees 304 and the same ETag, and the new cart once it has changed."""
    etag = _add(page, allowing, "bob")["etag"]
    asked = {"headers": {"If-None-Match": etag}}

    current = _fetch(page, f"{allowing}/cart/bob", asked)
    assert (current["status"], current["etag"], current["body"]) == (304, etag, None)

    changed = _add(page, allowing, "bob")
    fresh = _fetch(page, f"{allowing}/cart/bob", asked)
    assert (fresh["status"], fresh["etag"], fresh["body"]) == (200, changed["etag"], changed["body"])
    assert changed["etag"] != etag


@pytest.mark.parametrize(
    ("call", "sent", "problem"),
    [
        ("POST /cart/carol", {"product_id": "sku-1", "quantity": 0}, (422, "invalid-request")),
        ("PATCH /cart/nobody/items/sku-1", {"quantity": 1}, (404, "cart-not-found")),
        ("PUT /cart/carol/items", {"items": []}, (405, "method-not-allowed")),
        ("DELETE /cart/nobody", None, (404, "cart-not-found")),
        ("GET /nowhere", None, (404, "not-found")),
    ],
)
def test_an_allowed_origin_reads_problems(
    page: Page, allowing: str, call: str, sent: object, problem: tuple[int, str]
) -> None:
    """A refusal reaches the script as the problem that it is, whatever the method, and not as a failed fetch."""
    method, path = call.split()
    status, slug = problem
    refused = _fetch(page, allowing + path, _request(method, sent))
    assert (refused["status"], refused["type"]) == (status, "application/problem+json")
    assert (refused["body"]["type"], refused["body"]["status"]) == (f"urn:cartsvc:problem:{slug}", status)


@pytest.mark.parametrize(
    "name",
    [
        *("traceparent", "tracestate", "baggage", "sentry-trace", "X-Request-ID", "X-Requested-With", "Cache-Control"),
        "X-Session",
    ],
)
def test_an_allowed_origin_sends_tracing_and_what_the_setting_adds(page: Page, allowing: str, name: str) -> None:
    """With tracing turned on in the page its cart still works; one header that is not allowed would block the call."""
    traced = _request("POST", {"product_id": "sku-1", "quantity": 2})
    traced["headers"][name] = "x"
    assert _fetch(page, f"{allowing}/cart/traced-{name}", traced)["status"] == 200
    traced["headers"]["X-Other"] = "x"
    assert _fetch(page, f"{allowing}/cart/traced-{name}", traced) == {"failed": "TypeError"}


@pytest.mark.parametrize(
    ("allowed", "succeeds"),
    [
        ("http://*.localhost:{port}", True),
        ("http://*.localhost", False),
        ("https://*.localhost:{port}", False),
        ("http://*.shop.localhost:{port}", False),
    ],
)
def test_a_wildcard_allows_one_label(watched: Watched, shop: str, allowed: str, *, succeeds: bool) -> None:
    """A page on pr-7.localhost, which Chromium finds on this machine, may call when the wildcard matches it exactly."""
    port = shop.rpartition(":")[2]
    with serve(CARTSVC_CORS_ORIGINS=allowed.format(port=port)) as server:
        watched.page.goto(f"http://pr-7.localhost:{port}")
        assert _add(watched.page, server.url, "alice").get("status") == (200 if succeeds else None)
        watched.page.goto(f"http://localhost:{port}")  # the bare domain
        assert _add(watched.page, server.url, "alice") == {"failed": "TypeError"}


@pytest.mark.parametrize("origins", ["", "https://shop.example"], ids=["none", "another"])
def test_an_origin_that_is_not_allowed_can_do_nothing(page: Page, origins: str) -> None:
    """Its fetch fails, to write as to read, and its add has not been done."""
    with serve(CARTSVC_CORS_ORIGINS=origins) as server:
        assert _add(page, server.url, "alice") == {"failed": "TypeError"}
        assert _fetch(page, f"{server.url}/cart/alice", {}) == {"failed": "TypeError"}
        # The service is there all along, and nothing has been added.
        with urllib.request.urlopen(f"{server.url}/cart/alice", timeout=20) as read:  # noqa: S310 - our own URL
            cart = json.load(read)
        assert (cart["version"], cart["items"]) == (0, [])


def _add(page: Page, url: str, user_id: str) -> dict[str, Any]:
    return _fetch(page, f"{url}/cart/{user_id}", _request("POST", {"product_id": "sku-1", "quantity": 2}))


def _request(method: str, sent: object) -> dict[str, Any]:
    if sent is None:
        return {"method": method}
    return {"method": method, "headers": {"Content-Type": "application/json"}, "body": json.dumps(sent)}


def _fetch(page: Page, url: str, options: dict[str, Any]) -> dict[str, Any]:
    seen: dict[str, Any] = page.evaluate(_FETCH, [url, options])
    return seen
