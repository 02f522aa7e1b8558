"""Test what is known of a write on a PostgreSQL connection, with a peer that sends what a server rarely sends."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from cartsvc.stores.operation import Operation, current_operation
from cartsvc.stores.postgresql_connection import ServerError
from cartsvc.stores.postgresql_connector import Connector
from cartsvc.stores.urls import PostgresqlConfig
from tests.support.server_store import AMPLE, MARGIN, SECONDS, TIME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cartsvc.stores.postgresql_connection import Connection


def message(kind: bytes, body: bytes = b"") -> bytes:
    """Return a message of the protocol."""
    return kind + struct.pack("!i", len(body) + 4) + body


def report(kind: bytes, severity: str, sqlstate: str = "XX000") -> bytes:
    """Return an error (E) or a notice (N), in a language that is not English."""
    return message(kind, f"SFEHLER\0V{severity}\0C{sqlstate}\0Mgrund\0\0".encode())


READY = message(b"Z", b"I")
DONE = message(b"1") + message(b"2") + message(b"n") + message(b"C", b"UPDATE 1\0")


class Peer:
    """Accepts connections as a server does, and sends ``answer`` to the first statement."""

    def __init__(self, answer: bytes | None, *, closes: bool) -> None:
        self._answer = answer
        self._closes = closes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # little room for what is not read
        self.port: int = self._listener.getsockname()[1]
        self.received = b""
        self.reads = threading.Event()  # unless it is set, the peer reads no more
        self.reads.set()
        self.ended = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client:
            (length,) = struct.unpack("!i", client.recv(4))
            client.recv(length - 4)
            client.sendall(message(b"R", bytes(4)) + READY)
            answered = False
            while self.reads.wait(SECONDS) and (data := client.recv(65_536)):
                self.received += data
                if self._answer is not None and not answered:
                    client.sendall(self._answer)
                    answered = True
                    if self._closes:
                        break
        self._listener.close()
        self.ended.set()


@contextmanager
def connected(
    answer: bytes | None, *, closes: bool = False, seconds: float = AMPLE
) -> Iterator[tuple[Connection, Peer]]:
    """Open a connection to a peer for one request."""
    peer = Peer(answer, closes=closes)
    token = current_operation.set(Operation(time.monotonic() + seconds))
    config = PostgresqlConfig((("127.0.0.1", peer.port),), "shop", sslmode="disable")
    connection = Connector(config).connect()
    try:
        yield connection, peer
    finally:
        connection.close()
        current_operation.reset(token)
    assert peer.ended.wait(SECONDS)


def in_doubt() -> bool:
    """Return whether the operation is in doubt."""
    operation = current_operation.get()
    assert operation is not None
    return operation.in_doubt


ERROR, FATAL, PANIC = (report(b"E", severity, "57P01") for severity in ("ERROR", "FATAL", "PANIC"))
AMBIGUOUS = report(b"E", "ERROR", "40003")
WARNING, NOTICE = report(b"N", "WARNING", "01000"), report(b"N", "NOTICE", "00000")


@pytest.mark.parametrize(
    ("answer", "closes", "raised", "doubt"),
    [
        (DONE + READY, False, None, False),
        (NOTICE + DONE + READY, False, None, False),
        (ERROR + READY, False, ServerError, False),
        (DONE + ERROR + READY, False, ServerError, False),
        (FATAL, True, ServerError, False),
        (DONE + FATAL, True, ServerError, True),
        (DONE + PANIC, True, ServerError, True),
        (AMBIGUOUS + READY, False, ServerError, True),
        (DONE + AMBIGUOUS + READY, False, ServerError, True),
        (DONE + WARNING + READY, False, ConnectionError, True),
        (WARNING, True, ConnectionError, True),
        (DONE, True, ConnectionError, True),
        (b"", True, ConnectionError, True),
        (DONE, False, TimeoutError, True),
        (None, False, TimeoutError, True),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", True, ConnectionError, True),
    ],
    ids=[
        "done",
        "done with a notice",
        "rolled back",
        "rolled back by the commit",
        "ended before the statement",
        "ended after the statement",
        "crashed in the commit",
        "ambiguous",
        "ambiguous commit",
        "wait for the standby cancelled",
        "wait for the standby cut",
        "cut after the statement",
        "cut",
        "silent after the statement",
        "silent",
        "garbage",
    ],
)
def test_what_is_known_of_a_write(
    answer: bytes | None, raised: type[Exception] | None, *, closes: bool, doubt: bool
) -> None:
    """It is applied once ReadyForQuery has arrived without a warning, and not applied once it was rolled back."""
    with connected(answer, closes=closes, seconds=TIME) as (connection, _):
        if raised is None:
            connection.execute(b"UPDATE", write=True)
        else:
            with pytest.raises(raised) as caught:
                connection.execute(b"UPDATE", write=True)
            assert type(caught.value) is raised
        assert in_doubt() is doubt


@pytest.mark.parametrize("answer", [None, b"", FATAL, DONE + FATAL, DONE + WARNING + READY])
def test_a_read_is_never_in_doubt(answer: bytes | None) -> None:
    """Whatever becomes of it."""
    with connected(answer, closes=answer is not None, seconds=TIME) as (connection, _):
        try:
            connection.execute(b"SELECT", write=False)
        except (ServerError, OSError):
            assert answer != DONE + WARNING + READY
        assert not in_doubt()


def test_an_error_has_its_code_and_one_line() -> None:
    """The code is independent of the language of the server."""
    with connected(report(b"E", "ERROR", "42501") + READY) as (connection, _):
        with pytest.raises(ServerError, match=r"^grund$") as caught:
            connection.execute(b"SELECT", write=False)
        assert caught.value.status_code == "42501"


def test_half_a_write_is_never_completed() -> None:
    """Closing the connection does not send the rest of a statement that its server had no room for."""
    size = 2**20
    with connected(None, seconds=TIME) as (connection, peer):
        descriptor = connection._pgconn.socket  # noqa: SLF001 - the test limits its buffer
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
            peer.reads.clear()
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                connection.execute(b"UPDATE", [bytes(size)], write=True)
            assert time.monotonic() - began < TIME + MARGIN
            assert not in_doubt()
            peer.reads.set()
            deadline, received = time.monotonic() + SECONDS, -1
            while received != len(peer.received) or _is_queued(sock):
                assert time.monotonic() < deadline
                received = len(peer.received)
                time.sleep(0.05)
            connection.close()
        assert peer.ended.wait(SECONDS)
        assert len(peer.received) == received


def _is_queued(sock: socket.socket) -> bool:
    """Return whether the system has bytes that the peer has not acknowledged."""
    return struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4))) != (0,)
