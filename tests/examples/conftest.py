"""A service with authentication behind a lossy network, for the examples that call it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.lossy_http import Network, lossy_network
from tests.support.servers import serve
from tests.support.tokens import ENVIRONMENT, user_token

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def service() -> Iterator[httpx.Client]:
    """Return a client that reaches the real server directly, and may use every cart."""
    headers = {"Authorization": f"Bearer {user_token('tests', scope='carts:all', seconds=3600)}"}
    with serve(**ENVIRONMENT) as server, httpx.Client(base_url=server.url, headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture
def network(service: httpx.Client) -> Iterator[Network]:
    """Return the lossy network in front of the service."""
    with lossy_network(str(service.base_url).removeprefix("http://").rstrip("/")) as network:
        yield network
    assert network.trouble == []  # a test whose trouble never came has shown nothing
