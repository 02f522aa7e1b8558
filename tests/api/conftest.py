"""What the API tests share: a client of an app of its own, and a clock for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.api_client import make_client
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from tests.support.api_client import Client


@pytest.fixture
def client() -> Client:
    """A client of a fresh app with the default settings."""
    return make_client()


@pytest.fixture
def clock() -> FakeClock:
    """A clock for the apps of a test, which passes it to ``make_client``."""
    return FakeClock()
