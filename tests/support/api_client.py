"""The client of the API tests, which checks every response against the app's own /openapi.json."""

from __future__ import annotations

import functools
import json
import os
import re
import weakref
from typing import TYPE_CHECKING, Any
from unittest import mock

from flask.testing import FlaskClient
from msgspec import structs

from cartsvc import create_app
from cartsvc.carts.store import CartStore
from cartsvc.settings import Settings
from tests.support.clock import real_now
from tests.support.openapi import PROBLEM, Contract, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from werkzeug.test import TestResponse

    from cartsvc.carts.record import Record
    from cartsvc.errors import RecordUnreadable

JSON = "application/json"
# No list of entity tags (RFC 9110, 8.8.3 and 5.6.1), and not a lone asterisk.
SUFFIXES = ["-gzip", "--gzip", ";gzip", "-br", "-zstd"]  # what compressing proxies add to a tag
MALFORMED_TAGS = [
    "",
    " ",
    ",,,",
    "nonsense",
    '"unclosed',
    'unopened"',
    "'x'",
    "W/",
    'w/"x"',
    'W/ "x"',
    '"a" "b"',
    '"a"; "b"',
    '*, "a"',
    '"a", *',
    "**",
    '"a"b',
    '"a\x7f"',
    '"a\tb"',
    '"a b"',
    '"a""b"',
    "\x7f",
]
_contract = functools.cache(Contract)  # most apps have the same document
_contracts: weakref.WeakKeyDictionary[Flask, Contract] = weakref.WeakKeyDictionary()
_LEAK = re.compile(r"Traceback|\.py\b|site-packages|codec can't|object at 0x|Error\b")


class Client(FlaskClient):
    """Flask's test client; a response that is not as documented raises AssertionError."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.application not in _contracts:
            _contracts[self.application] = _contract(super().open("/openapi.json", buffered=True).data)
        self.contract = _contracts[self.application]

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        """Send a request, and check the response."""
        # Buffered: so that the files of the pages are closed.
        response = super().open(*args, **{"buffered": True} | kwargs)
        self.contract.check(response, sent=_sent(kwargs))
        _check_everywhere(response)
        return response


class RaisingStore(CartStore):
    """A store that raises ``error`` in every call."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def get(self, user_id: str) -> Record | None:  # noqa: ARG002 - the contract's
        """Raise."""
        raise self._error

    def update(self, user_id: str, change: Callable[..., Any]) -> Any:  # noqa: ARG002 - the contract's
        """Raise."""
        raise self._error

    def scan(self) -> Iterator[tuple[str, Record]]:
        """Raise."""
        raise self._error

    def delete(self, user_id: str) -> Record | RecordUnreadable | None:  # noqa: ARG002 - the contract's
        """Raise."""
        raise self._error

    def purge_expired(self) -> int:
        """Raise."""
        raise self._error

    def ping(self) -> None:
        """Raise."""
        raise self._error

    def close(self) -> None:
        """Close nothing."""


