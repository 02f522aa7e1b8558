"""Fixtures for the tests of the commands."""

from __future__ import annotations

import pytest

from tests.support.carts_cli import CartsCli


@pytest.fixture
def cli() -> CartsCli:
    return CartsCli()


@pytest.fixture
def other(cli: CartsCli) -> CartsCli:
    """Return the commands for another store, which is empty."""
    return CartsCli(cli.clock)
