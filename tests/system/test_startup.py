"""What only a real start shows: where it listens, what its first lines name, and what it refuses to serve with."""

from __future__ import annotations

import socket
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from cartsvc.server.cpus import available_cpus
from cartsvc.version import __version__
from tests.support.http_clients import Client
from tests.support.parsers import PARSERS, with_parser
from tests.support.raw_http import statuses
from tests.support.servers import run, serve
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from tests.support.servers import Server


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


_LISTENING = [("127.0.0.1", {"127.0.0.1": True, "127.0.0.2": False}), ("0.0.0.0", {"127.0.0.1": True})]  # noqa: S104
if _has_ipv6():  # a machine without it cannot be asked
    _LISTENING[0][1]["::1"] = _LISTENING[1][1]["::1"] = False
    _LISTENING += [("::1", {"::1": True, "127.0.0.1": False}), ("::", {"::1": True, "127.0.0.1": True})]


@pytest.mark.parametrize(("host", "reached"), _LISTENING, ids=lambda cell: cell if isinstance(cell, str) else "")
def test_host_is_where_it_listens(host: str, reached: dict[str, bool]) -> None:
    """On that address and on no other; ``::`` serves both families."""
    with serve(HOST=host, WEB_CONCURRENCY="1") as server:
        assert {address: _answers(server, address) for address in reached} == reached


def _answers(server: Server, address: str) -> bool:
    host = f"[{address}]" if ":" in address else address
    try:
        with urllib.request.urlopen(f"http://{host}:{server.port}/healthz", timeout=20) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_the_start_names_what_it_runs_with() -> None:
    """One line, with the worker class, the parser and the limits that hold; the store's password is in none.

    The parser is the one that requests get: only the C parser accepts two blanks in a request line.
    """
    blanks = b"GET  /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with serve() as server:
        assert f"cartsvc {__version__}: store memory:///" in server.log()
        assert f"), {available_cpus()} gevent worker" in server.log()
        assert f" ({PARSERS[0]} parser), 2000 connections" in server.log()
        assert ", auth none\n" in server.log()
        assert statuses(server, blanks) == [200 if PARSERS[0] == "C" else 400]
    with (
        valkey() as store,
        serve(
            *with_parser("Python"),
            CARTSVC_STORE_URL=store.url.replace("://", "://default:s3cret@"),
            CARTSVC_THREADS="4",
            WEB_CONCURRENCY="2",
        ) as server,
    ):
        told = f"store {store.url}"
        assert f"cartsvc {__version__}: {told.rstrip('/')}" in server.log()
        assert "2 gthread workers of 4 threads (Python parser), 2000 connections each, auth none\n" in server.log()
        assert "s3cret" not in server.log()
        assert statuses(server, blanks) == [400]


def test_wrong_settings_stop_the_start() -> None:
    """All faults are named in one message, without a traceback, and the exit code is 1.

    One of them is that CARTSVC_AUTH=jwt was forgotten: no key is shown.
    """
    ended = run(
        CARTSVC_MAX_ITEMS="many",
        CARTSVC_STORE_URL="http://x",
        CARTSVC_JWT_KEY="s3cret" * 6,
        CARTSVC_GUEST_KEY="s3cret" * 6,
    )
    assert ended.returncode == 1
    assert ended.output.count("cartsvc cannot start") == 1
    assert "CARTSVC_MAX_ITEMS='many': must be a whole number" in ended.output
    assert "CARTSVC_STORE_URL=...: must be" in ended.output
    assert "CARTSVC_AUTH: must be set together with CARTSVC_GUEST_KEY, CARTSVC_JWT_KEY" in ended.output
    assert "s3cret" not in ended.output
    assert "Traceback" not in ended.output


def test_settings_without_effect_are_reported() -> None:
    """The log names the setting nearest to a misspelt variable, and the keys that CARTSVC_AUTH=none ignores.

    It names no variables of Kubernetes, and shows no key.
    """
    keys = {"CARTSVC_JWT_KEY": "s3cret" * 6, "CARTSVC_GUEST_KEY": "s3cret" * 6}
    slip = {"CARTSVC_CART_TLL": "5", "CARTSVC_SERVICE_HOST": "10.0.0.1"}
    with serve(CARTSVC_AUTH="none", WEB_CONCURRENCY="1", **keys, **slip) as server:
        assert "CARTSVC_AUTH=none ignores CARTSVC_GUEST_KEY, CARTSVC_JWT_KEY" in server.log()
        assert "s3cret" not in server.log()
        assert "CARTSVC_CART_TLL is not a setting of cartsvc" in server.log()
        assert "the nearest one is CARTSVC_CART_TTL" in server.log()
        assert "SERVICE_HOST" not in server.log()


def test_few_open_files_are_told_and_fail_no_request() -> None:
    """With 64 files for a worker 60 clients share 16 connections, so Valkey's connections find files too."""
    with valkey() as store, serve(open_files=64, CARTSVC_STORE_URL=store.url, WEB_CONCURRENCY="1") as server:

        def add_some(number: int) -> list[int]:
            with Client(server.url) as client:
                return [client.add(f"user-{number}").status for _ in range(4)]

        with ThreadPoolExecutor(60) as pool:
            statuses = list(pool.map(add_some, range(60)))
        assert statuses == [[200] * 4] * 60
        assert "each worker has room for 16 connections only, and not for 2000: ulimit -n is 64" in server.log()
        assert f"1 gevent worker ({PARSERS[0]} parser), 16 connections, auth none\n" in server.log()
