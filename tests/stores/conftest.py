"""Fixtures of the tests on one Valkey server, and of those on one PostgreSQL server, whose names begin with ``pg``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import make_authority
from tests.support.clock import FakeClock, real_now
from tests.support.postgresql_proxy import postgresql_proxy
from tests.support.postgresql_store import opened as opened_postgresql
from tests.support.proxy import proxy
from tests.support.server_store import (
    PASSWORD,
)
from tests.support.valkey_store import opened
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

    from cartsvc.stores.valkey import ValkeyStore
    from tests.support.certificates import Authority
    from tests.support.postgresqls import Postgresql
    from tests.support.proxy import Proxy
    from tests.support.valkeys import Valkey


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    """Return a server that every test leaves usable."""
    with valkey() as running:
        yield running


@pytest.fixture
def admin(server: Valkey) -> Iterator[Redis]:
    """Return a client of a server without records, cached scripts and command counts."""
    with server.client() as client:
        client.flushall()
        client.script_flush()
        client.config_resetstat()
        yield client


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that begins at the server's time."""
    return FakeClock(real_now())


@pytest.fixture
def store(server: Valkey, admin: Redis, clock: FakeClock) -> Iterator[ValkeyStore]:  # noqa: ARG001 - it empties the server
    """Return a store on the server."""
    with opened(server.url, clock) as store:
        yield store


@pytest.fixture
def between(server: Valkey, admin: Redis) -> Iterator[Proxy]:  # noqa: ARG001 - it empties the server
    """Return a proxy to the server."""
    with proxy(server.port) as running:
        yield running


@pytest.fixture(scope="module")
def locked() -> Iterator[Valkey]:
    """Return a server with a password; ``shop`` has the rights that the store needs, ``guest`` may only read."""
    with valkey() as running:
        with running.client() as client:
            client.config_set("requirepass", PASSWORD)
            needed = ["+get", "+eval", "+evalsha", "+del", "+scan", "+set", "+getrange", "+select"]
            client.execute_command("ACL", "SETUSER", "shop", "on", f">{PASSWORD}", "~cart:*", *needed)
            client.execute_command("ACL", "SETUSER", "guest", "on", f">{PASSWORD}", "~cart:*", "+get", "+select")
        yield running


@pytest.fixture(scope="session")
def pg(postgresql_server: Postgresql) -> Postgresql:
    """Return a PostgreSQL server that every test leaves usable."""
    return postgresql_server


@pytest.fixture
def pg_database(pg: Postgresql) -> str:
    """Return an empty database. It is the same for all tests, because making one takes longer than most of them."""
    return pg.empty_database()


@pytest.fixture
def pg_url(pg: Postgresql, pg_database: str) -> str:
    """Return the URL of an empty database."""
    return pg.url_of(pg_database)


@pytest.fixture
def pg_between(pg: Postgresql, pg_url: str) -> Iterator[Proxy]:
    """Return a proxy to the PostgreSQL server; the empty database has the table."""
    with opened_postgresql(pg_url) as store:
        store.set_up()
    with postgresql_proxy(pg.port) as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Authority]:
    """Return a function that makes an authority of this name."""
    home = tmp_path_factory.mktemp("tls")
    return lambda name: make_authority(home, name)
