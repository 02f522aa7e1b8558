"""Test passwords, TLS and several hosts of the PostgreSQL store."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from typing import TYPE_CHECKING

import pytest

from cartsvc.errors import OutcomeUnknown, StoreError, StoreUnusable
from tests.support.clock import real_now
from tests.support.postgresql_proxy import postgresql_proxy
from tests.support.postgresql_store import opened, url_of
from tests.support.postgresqls import postgresql
from tests.support.records import a_record, adding, at_once, put
from tests.support.server_store import (
    AMPLE,
    IN_A_URL,
    LOST,
    MARGIN,
    PASSWORD,
    THREADS,
    TIME,
    kind_of,
    quantity,
    texts_of_failures,
)
from tests.support.store_child import Child
from tests.support.valkeys import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.certificates import Authority
    from tests.support.postgresqls import Postgresql
    from tests.support.proxy import Fate


# ---- passwords ----


@pytest.fixture(scope="module")
def locked() -> Iterator[Postgresql]:
    """Return a server that requires a password."""
    with postgresql() as server:
        server.ask(f"CREATE ROLE shop LOGIN PASSWORD '{PASSWORD}'")
        server.ask("GRANT CREATE ON SCHEMA public TO shop")
        server.require_passwords()
        yield server


def test_credentials_of_the_url(locked: Postgresql) -> None:
    """The password is percent-encoded."""
    with opened(f"postgresql://shop:{IN_A_URL}@127.0.0.1:{locked.port}/postgres") as store:
        store.startup_warnings()
        store.ping()
        store.update("u", adding(real_now))
        assert [user_id for user_id, _ in store.scan()] == ["u"]


REJECTED = {
    "no password": ("shop@", "no password supplied"),
    "a wrong password": ("shop:geheim-wrong@", "password authentication failed"),
    "a wrong user": (f"nobody:{IN_A_URL}@", "password authentication failed"),
}


@pytest.mark.parametrize(("login", "expected"), REJECTED.values(), ids=REJECTED)
def test_rejected_login_raises_store_error(
    locked: Postgresql, login: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A StoreError; and no error, log line or warning contains a password."""
    caplog.set_level(logging.DEBUG)
    with opened(f"postgresql://{login}127.0.0.1:{locked.port}/postgres", timeout=AMPLE) as store:
        texts = texts_of_failures(store)
        assert expected in " ".join(texts)
        texts += [*store.startup_warnings(), caplog.text, repr(store)]
        assert "geheim" not in " ".join(texts)


# ---- TLS ----


def test_tls(pg: Postgresql, pg_url: str, pg_database: str, authority: Callable[[str], Authority]) -> None:
    """With the right authority; not with a wrong one, another host's certificate, or a server without TLS."""
    right, wrong = authority("right"), authority("wrong")
    with postgresql_proxy(pg.port, context=right.context) as between:
        url = f"{url_of(between, pg_database)}?sslmode=verify-full&sslrootcert="
        with opened(f"{url}{right.trusted}") as store:
            store.ping()
            for _ in range(20):
                store.update("u", adding(real_now))
            put(store, "large", a_record(real_now, note="x" * 100_000))
            assert len(list(store.scan())) == 2
            assert quantity(store) == 20
            assert between.connections == 1
        for other in (f"{url}{wrong.trusted}", f"{url}{right.trusted}".replace("127.0.0.1", "localhost")):
            between.names()
            with opened(other, timeout=AMPLE) as store:
                with pytest.raises(StoreError) as caught:
                    store.update("u", adding(real_now))
                words = str(caught.value.__cause__)
                assert "certificate verify failed" in words or "does not match host name" in words
                assert type(caught.value) is StoreError
            assert between.names() == []
    with opened(f"{pg_url}?sslmode=require") as store:
        with pytest.raises(StoreError) as caught:
            store.ping()
        assert "does not support SSL" in str(caught.value.__cause__)


def test_client_certificate(pg: Postgresql, pg_database: str, authority: Callable[[str], Authority]) -> None:
    """A server that requires one accepts the client with it, and no other."""
    right, wrong = authority("right"), authority("wrong")
    right.context.load_verify_locations(right.trusted)
    right.context.verify_mode = ssl.CERT_REQUIRED
    with postgresql_proxy(pg.port, context=right.context) as between:
        url = f"{url_of(between, pg_database)}?sslmode=verify-full&sslrootcert={right.trusted}"
        with opened(f"{url}&sslcert={right.client_cert}&sslkey={right.client_key}") as store:
            store.update("u", adding(real_now))
        for other in (url, f"{url}&sslcert={wrong.client_cert}&sslkey={wrong.client_key}"):
            with opened(other, timeout=AMPLE) as store:
                assert kind_of(store.ping) is StoreError


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey"])
def test_missing_files_stop_the_start(tmp_path: Path, name: str) -> None:
    """With the name of the file; a directory is none either."""
    existing = tmp_path / "there.pem"
    existing.touch()
    for missing in (tmp_path / "nowhere.pem", tmp_path):
        files = dict.fromkeys(["sslrootcert", "sslcert", "sslkey"], existing) | {name: missing}
        options = "&".join(f"{option}={path}" for option, path in files.items())
        with (
            pytest.raises(StoreUnusable, match=f"the certificates in {missing} cannot be used"),
            opened(f"postgresql://host/shop?{options}"),
        ):
            pass


