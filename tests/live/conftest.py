"""The servers that the live tests talk to: the real gunicorn with the real configuration, on a free port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from servers import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of its own for each test; parametrised with settings."""
    with serve(**getattr(request, "param", {})) as running:
        yield running
