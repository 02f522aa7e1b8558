"""Servers for the generated clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.documents import WITH_AUTH, WITHOUT_AUTH
from tests.support.http_clients import Client
from tests.support.shops import shop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.shops import Shop


@pytest.fixture(scope="package")
def running_shops() -> Iterator[dict[str, Shop]]:
    """Serve the API of each document, by its file."""
    with shop(WITHOUT_AUTH) as public, shop(WITH_AUTH) as private:
        yield {WITHOUT_AUTH.file: public, WITH_AUTH.file: private}


@pytest.fixture
def shops(running_shops: dict[str, Shop]) -> Iterator[dict[str, Shop]]:
    """Return the servers, on which alice has no cart. Clients share no idempotency keys."""
    yield running_shops
    for url, token in running_shops.values():
        with Client(url) as client:
            client.call("DELETE", "/cart/alice", Authorization=f"Bearer {token}")