@LOST
def test_lost_responses_over_tls(
    pg: Postgresql, pg_database: str, authority: Callable[[str], Authority], fate: Fate, *, done: bool
) -> None:
    """The same errors as without TLS."""
    right = authority("right")
    with postgresql_proxy(pg.port, context=right.context) as between:
        url = f"{url_of(between, pg_database)}?sslmode=verify-full&sslrootcert={right.trusted}"
        with opened(url, timeout=TIME) as store:
            eventually(store.ping)
            between.once("INSERT", fate)
            with pytest.raises(OutcomeUnknown):
                store.update("u", adding(real_now))
            assert eventually(lambda: quantity(store)) == int(done)
            between.once("SELECT", fate)
            assert kind_of(lambda: store.get("u")) is StoreError


def test_tls_with_gevent(pg: Postgresql, pg_url: str, pg_database: str, authority: Callable[[str], Authority]) -> None:
    """In gunicorn's default worker."""
    right = authority("right")
    with opened(pg_url) as store, postgresql_proxy(pg.port, context=right.context) as between:
        store.set_up()
        url = f"{url_of(between, pg_database)}?sslmode=verify-full&sslrootcert={right.trusted}"
        with Child(url, greenlets=True, workers=20, adds=3, carts=3) as child:
            child.wait()
            child.begin()
            assert child.result()["added"] == 60


# ---- several hosts ----


def test_first_host_that_takes_writes_is_used(pg: Postgresql, pg_database: str) -> None:
    """Not one that rejects connections, nor a standby; the standby serves when any server will do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    with postgresql(primary=pg) as standby:
        hosts = f"127.0.0.1:{closed},127.0.0.1:{standby.port},127.0.0.1:{pg.port}"
        with opened(f"postgresql://postgres@{hosts}/{pg_database}") as store:
            for total in (1, 2):
                assert store.update("u", adding(real_now)) == total
                store.close()
        with opened(f"postgresql://postgres@{hosts}/{pg_database}?target_session_attrs=any") as store:
            eventually(lambda: standby.wait_until(lambda _: quantity(store) == 2))
            assert kind_of(store.ping) is StoreError
    with opened(f"postgresql://postgres@127.0.0.1:{closed},127.0.0.1:{closed}/shop") as store:
        assert kind_of(store.ping) is StoreError


def test_silent_host_takes_a_share_of_the_time(pg: Postgresql, pg_database: str) -> None:
    """Then the next one is tried, and further connections begin with that one."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{pg.port}"
        with opened(f"postgresql://postgres@{hosts}/{pg_database}", timeout=TIME) as store:
            began = time.monotonic()
            assert store.update("u", adding(real_now)) == 1
            assert TIME / 2 <= time.monotonic() - began < TIME
            began = time.monotonic()
            at_once(THREADS, lambda number: store.update(f"u{number}", adding(real_now)))
            assert time.monotonic() - began < MARGIN
        with opened(f"postgresql://postgres@{hosts.split(',', maxsplit=1)[0]}/{pg_database}", timeout=TIME) as store:
            began = time.monotonic()
            assert kind_of(store.ping) is StoreError
            assert TIME <= time.monotonic() - began < TIME + MARGIN


def test_store_follows_a_failover() -> None:
    """The standby is promoted, and the same store goes on with it."""
    with postgresql() as primary, postgresql(primary=primary) as standby:
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        with opened(f"postgresql://postgres@{hosts}/postgres", timeout=TIME) as store:
            at_once(THREADS, lambda number: store.update(f"u{number}", adding(real_now)))
            lsn = primary.ask("SELECT pg_current_wal_lsn()")[0][0]
            standby.wait_until(
                lambda client: client.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [lsn]).fetchone()[0]
            )
            primary.kill()
            assert kind_of(store.ping) is StoreError
            standby.promote()
            eventually(store.ping)
            at_once(THREADS, lambda number: store.update(f"u{number}", adding(real_now)))
            assert [quantity(store, f"u{number}") for number in range(THREADS)] == [2] * THREADS


def test_demoted_primary_fails_no_request(pg: Postgresql, pg_database: str) -> None:
    """A write that an open connection rejects, because it can only read now, is sent on a new connection."""
    with opened(pg.url_of(pg_database)) as store:
        store.update("u", adding(real_now))
        pg.ask(f"ALTER DATABASE {pg_database} SET default_transaction_read_only = on")
        store.close()
        assert quantity(store) == 1, "on a connection that can only read"
        pg.ask(f"ALTER DATABASE {pg_database} RESET default_transaction_read_only")
        assert store.update("u", adding(real_now)) == 2
