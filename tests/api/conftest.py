"""What the API tests share: a client of an app of its own, and a clock for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("openapi", "client")  # their asserts are to tell as much as those of test files

from client import make_client  # noqa: E402 - after the line above, or it has no effect
from clock import FakeClock  # noqa: E402 - as above

if TYPE_CHECKING:
    from client import Client


@pytest.fixture
def client() -> Client:
    """A client of a fresh app with the default settings."""
    return make_client()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The clock of every app that the test makes."""
    fake = FakeClock()
    monkeypatch.setattr("cartsvc.app._clock", fake)
    return fake
