"""Send requests as a careful client does: with a key, and again with the same key until their outcome is known.

Some responses are cut off on purpose: the request is sent and the connection closed, as when a phone loses its network.
"""

from __future__ import annotations

import http.client
import json
import random
import shlex
import subprocess
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from bench.processes import Broken

if TYPE_CHECKING:
    from collections.abc import Callable

    from locust.contrib.fasthttp import FastHttpSession

    from bench.shoppers.verdict import Verdict

_PATIENCE_S = 30  # until a change counts as unresolved
_CUT_TIMEOUT_S = 5  # to connect and to send
_LONGEST_WAIT_S = 5
_PASSING = {0, 408, 425, 429, 502, 503, 504}  # 0: no response
_PASSING_CONFLICTS = {"cart-sealed", "merge-aborted"}


class Unresolved(Exception):
    """No final response within the patience of a shopper, so the outcome is unknown."""


class Answer(NamedTuple):
    """A response. ``slug`` is that of a problem, or empty."""

    status: int
    etag: str | None
    body: Any
    slug: str


class Tokens:
    """Tokens of users, from a command that takes the user id as its last argument and prints a token."""

    def __init__(self, command: str) -> None:
        self._command = shlex.split(command)
        self._tokens: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._command)

    def of(self, user_id: str, *, renew: bool = False) -> str | None:
        """Return the token of a user; None without a command. Raises Broken if the command fails."""
        if not self._command:
            return None
        if renew or user_id not in self._tokens:
            command = [*self._command, user_id]
            try:
                ended = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - the caller's
            except (OSError, subprocess.CalledProcessError) as error:
                reason = getattr(error, "stderr", "").strip().rpartition("\n")[2]
                raise Broken(f"no token for {user_id}: {reason or error}") from error
            self._tokens[user_id] = ended.stdout.strip()
        return self._tokens[user_id]


class Caller:
    """Sends the requests of one shopper, and counts them in the verdict of the run."""

    def __init__(self, session: FastHttpSession, base: str, verdict: Verdict, *, cut: float) -> None:
        self._session = session
        self._base = base
        self._verdict = verdict
        self._cut = cut

    def send(
        self,
        method: str,
        path: str,
        *,
        kind: str,
        token: Callable[[bool], str | None],
        body: object = None,
        **headers: str,
    ) -> Answer:
        """Send a request until it has a final response, and return it. Raises Unresolved if there is none in time.

        ``token`` takes whether to renew the token. Names of headers are written with _ for -.
        """
        own = {name.replace("_", "-"): value for name, value in headers.items()}
        is_write = method != "GET"
        if is_write:
            own.setdefault("Idempotency-Key", str(uuid.uuid4()))
        deadline, wait, renew = time.monotonic() + _PATIENCE_S, 0.05, False
        while time.monotonic() < deadline:
            fresh = token(renew)
            sent = own | ({"Authorization": f"Bearer {fresh}"} if fresh else {})
            if is_write and random.random() < self._cut:  # noqa: S311 - not a secret
                self._send_and_leave(method, path, body, sent)
            answer, retry_after = self._send_once(method, path, body, sent, kind)
            if answer.status == http.client.UNAUTHORIZED and not renew and fresh:
                renew = True
                continue
            if answer.status not in _PASSING and answer.slug not in _PASSING_CONFLICTS:
                self._count(answer, kind, changes=is_write and path != "/cart")  # a guest is no change of a cart
                return answer
            time.sleep(max(min(retry_after, _LONGEST_WAIT_S), wait * random.uniform(0.5, 1)))  # noqa: S311 - as above
            wait = min(2 * wait, 1)
        self._verdict.unresolved += is_write
        raise Unresolved(f"{kind}: {answer.status} {answer.slug}".strip())

    def _send_once(
        self, method: str, path: str, body: object, headers: dict[str, str], kind: str
    ) -> tuple[Answer, float]:
        response: Any = self._session.request(method, path, name=kind, json=body, headers=headers)
        found = None
        with suppress(ValueError, TypeError):  # TypeError: no response, or an empty one
            found = json.loads(response.content)
        received = response.headers or {}
        slug = str(found.get("type", "")).removeprefix("urn:cartsvc:problem:") if isinstance(found, dict) else ""
        after = received.get("Retry-After") or ""
        answer = Answer(response.status_code or 0, received.get("ETag"), found, slug)
        return answer, float(after) if after.isdecimal() else 0.0

    def _count(self, answer: Answer, kind: str, *, changes: bool) -> None:
        if answer.status >= http.client.BAD_REQUEST:
            self._verdict.rejected[f"{kind}: {answer.status} {answer.slug}".strip()] += 1
        else:
            self._verdict.changes += changes

    def _send_and_leave(self, method: str, path: str, body: object, headers: dict[str, str]) -> None:
        """Send a request and close its connection before the response arrives."""
        parts = urlsplit(self._base)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(str(parts.hostname), parts.port, timeout=_CUT_TIMEOUT_S)
        content = None if body is None else json.dumps(body)
        with suppress(OSError):
            connection.request(method, parts.path + path, content, {"Content-Type": "application/json"} | headers)
        connection.close()
        self._verdict.cut += 1
