"""Test passwords, rights and TLS of the Valkey store."""

# ruff: noqa: SLF001 - a command is stopped on its way, and a name made to lead elsewhere

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from cartsvc.errors import OutcomeUnknown, StoreError, StoreUnusable
from tests.support.clock import real_now
from tests.support.proxy import Fate, proxy
from tests.support.records import a_record, adding, put
from tests.support.server_store import (
    IN_A_URL,
    LOST,
    TIME,
    kind_of,
    quantity,
    texts_of_failures,
)
from tests.support.store_child import Child
from tests.support.valkey_store import WRITE, opened, url_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.valkeys import Valkey


# ---- who may ----


def test_credentials_and_database_of_the_url(locked: Valkey) -> None:
    """The rights in the docs are enough for everything but the warnings."""
    for login in (f":{IN_A_URL}", f"default:{IN_A_URL}", f"shop:{IN_A_URL}"):
        with opened(f"valkey://{login}@127.0.0.1:{locked.port}/5") as store:
            store.ping()
            store.update("u", adding(real_now))
            assert [user_id for user_id, _ in store.scan()] == ["u"]
            store.delete("u")


REFUSED = {
    "no password": ("", "NOAUTH|Authentication required"),
    "a wrong password": ("shop:geheim-wrong@", "invalid username-password"),
    "a wrong user": (f"nobody:{IN_A_URL}@", "invalid username-password"),
    "too few rights": (f"guest:{IN_A_URL}@", "no permissions"),
}


@pytest.mark.parametrize(("login", "expected"), REFUSED.values(), ids=REFUSED)
def test_missing_rights_raise_store_error(
    locked: Valkey, login: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A StoreError; and no error, log line or warning contains a password."""
    caplog.set_level(logging.DEBUG)
    with opened(f"valkey://{login}127.0.0.1:{locked.port}", timeout=TIME) as store:
        texts = texts_of_failures(store)
        assert any(each in text for text in texts for each in expected.split("|")), texts
        texts += [*store.startup_warnings(), caplog.text, repr(store), repr(store._client)]
        assert "geheim" not in " ".join(texts)


# ---- TLS ----


@pytest.mark.usefixtures("admin")
def test_tls(server: Valkey, authority: Callable[..., Any], tmp_path: Path) -> None:
    """With the right authority; not with a wrong one, the system's, another host's certificate, or none."""
    trusted, context, *_ = authority("right")
    wrong, *_ = authority("wrong")
    with proxy(server.port, context=context) as between:
        url = f"valkeys://127.0.0.1:{between.port}"
        with opened(f"{url}?ca_certs={trusted}") as store:
            store.ping()
            for _ in range(20):
                store.update("u", adding(real_now))
            put(store, "large", a_record(real_now, note="x" * 100_000))
            assert len(list(store.scan())) == 2
            assert quantity(store) == 20
            assert between.connections == 1
        for other in (f"{url}?ca_certs={wrong}", url, f"valkeys://localhost:{between.port}?ca_certs={trusted}"):
            between.names()
            with opened(other, timeout=TIME) as store:
                with pytest.raises(StoreError) as caught:
                    store.update("u", adding(real_now))
                assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value.__cause__)
                assert type(caught.value) is StoreError
            assert between.names() == []
        with opened(url_of(between), timeout=TIME) as store:
            assert kind_of(store.ping) is StoreError
    for missing in (tmp_path / "nowhere.pem", tmp_path):
        with pytest.raises(StoreUnusable, match=str(missing)), opened(f"{url}?ca_certs={missing}"):
            pass


@pytest.mark.usefixtures("admin")
def test_client_certificate(server: Valkey, authority: Callable[..., Any], tmp_path: Path) -> None:
    """A server that requires one accepts the client with it, and no other."""
    right, wrong = authority("right"), authority("wrong")
    right.context.load_verify_locations(right.trusted)
    right.context.verify_mode = ssl.CERT_REQUIRED
    with proxy(server.port, context=right.context) as between:
        url = f"valkeys://127.0.0.1:{between.port}?ca_certs={right.trusted}"
        with opened(f"{url}&ssl_cert={right.client_cert}&ssl_key={right.client_key}") as store:
            store.update("u", adding(real_now))
        for other in (url, f"{url}&ssl_cert={wrong.client_cert}&ssl_key={wrong.client_key}"):
            with opened(other, timeout=TIME) as store:
                assert kind_of(store.ping) is StoreError
        for missing in (tmp_path / "nowhere.pem", right.trusted):
            with (
                pytest.raises(StoreUnusable, match=f"{missing} cannot be used with its key"),
                opened(f"{url}&ssl_cert={missing}&ssl_key={right.client_key}"),
            ):
                pass


@pytest.mark.usefixtures("admin")
@LOST
def test_lost_responses_over_tls(server: Valkey, authority: Callable[..., Any], fate: Fate, *, done: bool) -> None:
    """The same errors as without TLS."""
    trusted, context, *_ = authority("right")
    with (
        proxy(server.port, context=context) as between,
        opened(f"valkeys://127.0.0.1:{between.port}?ca_certs={trusted}", timeout=TIME) as store,
    ):
        store.ping()
        between.once(WRITE, fate)
        with pytest.raises(OutcomeUnknown):
            store.update("u", adding(real_now))
        assert quantity(store) == int(done)
        between.once("GET", fate)
        assert kind_of(lambda: store.get("u")) is StoreError


@pytest.mark.usefixtures("admin")
def test_tls_with_gevent(server: Valkey, authority: Callable[..., Any]) -> None:
    """In gunicorn's default worker."""
    trusted, context, *_ = authority("right")
    with (
        proxy(server.port, context=context) as between,
        Child(
            f"valkeys://127.0.0.1:{between.port}?ca_certs={trusted}", greenlets=True, workers=20, adds=3, carts=3
        ) as child,
    ):
        child.wait()
        child.begin()
        assert child.result()["added"] == 60
