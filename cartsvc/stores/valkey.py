"""The Valkey store: records on a server or a cluster, shared by all machines."""

from __future__ import annotations

import hashlib
import ssl
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.retry import Retry

from cartsvc.carts import record as records
from cartsvc.carts.store import scanned
from cartsvc.errors import OutcomeUnknown, RecordUnreadable, StoreError, StoreFull, StoreUnusable
from cartsvc.stores.compare_and_set import CompareAndSetStore, Found
from cartsvc.stores.operation import current_operation
from cartsvc.stores.urls import KEY_PREFIX, POOL_SIZE
from cartsvc.stores.valkey_cluster import Cluster
from cartsvc.stores.valkey_connection import Server, TimedConnection, TimedPool, TimedTLSConnection
from cartsvc.stores.valkey_sentinel import SentinelPool, Sentinels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cartsvc.carts.record import Record
    from cartsvc.stores.urls import ValkeyConfig

_TAG_PREFIX_BYTES = 64  # of a record: the bytes that are compared, which include its tag
_EXPIRY_GRACE_MS = 86_400_000  # how much later than ``expires_at`` the server removes a record, by its own clock
_SCAN_COUNT = 256  # keys per page, roughly
_PROBE = "/"  # the name of the key in a ping, which never exists: no user_id has a slash
_WRONG_TYPE = "WRONGTYPE"


