"""Tests of rate limits counted in Valkey: shared by all machines, and without effect while it is unavailable."""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from msgspec import structs

from cartsvc import create_app
from cartsvc.api import rate_limit
from cartsvc.settings import Settings
from tests.support.memory_store import MemoryStore
from tests.support.ports import free_port
from tests.support.services import FakeSeconds, racing
from tests.support.valkeys import cluster, valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

    from tests.support.valkeys import Valkey

SECRET = "a-password"  # noqa: S105 - of servers of the tests' own
SKU = {"product_id": "sku-1", "quantity": 1}


# A busy machine may need longer for an available server than the app waits, and the count would be wrong.
LONG = 20
AS_SERVED: float | None = None  # the time that the app waits by default


@pytest.fixture(scope="module")
def _shared() -> Iterator[Valkey]:
    with valkey() as running:
        yield running


@pytest.fixture
def server(_shared: Valkey) -> Valkey:
    """A server without any key."""
    with _shared.client() as client:
        client.flushall()
    return _shared


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> FakeSeconds:
    """The clock that decides when an unavailable counter is tried again."""
    fake = FakeSeconds()
    monkeypatch.setattr(rate_limit, "time", SimpleNamespace(monotonic=fake, time=time.time))
    return fake


def app_on(url: str, rate: str = "2/day", *, carts: bool = False, counter_timeout: float | None = LONG) -> Flask:
    """Return an app that counts there. By default its carts are in memory, so it serves them in any case."""
    with mock.patch.dict(os.environ, {"CARTSVC_STORE_URL": url, "CARTSVC_RATE_LIMIT": rate}, clear=True):
        settings = structs.replace(Settings.from_env(), store_timeout=20)
    store = None if carts else MemoryStore(clock=lambda: 0, limit=2**20)
    return create_app(settings, store=store, counter_timeout=counter_timeout)


def client_on(url: str, rate: str = "2/day", *, counter_timeout: float | None = LONG) -> FlaskClient:
    """A client of such an app."""
    return app_on(url, rate, counter_timeout=counter_timeout).test_client()


def ask(client: FlaskClient, address: str = "192.0.2.1") -> int:
    """The status of one GET from this address."""
    return answer_to(client, address).status_code


def answer_to(client: FlaskClient, address: str = "192.0.2.1") -> TestResponse:
    """Return the response to one GET from this address."""
    return client.get("/cart/alice", environ_overrides={"REMOTE_ADDR": address})


def asked(app: Flask) -> Callable[[], int]:
    """Return a function that counts the calls to the server from now on, whatever their result."""
    storage = app.extensions["cartsvc.rate_limiter"].storage
    storage._runner = mock.Mock(side_effect=storage._runner)  # noqa: SLF001 - only this test counts its calls
    return lambda: storage._runner.call_count  # noqa: SLF001 - as above


# ---- shared ----


@pytest.mark.parametrize("scheme", ["valkey", "redis"])
def test_two_apps_count_together(server: Valkey, scheme: str) -> None:
    """As two workers or machines do: each knows what the other has let through."""
    url = server.url.replace("valkey", scheme)
    one, other = client_on(url), client_on(url)
    assert [ask(one), ask(other), ask(one), ask(other)] == [200, 200, 429, 429]
    assert [ask(one, "192.0.2.2"), ask(other, "192.0.2.2"), ask(one, "192.0.2.2")] == [200, 200, 429]


def test_threads_of_two_apps_count_exactly(server: Valkey) -> None:
    """Of all requests that start together, as many pass as the limit allows."""
    apps = [app_on(server.url, "50/day") for _ in range(2)]
    found: list[int] = []

    def work(number: int) -> None:
        client = apps[number % 2].test_client()
        found.extend(ask(client) for _ in range(10))

    racing(16, work)
    assert (found.count(200), found.count(429)) == (50, 110)


def test_who_waits_for_retry_after_is_served(server: Valkey) -> None:
    """By the server's clock, which no test can turn; and not for longer than it takes."""
    client = client_on(server.url, "3/second")
    answers = (answer_to(client) for _ in range(20))
    response = next(each for each in answers if each.status_code == 429)
    after = int(response.headers["Retry-After"])
    assert 1 <= after <= 2
    time.sleep(after)
    assert ask(client) == 200


