"""A caller of the cart service for back ends, with httpx. Copy this file; docs/python.md explains it."""

from __future__ import annotations

import random
import time
import uuid
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable

ATTEMPTS = 4  # of one request, in all
LONGEST_WAIT_S = 10.0  # a response with a longer Retry-After is raised at once
_PASSING = {408, 429, 502, 503, 504}  # statuses after which a retry is likely to succeed
_PASSING_CONFLICTS = {"cart-sealed", "merge-aborted"}
_UNKNOWN = {"no-response", "outcome-unknown", "internal-error", ""}  # "": the response is that of a proxy


class Problem(Exception):
    """A response that is not a success, or none at all (``status`` 0, ``slug`` ``no-response``).

    Decide by ``slug`` and by the ``code`` of each of ``faults``. ``cart`` and ``etag`` are the current cart in a 412.
    ``key`` repeats the request, so that it is applied once; ``outcome_unknown``: it may have been applied already.
    ``retry_after`` is in seconds, 0 if unknown.
    """

    def __init__(self, response: httpx.Response | None, key: str) -> None:
        body = {} if response is None else _body(response)
        self.status = 0 if response is None else response.status_code
        self.slug = "no-response" if response is None else _slug(response)
        self.faults: list[dict[str, Any]] = body.get("errors", [])
        self.cart: dict[str, Any] | None = body.get("cart")
        self.etag = None if response is None else response.headers.get("ETag")
        self.retry_after = 0.0 if response is None else wait_time(response)
        self.key = key
        self.outcome_unknown = self.slug in _UNKNOWN
        super().__init__(body.get("detail", f"The cart service cannot be reached ({self.status})."))


class Carts:
    """The carts of the service at the ``base_url`` of ``client``, whose time-out is that of one attempt.

    ``token`` returns a token with the scope carts:all, or None if the service needs none; ``pause`` is the first wait
    between attempts, in seconds. One object serves all threads. ``key`` identifies an action, so that it is applied
    once: pass an id of your own, such as that of an order, or the key of a Problem; without it, each call is an action.
    """

    def __init__(
        self, client: httpx.Client, *, token: Callable[[], str | None] = lambda: None, pause: float = 0.3
    ) -> None:
        self._client = client
        self._token = token
        self.pause = pause

    def get(self, user_id: str) -> tuple[dict[str, Any], str | None]:
        """Return a cart and its ETag; an absent cart has no items, and None as its ETag."""
        response = self.send("GET", _path(user_id))
        return response.json(), response.headers.get("ETag")

    def add(self, user_id: str, *items: dict[str, Any], key: str | None = None) -> dict[str, Any]:
        """Add 1 to 100 items, all or none, and return the cart."""
        return self._write("POST", f"{_path(user_id)}/items", {"items": items}, key=key)

    def update(self, user_id: str, *changes: dict[str, Any], key: str | None = None) -> dict[str, Any]:
        """Change 1 to 100 items, each given by its ``item_id``, all or none, and return the cart."""
        return self._write("PATCH", f"{_path(user_id)}/items", {"items": changes}, key=key)

    def replace(self, user_id: str, items: list[dict[str, Any]], etag: str | None) -> dict[str, Any]:
        """Replace the items of the cart with this ETag (None: of an absent cart), and return the cart.

        Raise a Problem with the slug ``precondition-failed`` and the current ``cart`` if the cart has changed.
        """
        condition = {"If-None-Match": "*"} if etag is None else {"If-Match": etag}
        return self._write("PUT", _path(user_id), {"items": items}, headers=condition)

    def merge(self, user_id: str, from_user_id: str, *, key: str | None = None, **how: str) -> dict[str, Any]:
        """Move the items of another cart into this one, and return it; ``how``: ``strategy``, ``on_limit``."""
        return self._write("POST", f"{_path(user_id)}/merge", {"from_user_id": from_user_id, **how}, key=key)

    def hand_off(self, user_id: str, etag: str, order_id: str) -> bool:
        """Take the cart with this ETag for an order; return False if it has changed, or is absent."""
        try:
            self.send("DELETE", _path(user_id), headers={"If-Match": etag}, key=order_id)
        except Problem as problem:
            if problem.slug in {"precondition-failed", "cart-not-found"}:
                return False
            raise
        return True

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
        key: str | None = None,
    ) -> httpx.Response:
        """Send a request until a final response arrives, at most four times, all with the same key.

        Raise Problem for a response that is not a success, or if none arrives.
        """
        key = key or str(uuid.uuid4())
        own = {} if method == "GET" else {"Idempotency-Key": key}
        for attempt in range(ATTEMPTS):
            response = self._send_once(method, path, body, own | (headers or {}))
            if response is not None and response.is_success:
                return response
            wait = 0.0 if response is None else wait_time(response)
            if attempt == ATTEMPTS - 1 or wait > LONGEST_WAIT_S or not _passes(response):
                raise Problem(response, key)
            # Half of the pause is random, because callers that failed together would otherwise come back together.
            backoff = self.pause * 2**attempt * random.uniform(0.5, 1)  # noqa: S311 - not a secret
            time.sleep(max(backoff, wait))
        raise AssertionError

    def _send_once(self, method: str, path: str, body: object, headers: dict[str, str]) -> httpx.Response | None:
        token = self._token()  # of each attempt, because a token may expire between two of them
        authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            return self._client.request(method, path, json=body, headers=headers | authorization)
        except httpx.TransportError:  # time-outs too: the request may have been applied
            return None

    def _write(
        self, method: str, path: str, body: object, *, headers: dict[str, str] | None = None, key: str | None = None
    ) -> dict[str, Any]:
        cart: dict[str, Any] = self.send(method, path, body, headers=headers, key=key).json()
        return cart


def wait_time(response: httpx.Response) -> float:
    """Return the seconds of Retry-After, a number or a date; 0 if it is absent, past or malformed."""
    value = response.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _passes(response: httpx.Response | None) -> bool:
    return response is None or response.status_code in _PASSING or _slug(response) in _PASSING_CONFLICTS


def _slug(response: httpx.Response) -> str:
    return str(_body(response).get("type", "")).removeprefix("urn:cartsvc:problem:")


def _body(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:  # a proxy has returned anything but JSON
        return {}
    return body if isinstance(body, dict) else {}


def _path(user_id: str) -> str:
    return f"/cart/{quote(user_id, safe='')}"
