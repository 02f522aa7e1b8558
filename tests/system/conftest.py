"""The servers that the live tests talk to: the real gunicorn with the real configuration, on a free port."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.servers import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Server

_ROUNDS = int(os.environ.get("SOAK_ROUNDS", "1"))


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of its own for each test; parametrised with settings."""
    with serve(**getattr(request, "param", {})) as running:
        yield running


@pytest.fixture(params=range(1, _ROUNDS + 1))
def soak_round(request: pytest.FixtureRequest) -> int:
    """For tests that hit upon a moment by chance: they run SOAK_ROUNDS times (once)."""
    number: int = request.param
    return number
