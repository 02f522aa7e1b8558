"""A proxy between a store and its server that decides what happens to each command and its response."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol

import hiredis

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

_SECONDS = 20  # for what must arrive at once
_BETWEEN_BYTES = 0.05  # seconds, when a response arrives byte by byte
_SLOW = 0.1  # seconds, before a late response


class Fate(Enum):
    """What happens to a command and its response."""

    PASS = auto()
    CUT_BEFORE = auto()  # the server does not get it; the connection is closed
    CUT_AFTER = auto()  # the server has applied it; the connection is closed without a response
    SILENT = auto()  # the server has applied it; no response arrives
    DRIBBLE = auto()  # the response arrives byte by byte
    SLOW = auto()  # the response arrives late


class Session(Protocol):
    """The protocol of one connection between a client and the server."""

    client: socket.socket

    def next_command(self) -> list[bytes] | None:
        """Read a command of the client: its name, and more about it; None at the end."""

    def send_on(self) -> None:
        """Send this command to the server."""

    def answer(self) -> bytes | None:
        """Read the whole response; None if the server has closed the connection."""


class Proxy:
    """A proxy to the server on ``port``. ``commands`` lists all commands, ``connections`` counts the connections.

    ``fate`` is called for each command. ``session`` makes the protocol of a connection.
    """

    def __init__(
        self,
        port: int,
        context: ssl.SSLContext | None,
        session: Callable[[socket.socket, socket.socket], Session],
    ) -> None:
        self._session = session
        self._server = ("127.0.0.1", port)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = [self._listener]
        self._over = threading.Event()
        self.port: int = self._listener.getsockname()[1]
        self.commands: list[list[bytes]] = []
        self.connections = 0
        self.fate: Callable[[list[bytes]], Fate] = lambda _: Fate.PASS
        self._start(self._accept)

    def names(self) -> list[str]:
        """Return the names of the commands since the last call."""
        commands, self.commands = self.commands, []
        return [command[0].decode() for command in commands]

    def once(self, name: str, fate: Fate) -> None:
        """Set the fate of the next command of this name; all others pass."""
        left = [fate]
        self.fate = lambda command: left.pop() if left and command[0] == name.encode() else Fate.PASS

    def close(self) -> None:
        """Close all connections and wait for the threads."""
        self._over.set()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        while self._threads:
            self._threads.pop().join(_SECONDS)
        for each in self._sockets:
            each.close()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                self._sockets.append(client)
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
                self._sockets.append(client)
            with client, socket.create_connection(self._server, timeout=_SECONDS) as server:
                self._sockets.append(server)
                session = self._session(client, server)
                self._sockets.append(session.client)
                while (command := session.next_command()) is not None:
                    self.commands.append(command)
                    if not self._carry_out(command, session):
                        return

    def _carry_out(self, command: list[bytes], session: Session) -> bool:
        """Pass a command on; return whether the connection stays open."""
        client = session.client
        fate = self.fate(command)
        if fate is Fate.CUT_BEFORE:
            return False
        session.send_on()
        answer = session.answer()
        if fate is Fate.CUT_AFTER or answer is None:
            return False
        if fate is Fate.SILENT:
            return True
        if fate is Fate.SLOW:
            self._over.wait(_SLOW)
        if fate is Fate.DRIBBLE:
            for byte in answer:
                self._over.wait(_BETWEEN_BYTES)
                client.sendall(bytes([byte]))
            return True
        client.sendall(answer)
        return True


class ValkeySession:
    """Commands and responses of Valkey."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self._server = client, server
        self._commands, self._answers = hiredis.Reader(), hiredis.Reader()
        self._command: list[bytes] = []

    def next_command(self) -> list[bytes] | None:
        """Read a command."""
        while (command := self._commands.gets()) is False:
            data = self.client.recv(65_536)
            if not data:
                return None
            self._commands.feed(data)
        assert isinstance(command, list)
        self._command = command
        return command

    def send_on(self) -> None:
        """Send the command on."""
        self._server.sendall(hiredis.pack_command(tuple(self._command)))

    def answer(self) -> bytes | None:
        """Read a response."""
        answer = b""
        while self._answers.gets() is False:
            data = self._server.recv(65_536)
            if not data:
                return None
            self._answers.feed(data)
            answer += data
        return answer


@contextmanager
def proxy(
    port: int,
    *,
    context: ssl.SSLContext | None = None,
    session: Callable[[socket.socket, socket.socket], Session] = ValkeySession,
) -> Iterator[Proxy]:
    """Run a proxy to the server on this port until the block ends; with ``context`` its clients must use TLS."""
    running = Proxy(port, context, session)
    try:
        yield running
    finally:
        running.close()