class _Script:
    """A script, and the hash by which the server identifies it."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.sha = hashlib.sha1(text, usedforsecurity=False).hexdigest()


_LUA = files("cartsvc.stores").joinpath("valkey_compare_and_set.lua").read_bytes()
_COMPARE_AND_SET = _Script(b"#!lua\n" + _LUA)
_EVEN_WHEN_FULL = _Script(b"#!lua flags=allow-oom\n" + _LUA)


class ValkeyStore(CompareAndSetStore):
    """Keep each record as one string, written by compare-and-set on its tag. Its key is ``key_prefix`` and the user_id.

    A write is sent once; if its response is lost, OutcomeUnknown is raised.
    """

    def __init__(
        self, config: ValkeyConfig, *, clock: Callable[[], int], timeout: float, key_prefix: str = KEY_PREFIX
    ) -> None:
        super().__init__(clock=clock, timeout=timeout)
        self._config = config
        self._prefix = key_prefix.encode()
        self._client = _connect(config)

    def scan(self) -> Iterator[tuple[str, Record | RecordUnreadable]]:
        """Read the keys by SCAN, on each primary of a cluster."""
        for key in self._keys():
            user_id = key.removeprefix(self._prefix).decode(errors="surrogateescape")
            yield from scanned(user_id, partial(self.get, user_id))

    def delete(self, user_id: str) -> Record | RecordUnreadable | None:
        """Remove the key, of any type. A write between reading and removing it is removed too."""
        key = self._key(user_id)
        with self.operation():
            found: Record | RecordUnreadable | None
            try:
                data = self._send("GET", key)
                found = None if data is None else records.decode(data)
            except RecordUnreadable as error:
                found = error
            return found if self._send("DEL", key) else None

    def purge_expired(self) -> int:
        """Do nothing, because the server removes expired records by itself, a day after they have expired."""
        return 0

    def ping(self) -> None:
        """Send a write whose compare fails, so that it writes nothing. A server beyond its ``maxmemory`` is full.

        A server that cannot write rejects the script before it runs.
        """
        with self.operation():
            try:
                self._evaluate(_COMPARE_AND_SET, [self._key(_PROBE)], b"-", b"", 0)
            except RecordUnreadable:  # another program has a key with this name, but the script has run
                pass
            except OutcomeUnknown as error:  # the ping writes nothing, so nothing is in doubt
                raise StoreError from error.__cause__

    def startup_warnings(self) -> list[str]:
        """Return warnings if the server may evict carts, or loses all of them on a restart."""
        try:
            with self.operation():
                servers = [self._send("INFO", **node) for node in self._primaries()]
        except StoreError as error:
            return [f"the configuration of the Valkey server cannot be read: {error.__cause__}"]
        warnings = []
        if any(each.get("maxmemory_policy") != "noeviction" for each in servers):
            warnings.append("the Valkey server may evict carts when it is full: set its maxmemory-policy to noeviction")
        if not all(each.get("aof_enabled") for each in servers):
            warnings.append(
                "the Valkey server writes no append-only file: a restart loses carts unless appendonly is yes"
            )
        return warnings

    def run_script(self, script: bytes, keys: list[str], arguments: list[Any]) -> Any:  # noqa: ANN401 - what the script returns
        """Run the script of another module. A cluster needs its keys in one slot. Raises StoreError."""
        with self.operation():
            try:
                return self._evaluate(_Script(script), [key.encode() for key in keys], *arguments)
            except RecordUnreadable as error:  # none of its keys is a cart
                raise StoreError from error.__cause__

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _key(self, user_id: str) -> bytes:
        return self._prefix + user_id.encode(errors="surrogateescape")

    def _read(self, key: bytes) -> Any:  # noqa: ANN401 - bytes or None
        return self._send("GET", key)

    def _compare_and_set(
        self, key: bytes, data: bytes | None, new: Record | None, *, allow_when_full: bool
    ) -> Found | None:
        """Write the record in one round trip. The script returns 1, or the stored record, which saves reading it."""
        expected = b"" if data is None else data[:_TAG_PREFIX_BYTES]
        # At least 1, because the server rejects times before 1970, which an imported record may have.
        text, until = (b"", 0) if new is None else (records.encode(new), max(new.expires_at + _EXPIRY_GRACE_MS, 1))
        script = _EVEN_WHEN_FULL if allow_when_full else _COMPARE_AND_SET
        reply = self._evaluate(script, [key], expected, text, until)
        return None if reply == 1 else Found(reply)

    def _evaluate(self, script: _Script, keys: list[bytes], *arguments: Any) -> Any:  # noqa: ANN401 - what the script returns
        try:
            return self._send("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except NoScriptError:  # the server was restarted or is new
            return self._send("EVAL", script.text, len(keys), *keys, *arguments)

    def _send(self, *command: Any, **options: Any) -> Any:  # noqa: ANN401 - redis-py's own
        """Send one command, once. Raises NoScriptError, and our errors for all other failures."""
        with self._errors():
            return self._client.execute_command(*command, **options)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except NoScriptError:
            raise
        except OutOfMemoryError as error:
            raise StoreFull from error
        except (RedisError, OSError, ValueError) as error:  # ValueError: an invalid host name
            if isinstance(error, ResponseError) and str(error).startswith(_WRONG_TYPE):
                raise RecordUnreadable from error
            if isinstance(error, ReadOnlyError) or (self._config.service and not isinstance(error, ResponseError)):
                self._reconnect()
            operation = current_operation.get()
            if operation is not None and operation.in_doubt:
                raise OutcomeUnknown from error
            raise StoreError from error

    def _reconnect(self) -> None:
        """Close idle connections, because the host name or Sentinel may by now lead to a new primary."""
        if isinstance(self._client, Server):
            self._client.connection_pool.disconnect()

    def _primaries(self) -> list[dict[str, Any]]:
        """Return for each server that has records the options that send a command to it."""
        if isinstance(self._client, Server):
            return [{}]
        with self._errors():
            return [{"node": node} for node in self._client.primaries()]

    def _keys(self) -> Iterator[bytes]:
        with self.operation():
            nodes = self._primaries()
        for node in nodes:
            cursor = 0
            while True:
                with self.operation():
                    cursor, keys = self._send(
                        "SCAN", cursor, "MATCH", self._prefix + b"*", "COUNT", _SCAN_COUNT, **node
                    )
                yield from keys
                if not cursor:
                    break


def _connect(config: ValkeyConfig) -> Server | Cluster:
    options: dict[str, Any] = {
        "connection_class": TimedConnection,
        "username": config.username,
        "password": config.password,
        "db": config.db,
        "protocol": 2,
        "driver_info": None,  # or each new connection sends it to the server first
        "max_connections": POOL_SIZE,
        "retry": Retry(NoBackoff(), 0),
    }
    if config.tls:
        options["context"] = _tls_context(config)
        options["connection_class"] = TimedTLSConnection
    if config.service is not None:
        return Server(connection_pool=SentinelPool(_sentinels(config, config.service, options), **options))

    def server(host: str, port: int) -> Server:
        return Server(connection_pool=TimedPool(host=host, port=port, **options))

    return Cluster(config.hosts, server) if config.cluster else server(*config.hosts[0])


def _sentinels(config: ValkeyConfig, service: str, options: dict[str, Any]) -> Sentinels:
    """Return the sentinels, which are connected to without a login and with the TLS of the servers."""
    kept = {name: options[name] for name in ("protocol", "driver_info", "retry", "context") if name in options}
    connection_class = options["connection_class"]
    return Sentinels(config.hosts, service, lambda address: connection_class(host=address[0], port=address[1], **kept))


def _tls_context(config: ValkeyConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.ca_certs)
    except OSError as error:
        raise StoreUnusable(f"the certificates in {config.ca_certs} cannot be used: {error}") from error
    if config.ssl_cert is not None:
        try:
            context.load_cert_chain(config.ssl_cert, config.ssl_key)
        except OSError as error:
            raise StoreUnusable(f"the certificate in {config.ssl_cert} cannot be used with its key: {error}") from error
    return context