def test_retry_after_is_that_of_the_rate_that_lasts_longest(server: Valkey) -> None:
    """A caller that came back after the shorter time would exceed the longer rate."""
    client = client_on(server.url, "2/second;2/hour")
    assert [ask(client), ask(client)] == [200, 200]
    response = answer_to(client)
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) in {3599, 3600, 3601}


def test_counts_go_away_by_themselves(server: Valkey) -> None:
    """Each key expires, at most two windows later."""
    client = client_on(server.url, "5/second;100/minute")
    for number in range(20):
        ask(client, f"192.0.2.{number}")
    with server.client() as there:
        lives = [there.pttl(key) for key in there.scan_iter()]
    assert len(lives) == 40
    assert [life for life in lives if not 0 < life <= 120_000] == []


def test_counts_are_no_carts(server: Valkey) -> None:
    """They have their own names next to the carts, and a backup skips them."""
    app = app_on(server.url, carts=True)
    client = app.test_client()
    assert client.post("/cart/alice", json=SKU).status_code == 200
    with server.client() as there:
        keys = sorted(there.keys())
    assert [key.startswith(b"LIMITS:") for key in keys] == [True, False]
    done = app.test_cli_runner().invoke(args=["carts", "stats"])
    assert json.loads(done.output)["records"] == 1


def test_password_user_and_database(server: Valkey) -> None:
    """The counter is reached as the store is; characters of a password that mean something in a URL mean nothing."""
    password = "p@ss/word#1%?:"  # noqa: S105 - of this test's own server
    quoted = "p%40ss%2Fword%231%25%3F%3A"
    with server.client() as there:
        there.acl_setuser("shop", enabled=True, passwords=[f"+{password}"], keys=["*"], commands=["+@all"])
        client = client_on(f"valkey://shop:{quoted}@127.0.0.1:{server.port}/3")
        assert [ask(client) for _ in range(3)] == [200, 200, 429]
        there.acl_deluser("shop")
    with server.client(db=3) as third, server.client() as first:
        assert (len(third.keys()), len(first.keys())) == (1, 0)


def test_a_restarted_server_counts_anew(seconds: FakeSeconds) -> None:
    """It has lost the scripts; clients do not notice."""
    with valkey() as own:
        client = client_on(own.url)
        assert [ask(client) for _ in range(3)] == [200, 200, 429]
        own.stop()
        own.start()
        found = [ask(client) for _ in range(2)]  # the first one may still meet the old connection
        seconds.advance(2)
        found += [ask(client) for _ in range(3)]
        assert found[:2] == [200, 200]
        assert found[-1] == 429


# ---- a cluster ----


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Valkey]]:
    """Three primaries."""
    with cluster() as running:
        yield running


def _url(nodes: list[Valkey]) -> str:
    return f"valkey+cluster://{','.join(f'127.0.0.1:{node.port}' for node in nodes)}"


def test_a_cluster_counts_too(nodes: list[Valkey]) -> None:
    """Whichever node has a caller's count."""
    one, other = client_on(_url(nodes)), client_on(_url(nodes[1:]))
    for number in range(30):
        address = f"192.0.2.{number}"
        assert [ask(one, address), ask(other, address), ask(one, address), ask(other, address)] == [200, 200, 429, 429]


def test_a_cluster_that_is_away_at_the_start() -> None:
    """Trap: the library asks it for its nodes when it is made, and the start fails."""
    client = client_on(f"valkey+cluster://127.0.0.1:{free_port()}")
    assert [ask(client) for _ in range(5)] == [200] * 5


# ---- away ----


@contextmanager
def _never_there() -> Iterator[str]:
    yield f"valkey://shop:{SECRET}@127.0.0.1:{free_port()}"


@contextmanager
def _hurt(hurt: Callable[[Valkey], object]) -> Iterator[str]:
    with valkey() as own:
        with own.client() as there:
            there.acl_setuser("shop", enabled=True, passwords=[f"+{SECRET}"], keys=["*"], commands=["+@all"])
        hurt(own)
        yield f"valkey://shop:{SECRET}@127.0.0.1:{own.port}"


def _full(own: Valkey) -> None:
    with own.client() as there:
        there.config_set("maxmemory", 1)


def _read_only(own: Valkey) -> None:
    with own.client() as there:
        there.replicaof("127.0.0.1", free_port())


