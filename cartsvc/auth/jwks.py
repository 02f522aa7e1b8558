"""The issuer's key set (RFC 7517) at a URL: fetched when it is needed, cached, and fetched again when keys change."""

from __future__ import annotations

import json
import logging
import math
import socket
import ssl
import threading
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from cartsvc.auth.keys import HMAC_MIN_BYTES, JwtKey
from cartsvc.errors import KeysUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_FETCH_TIMEOUT_S = 3.0  # for one whole fetch, once connected
_MAX_BYTES = 512 * 1024
_MAX_KEYS = 100  # a token without a key id is tried with each of them
_MAX_AGE_S = 600  # after it, keys are fetched again, so that a withdrawn key is dropped
_RETRY_INTERVAL_S = 30  # between two fetches, so that tokens with unknown key ids do not flood the issuer
_FIRST_RETRY_INTERVAL_S = 1  # while there are no keys at all
_OK = 200

_log = logging.getLogger(__name__)


class JwksKeys:
    """Keys by algorithm and key id, for many threads at once. Nothing is fetched before the first token is checked.

    ``fetch`` returns the key set's JSON and raises OSError, HTTPException or ValueError; ``monotonic`` returns
    seconds. A fetch has a thread of its own, so a request waits for it only when no key fits its token, for at most
    ``max_wait_s`` seconds.
    """

    def __init__(
        self,
        fetch: Callable[[], bytes],
        *,
        algorithms: Sequence[str],
        monotonic: Callable[[], float],
        max_wait_s: float = _FETCH_TIMEOUT_S,
    ) -> None:
        self._fetch = fetch
        self._algorithms = algorithms
        self._monotonic = monotonic
        self._max_wait_s = max_wait_s
        self._lock = threading.Lock()
        self._keys: tuple[JwtKey, ...] | None = None
        self._loaded_at = self._tried_at = -math.inf
        self._fetch_done: threading.Event | None = None

    def find(self, *, algorithm: str, kid: str | None) -> Iterable[JwtKey]:
        """Return the keys with this id for this algorithm; without an id, all for it. Raise KeysUnavailable."""
        if algorithm not in self._algorithms:
            return ()
        found = self._find(algorithm, kid)
        if not found:
            done = self._refresh()
            if done is not None:
                done.wait(self._max_wait_s)
            found = self._find(algorithm, kid)
        elif self._monotonic() - self._loaded_at >= _MAX_AGE_S:
            self._refresh()
        if self._keys is None:
            raise KeysUnavailable
        return found

    def _find(self, algorithm: str, kid: str | None) -> list[JwtKey]:
        keys = self._keys or ()
        return [key for key in keys if key.algorithm == algorithm and (kid is None or key.kid == kid)]

    def _refresh(self) -> threading.Event | None:
        """Start a fetch unless it is too early. Return the event that the running fetch sets at its end."""
        with self._lock:
            now = self._monotonic()
            pause = _FIRST_RETRY_INTERVAL_S if self._keys is None else _RETRY_INTERVAL_S
            if self._fetch_done is None and now - self._tried_at >= pause:
                done = threading.Event()
                threading.Thread(target=self._load, args=(done,), name="cartsvc-jwks", daemon=True).start()
                self._tried_at, self._fetch_done = now, done
            return self._fetch_done

    def _load(self, done: threading.Event) -> None:
        try:
            keys = read_key_set(self._fetch(), self._algorithms)
        except (OSError, HTTPException, ValueError) as error:
            effect = "no token can be verified" if self._keys is None else "the previous keys stay in use"
            # Escaped and cut, because an error can contain a line that the server sent.
            _log.warning("no keys from CARTSVC_JWT_JWKS_URL (%.200r); %s", error, effect)
        else:
            if not keys:
                _log.warning("no key for %s from CARTSVC_JWT_JWKS_URL", ", ".join(self._algorithms))
            self._keys, self._loaded_at = keys, self._monotonic()
        finally:
            with self._lock:
                self._fetch_done = None
            done.set()


def read_key_set(data: bytes, algorithms: Iterable[str]) -> tuple[JwtKey, ...]:
    """Return the keys of a JSON Web Key Set (RFC 7517, section 5) that these algorithms can use, and skip the others.

    A usable key is public, for signatures and of the algorithm's kind; a key that names no algorithm is used for each
    algorithm that it fits. Raise ValueError when the data is not a key set.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("the response is not JSON") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("the response is not a JSON Web Key Set")  # noqa: TRY004 - the data is wrong, not the call
    if len(listed) > _MAX_KEYS:
        raise ValueError(f"the key set has more than {_MAX_KEYS} keys")
    names = [each for each in algorithms if each not in HMAC_MIN_BYTES]
    return tuple(key for jwk in listed if isinstance(jwk, dict) for key in _usable_keys(jwk, names))


def _usable_keys(jwk: dict[str, Any], algorithms: Iterable[str]) -> Iterator[JwtKey]:
    kid, operations = jwk.get("kid"), jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return
    if not isinstance(kid, str | None):
        return
    for algorithm in algorithms:
        if jwk.get("alg", algorithm) == algorithm:
            with suppress(jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
                yield JwtKey(algorithm, jwt.PyJWK(jwk, algorithm).key, kid)


def jwks_fetcher(url: str, *, timeout: float = _FETCH_TIMEOUT_S, max_bytes: int = _MAX_BYTES) -> Callable[[], bytes]:
    """Return a function that fetches this http or https URL. It accepts only a 200 and follows no redirect.

    ``timeout`` (seconds) limits the whole exchange once connected; connecting has the same time again for each address.
    The function raises OSError, HTTPException or ValueError.
    """
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"Accept": "application/jwk-set+json, application/json"}

    def fetch() -> bytes:
        connection = _connection(parts.scheme, str(parts.hostname), parts.port, timeout=timeout)
        try:
            connection.connect()
            # The timeout of a socket applies to each read, so a server that sends single bytes could hold it forever.
            end = threading.Timer(timeout, _hang_up, (connection.sock,))
            end.daemon = True
            end.start()
            try:
                connection.request("GET", target, headers=headers)
                response = connection.getresponse()
                data = response.read(max_bytes + 1)
            finally:
                end.cancel()
        finally:
            connection.close()
        if response.status != _OK:
            raise ValueError(f"the response has status {response.status}")
        if len(data) > max_bytes:
            raise ValueError(f"the response has more than {max_bytes} bytes")
        return data

    return fetch


def _connection(scheme: str, host: str, port: int | None, *, timeout: float) -> HTTPConnection:
    if scheme == "https":
        return HTTPSConnection(host, port, timeout=timeout, context=ssl.create_default_context())
    return HTTPConnection(host, port, timeout=timeout)


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
