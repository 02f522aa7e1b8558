"""PostgresqlStore in tests: opened on a server that a test pauses, limits or puts behind a proxy."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from cartsvc.stores.postgresql import PostgresqlStore
from cartsvc.stores.urls import PostgresqlConfig, parse_store_url
from tests.support.clock import real_now
from tests.support.records import adding
from tests.support.server_store import (
    AMPLE,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.postgresqls import Postgresql
    from tests.support.proxy import Proxy

TABLE = "cartsvc_records"
READ, ADD, WRITE = "SELECT", "INSERT", "UPDATE"


@contextmanager
def opened(url: str, clock: Callable[[], int] = real_now, *, timeout: float = AMPLE) -> Iterator[PostgresqlStore]:
    """Open a store on this URL."""
    config = parse_store_url(url)
    assert isinstance(config, PostgresqlConfig)
    store = PostgresqlStore(config, clock=clock, timeout=timeout)
    try:
        yield store
    finally:
        store.close()


def url_of(between: Proxy, database: str = "postgres") -> str:
    """Return the URL of a database of the server behind this proxy."""
    return f"postgresql://postgres@127.0.0.1:{between.port}/{database}"


def create_table(server: Postgresql, database: str = "postgres") -> None:
    """Create the table, and empty it."""
    with opened(server.url_of(database)) as store:
        store.set_up()
    server.ask(f"TRUNCATE {TABLE}", database=database)


def warm_up(store: PostgresqlStore) -> None:
    """Use each statement so often that the connection has prepared it."""
    for _ in range(6):
        store.update("warm", lambda _: (None, None))
        store.update("warm", adding(real_now))
        store.update("warm", adding(real_now))
        store.update("warm", lambda _: (None, None))
        store.ping()