def _forbidden(own: Valkey) -> None:
    with own.client() as there:
        there.acl_setuser("shop", enabled=True, reset_keys=True, keys=["cart:*"], commands=["+@all"])


def _other_password(own: Valkey) -> None:
    with own.client() as there:
        there.acl_setuser("shop", enabled=True, reset_passwords=True, passwords=["+another"])


AWAY: dict[str, Callable[[], Any]] = {
    "never there": _never_there,
    "gone": lambda: _hurt(lambda own: own.kill()),
    "paused": lambda: _hurt(lambda own: own.pause()),
    "full": lambda: _hurt(_full),
    "read-only": lambda: _hurt(_read_only),
    "keys forbidden": lambda: _hurt(_forbidden),
    "another password": lambda: _hurt(_other_password),
}


@pytest.mark.parametrize("how", AWAY)
def test_a_counter_that_is_away_refuses_nobody(
    how: str, seconds: FakeSeconds, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried once in a while, and logged seldom, without a secret, an address or a traceback."""
    with AWAY[how]() as url:
        app = app_on(url, "1/day", counter_timeout=AS_SERVED)
        times, client = asked(app), app.test_client()
        for asking in range(1, 4):
            assert [ask(client) for _ in range(20)] == [200] * 20
            assert times() == asking
            seconds.advance(1.5)
        entries = [entry for entry in caplog.records if entry.name != "cartsvc.stores"]
        assert len(entries) == 1
        assert entries[0].getMessage().startswith("CARTSVC_RATE_LIMIT: the counter is unavailable, and")
        assert entries[0].exc_info is None
        assert not [word for word in (SECRET, "shop", "192.0.2.1", "127.0.0.1") if word in caplog.text]
        seconds.advance(60)
        ask(client)
        assert len(caplog.records) == 2


def test_a_counter_that_goes_away_and_comes_back(seconds: FakeSeconds) -> None:
    """What it has counted is still counted, and a thousand requests do not wait one after the other."""
    with valkey() as own:
        app = app_on(own.url, counter_timeout=2)
        client = app.test_client()
        assert [ask(client) for _ in range(3)] == [200, 200, 429]
        own.pause()
        times = asked(app)
        began = time.monotonic()
        assert [ask(client) for _ in range(1000)] == [200] * 1000
        assert times() == 1
        assert time.monotonic() - began < 20  # waiting for each would take half an hour
        own.resume()
        assert ask(client) == 200
        seconds.advance(1.5)
        assert [ask(client), ask(client)] == [429, 429]


def test_a_paused_counter_is_waited_for_a_quarter_of_a_second(seconds: FakeSeconds) -> None:
    """For all of it together: connecting, authenticating, and counting."""
    with _hurt(lambda own: own.pause()) as url:
        client = client_on(f"{url}/1", "5/second;5/day", counter_timeout=AS_SERVED)
        for _ in range(3):
            began = time.monotonic()
            assert ask(client) == 200
            assert 0.2 < time.monotonic() - began < 1.5
            seconds.advance(1.5)


def test_one_request_waits_and_not_all_of_them(seconds: FakeSeconds) -> None:
    """While one request finds out whether a paused counter is back, the others pass."""
    with valkey() as own:
        app = app_on(own.url, counter_timeout=AS_SERVED)
        own.pause()
        assert ask(app.test_client()) == 200
        times = asked(app)
        seconds.advance(1.5)
        found: list[int] = []
        racing(16, lambda _: found.append(ask(app.test_client())))
        assert (found, times()) == ([200] * 16, 1)


def test_a_counter_that_fails_while_a_caller_is_refused(server: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request stays rejected, although its time is unknown."""
    app = app_on(server.url, "1/day")
    client = app.test_client()
    assert ask(client) == 200
    storage = app.extensions["cartsvc.rate_limiter"].storage
    run = storage._runner  # noqa: SLF001 - to fail just there

    def failing(script: bytes, keys: list[str], arguments: list[Any]) -> Any:
        if script == rate_limit.RedisStorage.SCRIPT_SLIDING_WINDOW:
            raise rate_limit.StoreError
        return run(script, keys, arguments)

    monkeypatch.setattr(storage, "_runner", failing)
    response = answer_to(client)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "1")
    assert response.json["type"] == "urn:cartsvc:problem:too-many-requests"
