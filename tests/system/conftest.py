"""Fixtures of the system tests: the real gunicorn with the real configuration, on a free port."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.http_clients import Client
from tests.support.load import ROOM
from tests.support.parsers import PARSERS, with_parser
from tests.support.raw_http import check_well
from tests.support.servers import serve
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgresqls import Postgresql
    from tests.support.servers import Server

# Arguments and settings of servers: each parser and each worker class. A parser does not depend on the worker class.
SERVERS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    **{f"gevent-{parser}": (with_parser(parser), {}) for parser in PARSERS},
    f"threads-{PARSERS[0]}": (with_parser(PARSERS[0]), {"CARTSVC_THREADS": "4"}),
}
_ROUNDS = int(os.environ.get("SOAK_ROUNDS", "1"))


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Return a server for one test; parametrised with settings."""
    with serve(**getattr(request, "param", {})) as running:
        yield running


@pytest.fixture(scope="module", params=[{}, {"CARTSVC_THREADS": "8"}], ids=["gevent", "threads"])
def shared_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Return one server for a module, of each worker class, with room for many adds to an item.

    No test may end it, and each has carts of its own.
    """
    with serve(**ROOM, **request.param) as running:
        yield running


@contextmanager
def store_of(kind: str, request: pytest.FixtureRequest, directory: Path) -> Iterator[str]:
    """Return the URL of a new store of this kind, until the block ends."""
    if kind == "memory":
        yield "memory://"
    elif kind == "lmdb":
        yield f"lmdb://{directory}/carts?sync=off"  # the tests of a store itself wait for the disk
    elif kind == "postgresql":
        server: Postgresql = request.getfixturevalue("postgresql_server")
        yield server.url_of(server.empty_database())
    else:
        with valkey() as running:
            yield running.url


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return a store of its own for each test, of the kind that its parameter names."""
    with store_of(request.param, request, tmp_path) as url:
        yield url


@pytest.fixture(params=range(1, _ROUNDS + 1))
def soak_round(request: pytest.FixtureRequest) -> int:
    """Run a test that depends on chance SOAK_ROUNDS times; once by default."""
    number: int = request.param
    return number


@pytest.fixture(scope="package", params=SERVERS, ids=SERVERS)
def attacked_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Return one server for all hostile tests, of each worker class and parser: it must survive every request."""
    arguments, settings = SERVERS[request.param]
    with serve(*arguments, CARTSVC_CORS_ORIGINS="https://shop.example", WEB_CONCURRENCY="1", **settings) as server:
        yield server


@pytest.fixture
def attacked(attacked_server: Server) -> Iterator[Server]:
    """Return the server, without a cart of alice.

    After the test it serves as before, with the same workers and no unexpected log line.
    """
    with Client(attacked_server.url) as client:
        client.call("DELETE", "/cart/alice")
    workers, logged = attacked_server.workers(), len(attacked_server.log())
    yield attacked_server
    check_well(attacked_server, logged)
    assert attacked_server.workers() == workers
