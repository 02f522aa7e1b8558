"""A service with authentication behind a lossy network, for the examples that call it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.lossy_http import Network, network_before, service_with_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx


@pytest.fixture(scope="package")
def service() -> Iterator[httpx.Client]:
    """Return a client that reaches the real server directly, and may use every cart."""
    with service_with_tokens() as client:
        yield client


@pytest.fixture
def network(service: httpx.Client) -> Iterator[Network]:
    """Return the lossy network in front of the service."""
    with network_before(service) as network:
        yield network