class _ReusableApp:
    """An app without fetched keys and rate counters, whose store is emptied, and whose clock is replaced, for each use.

    Creating an app takes 15 ms, most of it for the OpenAPI document, and 3,000 tests have one each.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._clock = real_now
        self.app = create_app(settings, clock=lambda: self._clock(), wrap_store=self._keep)  # noqa: PLW0108 - the clock is replaced
        self._unchanged = self._state()

    def renew(self, clock: Callable[[], int] | None) -> None:
        """Remove all records, and use this clock from now on; by default the real one."""
        self._clock = _first_millisecond  # at that time no record has expired, so the scan yields all of them
        for user_id, _ in list(self._store.scan()):
            self._store.delete(user_id)
        self._clock = clock or real_now

    def close(self) -> None:
        """Close its store, and with it the files."""
        self._store.close()

    def is_unchanged(self) -> bool:
        """Return whether no test has changed the routes, functions or configuration of the app."""
        return self._state() == self._unchanged

    def _keep(self, store: CartStore) -> CartStore:
        self._store = store
        return store

    def _state(self) -> list[object]:
        functions = self.app.before_request_funcs, self.app.after_request_funcs
        return [
            dict(self.app.config),
            dict(self.app.view_functions),
            list(self.app.url_map.iter_rules()),
            [{scope: list(of) for scope, of in each.items()} for each in functions],
        ]


_KEPT = 50  # apps that no test uses; each has four open files
_reusable: list[_ReusableApp] = []  # the one used last is the last


def make_client(
    *,
    store: CartStore | None = None,
    clock: Callable[[], int] | None = None,
    environ: dict[str, str] | None = None,
    **settings: Any,
) -> Client:
    """Return a client of an app with an empty store, with the settings of this environment (default: none) and these.

    The members of the policy are given as those of the settings are; their times are milliseconds.
    """
    with mock.patch.dict(os.environ, environ or {}, clear=True):
        found = Settings.from_env()
    assert found.warnings == ()
    of_policy = {name: settings.pop(name) for name in found.policy.__struct_fields__ if name in settings}
    policy = structs.replace(found.policy, **of_policy)
    found = structs.replace(found, policy=policy, **settings)
    fetches_keys = found.auth is not None and found.auth.jwks_url is not None
    if store is not None or fetches_keys or found.rate_limit is not None:  # the app has a state besides its store
        return _client(create_app(found, store=store, clock=clock))
    reusable = _take(found)
    reusable.renew(clock)
    client = _client(reusable.app)
    weakref.finalize(client, _release, reusable)
    return client


def _client(app: Flask) -> Client:
    app.test_client_class = Client
    client = app.test_client()
    assert isinstance(client, Client)
    return client


def _first_millisecond() -> int:
    return 0


def _take(settings: Settings) -> _ReusableApp:
    """Return an app with these settings that no test uses."""
    for index in range(len(_reusable) - 1, -1, -1):
        if _reusable[index].settings == settings:
            return _reusable.pop(index)
    return _ReusableApp(settings)


def _release(reusable: _ReusableApp) -> None:
    """Keep the app for another client, unless it was changed."""
    if reusable.is_unchanged():
        _reusable.append(reusable)
    else:
        reusable.close()
    if len(_reusable) > _KEPT:
        _reusable.pop(0).close()


def problem(response: TestResponse) -> tuple[int, str]:
    """Return the status and the slug of a problem."""
    assert response.mimetype == PROBLEM, response.data
    return response.status_code, parse(response.data)["type"].removeprefix("urn:cartsvc:problem:")


def pointers(response: TestResponse) -> list[str]:
    """Return the JSON Pointers of a problem's faults."""
    return [fault["pointer"] for fault in parse(response.data)["errors"]]


def state(client: Client, user_id: str = "alice") -> tuple[str | None, Any]:
    """Return what a GET returns for a cart: its ETag (None if it is absent) and its body."""
    response = client.get(f"/cart/{user_id}")
    return response.headers.get("ETag"), response.json


def cart_of(response: TestResponse) -> dict[str, Any]:
    """Return the cart in a response; one to a merge lists adjustments as well."""
    return {name: value for name, value in response.json.items() if name != "adjustments"}


def _sent(arguments: dict[str, Any]) -> object:
    if "json" in arguments:
        return arguments["json"]
    try:
        return json.loads(arguments["data"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None  # whatever was sent is no JSON


def _check_everywhere(response: TestResponse) -> None:
    """Check what is documented for every response but cannot be expressed in a schema."""
    assert response.headers.getlist("X-Content-Type-Options") == ["nosniff"]
    path, status = response.request.path, response.status_code
    if path.startswith("/cart/") and status in {200, 201, 304, 412} and response.request.method != "OPTIONS":
        assert response.headers.getlist("Cache-Control") == ["private, no-cache"]
    if path == "/cart" and status == 201:
        assert response.headers.getlist("Cache-Control") == ["no-store"]
    if response.mimetype == PROBLEM and response.data:
        problem = parse(response.data)
        assert not _LEAK.search(problem["detail"]), f"leaks what only the log may know: {problem['detail']}"
        assert ("cart" in problem) == (status == 412)
        if status == 412:
            assert problem["cart"]["user_id"] == path.split("/")[2]
            _check_sums(problem["cart"])
    elif response.mimetype == JSON and response.data and "items" in (cart := parse(response.data)):
        _check_sums(cart)


def _check_sums(cart: dict[str, Any]) -> None:
    items = cart["items"]
    prices = [item["unit_price"] for item in items]
    lines = [None if price is None else price * item["quantity"] for price, item in zip(prices, items, strict=True)]
    assert [item["line_total"] for item in items] == lines
    assert cart["item_count"] == len({item["item_id"] for item in items}) == len(items)
    assert cart["total_quantity"] == sum(item["quantity"] for item in items)
    assert (cart["currency"] is None) == all(price is None for price in prices)
    if None in lines:
        assert cart["subtotal"] is None
    else:
        assert cart["subtotal"] == sum(lines)
