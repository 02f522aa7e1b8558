"""Tests of liveness and readiness."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from client import RaisingStore, make_client, problem

from cartsvc.errors import StoreError

if TYPE_CHECKING:
    from client import Client


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_all_is_well(client: Client, path: str) -> None:
    """200, and a body for people."""
    answer = client.get(path)
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})


def test_a_store_that_is_away_makes_unready() -> None:
    """503 with Retry-After while the store does not answer."""
    answer = make_client(store=RaisingStore(StoreError())).get("/readyz")
    assert problem(answer) == (503, "store-away")
    assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize("error", [StoreError(), RuntimeError("secret")], ids=repr)
def test_a_store_that_fails_is_no_reason_to_restart(error: Exception) -> None:
    """The process lives, whatever its store does."""
    assert make_client(store=RaisingStore(error)).get("/healthz").status_code == 200


def test_a_store_that_fails_without_a_reason_makes_unready() -> None:
    """500 is not ready either, and does not say why."""
    answer = make_client(store=RaisingStore(RuntimeError("secret"))).get("/readyz")
    assert problem(answer) == (500, "internal-error")
    assert b"secret" not in answer.data
