"""The id of a request over HTTP: in the response, and in a problem."""

from __future__ import annotations

import re

import pytest

from tests.support.api_client import Client, RaisingStore, make_client

MADE = re.compile(r"[0-9a-f]{16}")
CALLS = [
    ("GET", "/cart/alice", 200),
    ("HEAD", "/cart/alice", 200),
    ("POST", "/cart", 201),
    ("DELETE", "/cart/alice", 404),
    ("GET", "/nowhere", 404),
    ("PUT", "/healthz", 405),
    ("GET", "/healthz", 200),
    ("GET", "/openapi.json", 200),
    ("GET", "/swagger-ui", 200),
    ("POST", "/cart/alice", 415),
]


@pytest.mark.parametrize(("method", "path", "status"), CALLS)
def test_every_response_has_the_id(client: Client, method: str, path: str, status: int) -> None:
    """Once, whatever the response is; a problem names it as its instance."""
    response = client.open(path, method=method, headers={"X-Request-ID": "shop-1.2_3"})
    assert (response.status_code, response.headers.getlist("X-Request-ID")) == (status, ["shop-1.2_3"])
    if response.mimetype == "application/problem+json":
        assert response.json["instance"] == "urn:cartsvc:request:shop-1.2_3"


@pytest.mark.parametrize("sent", [None, "", "a b", "x" * 65, "<script>", '"', "a;b"])
def test_an_id_is_made(client: Client, sent: str | None) -> None:
    """Unless the client sends a valid one; each request gets another."""
    headers = {} if sent is None else {"X-Request-ID": sent}
    ids = [client.get("/nowhere", headers=headers) for _ in range(2)]
    made = [response.headers["X-Request-ID"] for response in ids]
    assert [bool(MADE.fullmatch(each)) for each in made] == [True, True]
    assert made[0] != made[1]
    assert [response.json["instance"] for response in ids] == [f"urn:cartsvc:request:{each}" for each in made]


def test_an_internal_error_has_the_id() -> None:
    """So that the client can name the request whose cause is in the log."""
    client = make_client(store=RaisingStore(RuntimeError("secret")))
    response = client.get("/cart/alice", headers={"X-Request-ID": "q"})
    assert (response.status_code, response.headers["X-Request-ID"]) == (500, "q")
    assert response.json["instance"] == "urn:cartsvc:request:q"
