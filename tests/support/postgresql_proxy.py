"""The protocol of PostgreSQL for the proxy: a command is all that a client sends until it waits for the server."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from tests.support.proxy import Proxy, proxy

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

_TLS_REQUEST = 80_877_103
_READY = b"Z"
# The names of commands: the first words of a statement, or a word of its text.
_NAMES = {b"WITH probe": b"PING", b"SELECT CASE": b"CONFIRM", b"SELECT user_id,": b"PAGE"}


def postgresql_proxy(port: int, *, context: ssl.SSLContext | None = None) -> AbstractContextManager[Proxy]:
    """Run a proxy to the PostgreSQL server on this port; with ``context`` its clients may use TLS."""
    return proxy(port, session=lambda client, server: PostgresqlSession(client, server, context))


class PostgresqlSession:
    """One connection: it is opened first, and then each command has the name of its statement, such as UPDATE."""

    def __init__(self, client: socket.socket, server: socket.socket, context: ssl.SSLContext | None) -> None:
        self.client, self._server = client, server
        self._statements: dict[bytes, bytes] = {}  # names of commands, by prepared statement
        self._command = b""
        try:
            self._open(context)
        except BaseException:
            self.client.close()  # TLS has made another one of it
            raise

    def next_command(self) -> list[bytes] | None:
        """Read up to Sync or a simple query."""
        self._command = b""
        name = b""
        for kind, body in _messages(self.client):
            self._command += _message(kind, body)
            if kind == b"P":
                statement, text = body.split(b"\0")[:2]
                name = _name(text)
                self._statements[statement] = name
                if statement:
                    name = b"PREPARE"
            elif kind == b"B":
                name = self._statements[body.split(b"\0")[1]]
            elif kind == b"X":
                return None
            elif kind in {b"S", b"Q"}:
                return [name]
        return None

    def send_on(self) -> None:
        """Send the command on."""
        self._server.sendall(self._command)

    def answer(self) -> bytes | None:
        """Read up to ReadyForQuery."""
        answer = b""
        for kind, body in _messages(self._server):
            answer += _message(kind, body)
            if kind == _READY:
                return answer
        return None

    def _open(self, context: ssl.SSLContext | None) -> None:
        """Pass on all that precedes the first command."""
        body = _sized(self.client)
        if struct.unpack("!i", body[:4])[0] == _TLS_REQUEST:
            self.client.sendall(b"N" if context is None else b"S")
            if context is not None:
                self.client = context.wrap_socket(self.client, server_side=True)
            body = _sized(self.client)
        self._server.sendall(struct.pack("!i", len(body) + 4) + body)
        for kind, answer in _messages(self._server):
            self.client.sendall(_message(kind, answer))
            if kind == _READY:
                return
            if kind == b"R" and struct.unpack("!i", answer[:4])[0] not in {0, 12}:  # a password is due
                self._server.sendall(_message(*next(_messages(self.client))))
        raise ConnectionError


def _name(text: bytes) -> bytes:
    words = b" ".join(text.split()[:2])
    return _NAMES.get(words, words.split(b" ")[0])


def _messages(sock: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    while kind := sock.recv(1):
        yield kind, _sized(sock)


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _sized(sock: socket.socket) -> bytes:
    length: int = struct.unpack("!i", _exactly(sock, 4))[0]
    return _exactly(sock, length - 4)


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data
