"""examples/storefront/cart.js in Chromium: two tabs of a shop on another origin, with tokens."""

from __future__ import annotations

import json
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.support.http_server import Quiet, serving
from tests.support.servers import serve
from tests.support.tokens import ENVIRONMENT, user_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Watched
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

_MODULE = Path(__file__).parents[2] / "examples" / "storefront" / "cart.js"
_PAGE = """<!doctype html><title>A shop</title><link rel="icon" href="data:,">
<output></output>
<script type="module">
import { ShopCart } from "./cart.js";
const { searchParams } = new URL(location.href);
const cart = new ShopCart({
  base: searchParams.get("base"),
  user: async () => (await fetch("/cart-token")).json(),
});
const output = document.querySelector("output");
cart.subscribe(({ cart }) => {
  const items = cart.items.map((item) => `${item.quantity} ${item.product_id}`);
  output.textContent = `${cart.user_id?.slice(0, 5)}: ${items.sort().join(", ")}`;
});
globalThis.cart = cart;
globalThis.add = (product_id) => cart.add({ product_id, quantity: 1 });
await cart.signIn();
</script>"""


class _Shop(Quiet, BaseHTTPRequestHandler):
    """A page, the module, and the token of the session, of which the server has one."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        user: str | None = self.server.user  # type: ignore[attr-defined]
        kind, text = {
            "/": ("text/html", _PAGE),
            "/cart.js": ("text/javascript", _MODULE.read_text()),
            "/cart-token": ("application/json", json.dumps(user and {"user_id": user, "token": user_token(user)})),
        }[path]
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def shop() -> Iterator[ThreadingHTTPServer]:
    """A shop whose session has no user yet."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Shop)
    server.user = None  # type: ignore[attr-defined]
    with serving(server):
        yield server


def test_two_tabs_have_one_cart(watched: Watched, shop: ThreadingHTTPServer) -> None:
    """First clicks at the same time, a network that fails, a sign-in: both tabs show the same cart, and all of it."""
    origin = f"http://127.0.0.1:{shop.server_address[1]}"
    with serve(CARTSVC_CORS_ORIGINS=origin, **ENVIRONMENT) as server:
        one, two = watched.page, watched.page.context.new_page()
        for tab in (one, two):
            tab.goto(f"{origin}/?base={server.url}")
            expect(tab.locator("output")).to_have_text("undefined: ")

        for tab, product in ((one, "mug"), (two, "tee")):
            tab.evaluate("(product) => void (globalThis.clicked = add(product))", product)
        for tab in (one, two):
            tab.evaluate("() => globalThis.clicked")
        _show(one, two, "guest: 1 mug, 1 tee")

        watched.page.context.set_offline(True)
        one.evaluate("() => void (globalThis.clicked = add('cap'))")
        watched.page.context.set_offline(False)
        one.evaluate("() => globalThis.clicked")
        _show(one, two, "guest: 1 cap, 1 mug, 1 tee")

        shop.user = "alice"  # type: ignore[attr-defined]
        one.evaluate("() => cart.signIn()")
        _show(one, two, "alice: 1 cap, 1 mug, 1 tee")
        two.evaluate("() => add('mug')")
        _show(one, two, "alice: 1 cap, 1 tee, 2 mug")


def _show(one: Page, two: Page, text: str) -> None:
    for tab in (one, two):
        expect(tab.locator("output")).to_have_text(text)
