"""The toy shop of examples/storefront/serve.py over HTTP: files, tokens, orders, and its end with its cart service."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.demo import Demo, demo

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def shop() -> Iterator[Demo]:
    """A demo. What the shell has set for a cart service does not reach that of the demo."""
    with demo(CARTSVC_AUTH="none", CARTSVC_MAX_QUANTITY="many", CARTSVC_STORE_URL="nowhere://") as running:
        yield running


@pytest.fixture
def client(shop: Demo) -> Iterator[httpx.Client]:
    """A browser without a session."""
    with httpx.Client(base_url=shop.url, trust_env=False) as client:
        yield client


def test_only_the_page_is_served(client: httpx.Client) -> None:
    """Its files are, under a policy that allows them and the cart service; the program and other files are not."""
    page = client.get("/")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name in ("app.js", "cart.js", "style.css"):
        assert client.get(f"/{name}").status_code == 200
    for name in ("serve.py", "none.js", "..%2Fpython%2Fcarts.py", "%2e%2e%2f%2e%2e%2fREADME.md", "__pycache__"):
        assert client.get(f"/{name}").status_code == 404


def test_a_session_has_tokens_that_the_service_accepts(client: httpx.Client, shop: Demo) -> None:
    """Ada's token opens her cart and no other; without a session there is none, and only two users exist."""
    assert client.get("/settings.json").json() == {"service": shop.service}
    assert client.get("/cart-token").json() is None
    assert client.post("/session", json={"user": "mallory"}).status_code == 422
    assert client.post("/session", json={"user": "ada"}).status_code == 204
    owner = client.get("/cart-token").json()
    assert owner["user_id"] == "ada"
    headers = {"Authorization": f"Bearer {owner['token']}"}
    opened = [httpx.get(f"{shop.service}/cart/{user}", headers=headers).status_code for user in ("ada", "grace")]
    assert opened == [200, 403]
    assert httpx.get(f"{shop.service}/cart/ada").status_code == 401
    client.delete("/session")
    assert client.get("/cart-token").json() is None


def test_an_order_takes_the_cart_that_was_seen(client: httpx.Client, shop: Demo) -> None:
    """A changed cart is not taken (412); a retry of the same order is answered as before."""
    client.post("/session", json={"user": "grace"})
    owner = client.get("/cart-token").json()
    headers = {"Authorization": f"Bearer {owner['token']}"}
    cart = f"{shop.service}/cart/grace"
    seen, now = (
        httpx.post(cart, headers=headers, json={"product_id": "mug", "quantity": 1}).headers["ETag"] for _ in range(2)
    )

    def order(etag: str, key: str) -> int:
        body = {"user_id": "grace", "etag": etag}
        return client.post("/orders", json=body, headers=headers | {"Idempotency-Key": key}).status_code

    assert [order(seen, "order-1"), order(now, "order-2"), order(now, "order-2")] == [412, 204, 204]
    assert httpx.get(cart, headers=headers).json()["items"] == []


def test_the_demo_ends_with_its_service() -> None:
    """When the cart service has ended, the page does not stay behind, and the exit code is 1."""
    with demo(expected=1) as shop:
        children = Path(f"/proc/{shop.pid}/task/{shop.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        shop.process.wait(30)
