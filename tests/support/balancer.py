"""A TCP balancer for tests: it polls /readyz of its servers, and gives new connections to the ready ones only."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SECONDS = 20
_POLL_S = 0.1  # between two polls of a server
_READY = b"HTTP/1.1 200 "
_PROBE = b"GET /readyz HTTP/1.1\r\nHost: balancer\r\nConnection: close\r\n\r\n"


class Balancer:
    """Connections to ``url`` reach the servers that were ready at their last poll, in turn.

    A connection that a server does not take is closed: it is not tried on another server, because that would hide lost
    requests.
    """

    url: str

    def __init__(self, ports: Sequence[int]) -> None:
        self._ready = dict.fromkeys(ports, False)
        self._changed = threading.Condition()
        self._turn = 0

    def wait_for(self, *ready: int) -> None:
        """Return once exactly these ports are ready."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._ports() == sorted(ready), _SECONDS), self._ready

    async def serve(self, started: threading.Event, stopped: asyncio.Event) -> None:
        """Balance until ``stopped`` is set."""
        async with await asyncio.start_server(self._balance, "127.0.0.1", 0) as listener:
            self.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
            polls = [asyncio.create_task(self._poll(port)) for port in self._ready]
            started.set()
            await stopped.wait()
            for poll in polls:
                poll.cancel()

    def _ports(self) -> list[int]:
        return sorted(port for port, is_ready in self._ready.items() if is_ready)

    async def _poll(self, port: int) -> None:
        while True:
            is_ready = await _probe(port)
            with self._changed:
                self._ready[port] = is_ready
                self._changed.notify_all()
            await asyncio.sleep(_POLL_S)

    async def _balance(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ready = self._ports()
        self._turn += 1
        try:
            server = await asyncio.open_connection("127.0.0.1", ready[self._turn % len(ready)])
        except (OSError, ZeroDivisionError):
            writer.close()
            return
        await asyncio.gather(_copy(reader, server[1]), _copy(server[0], writer))


async def _probe(port: int) -> bool:
    with suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(_PROBE)
            return (await reader.read()).startswith(_READY)
        finally:
            writer.close()
    return False


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextmanager
def balancer(*ports: int) -> Iterator[Balancer]:
    """Run a balancer of the servers on these ports until the block ends."""
    running, started = Balancer(ports), threading.Event()
    loop, stopped = asyncio.new_event_loop(), asyncio.Event()

    def work() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(running.serve(started, stopped))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert started.wait(_SECONDS)
        yield running
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(_SECONDS)
