"""Connections to Valkey: one deadline over all they do, each command sent once, and what is known of its outcome."""

# ruff: noqa: SLF001 - what a connection was given back with is made to go wrong behind its back

from __future__ import annotations

import socket
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import hiredis
import pytest
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from cartsvc.stores.operation import Operation, current_operation
from cartsvc.stores.valkey_connection import Server, TimedConnection, TimedPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIME = 0.5  # seconds that a request has
MARGIN = 0.4  # seconds that a busy machine may take besides; less than another TIME
AMPLE = 20  # seconds, where none are to be waited

Answer = bytes | None  # None: the connection is closed


class Peer:
    """Answers each command with what ``answer`` says; it may also be many bytes, or none."""

    def __init__(self, answer: Callable[[list[bytes]], Answer]) -> None:
        self.commands: list[list[bytes]] = []
        self.connections = 0
        self._answer = answer
        peer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                peer.connections += 1
                reader = hiredis.Reader()
                while data := self.request.recv(65_536):
                    reader.feed(data)
                    while (command := reader.gets()) is not False:
                        peer.commands.append(command)
                        answer = peer._answer(command)
                        if answer is None:
                            return
                        self.request.sendall(answer)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.block_on_close = False  # a connection that a failing test leaves open is no reason to wait
        self._server.handle_error = lambda *_: None
        self.port = self._server.server_address[1]

    @contextmanager
    def running(self) -> Iterator[Peer]:
        """Until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


@contextmanager
def client(port: int, *, host: str = "127.0.0.1", most: int = 8, **options: Any) -> Iterator[Server]:
    """A client as the store makes it."""
    pool = TimedPool(
        host=host,
        port=port,
        connection_class=TimedConnection,
        protocol=2,
        driver_info=None,
        max_connections=most,
        retry=Retry(NoBackoff(), 0),
        **options,
    )
    made = Server(connection_pool=pool)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def request(seconds: float = AMPLE) -> Iterator[Operation]:
    """A request that has so much time."""
    made = Operation(time.monotonic() + seconds)
    token = current_operation.set(made)
    try:
        yield made
    finally:
        current_operation.reset(token)


@contextmanager
def fails_in_time(seconds: float = TIME) -> Iterator[Operation]:
    """What is done in it fails for want of time, and not much later than that."""
    began = time.monotonic()
    with request(seconds) as made, pytest.raises((exceptions.TimeoutError, TimeoutError)):
        yield made
    assert time.monotonic() - began < seconds + MARGIN


@contextmanager
def peer(answer: Callable[[list[bytes]], Answer] = lambda _: b"+OK\r\n") -> Iterator[Peer]:
    with Peer(answer).running() as running:
        yield running


# ---- what is sent ----


def test_a_new_connection_says_nothing_of_its_own() -> None:
    """The first command is the caller's: a new connection costs no round trip but TCP's."""
    with peer() as server, client(server.port) as made, request():
        assert made.execute_command("GET", b"k") == b"OK"
    assert server.commands == [[b"GET", b"k"]]


def test_it_says_who_it_is_and_which_database_it_wants() -> None:
    """When it was told so; once a connection."""
    with peer() as server, client(server.port, username="u", password="p", db=3) as made, request():  # noqa: S106 - nobody's
        made.execute_command("GET", b"k")
        made.execute_command("GET", b"k")
    assert server.commands == [[b"AUTH", b"u", b"p"], [b"SELECT", b"3"], [b"GET", b"k"], [b"GET", b"k"]]


def test_a_connection_is_used_again() -> None:
    """By whoever comes next."""
    with peer() as server, client(server.port) as made, request():
        for _ in range(20):
            made.execute_command("GET", b"k")
        assert server.connections == 1


@pytest.mark.parametrize("name", ["GET", "EVALSHA", "DEL"])
@pytest.mark.parametrize("answer", [None, b"-ERR no\r\n", b"-LOADING wait\r\n", b"?"], ids=["cut", "err", "load", "?"])
def test_a_command_is_sent_once(name: str, answer: Answer) -> None:
    """Whatever becomes of it."""
    with peer(lambda _: answer) as server, client(server.port) as made, request():
        with pytest.raises(exceptions.RedisError):
            made.execute_command(name, b"k")
        assert server.commands == [[name.encode(), b"k"]]


# ---- what is known of the outcome ----

REFUSALS = [
    "ERR unknown",
    "ERR max number of clients reached",
    "LOADING the data set",
    "READONLY no",
    "OOM no",
    "MISCONF no",
    "NOREPLICAS no",
    "NOAUTH no",
    "WRONGPASS no",
    "NOPERM no",
    "BUSY no",
    "MASTERDOWN no",
    "CLUSTERDOWN no",
    "MOVED 1 127.0.0.1:1",
    "NOSCRIPT no",
    "SOMETHING new",
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_write_was_not_done(refusal: str) -> None:
    """The server said so, in whatever words."""
    with peer(lambda _: f"-{refusal}\r\n".encode()) as server, client(server.port) as made, request() as told:
        with pytest.raises(exceptions.RedisError):
            made.execute_command("EVALSHA", b"x")
        assert not told.in_doubt


@pytest.mark.parametrize(
    "answer", [None, b"", b"$100\r\nhalf of it", b"garbage"], ids=["cut", "silence", "half", "garbage"]
)
@pytest.mark.parametrize(("name", "in_doubt"), [("EVALSHA", True), ("EVAL", True), ("DEL", True), ("GET", False)])
def test_the_outcome_of_a_write_without_an_answer_is_unknown(name: str, answer: Answer, *, in_doubt: bool) -> None:
    """That of a read does not matter."""
    with peer(lambda _: answer) as server, client(server.port) as made, request(0.1) as told:
        with pytest.raises(exceptions.RedisError):
            made.execute_command(name, b"k")
        assert told.in_doubt is in_doubt


def test_an_answered_write_is_known() -> None:
    """Also when a later read of the request fails."""
    answers = {b"EVALSHA": b":1\r\n", b"GET": None}
    with peer(lambda command: answers[command[0]]) as server, client(server.port) as made, request() as told:
        assert made.execute_command("EVALSHA", b"x") == 1
        with pytest.raises(exceptions.ConnectionError):
            made.execute_command("GET", b"k")
        assert not told.in_doubt


def test_nothing_is_unknown_without_a_connection() -> None:
    """Nobody listens: the write never left."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with client(port) as made, request() as told:
        with pytest.raises(exceptions.ConnectionError):
            made.execute_command("EVALSHA", b"x")
        assert not told.in_doubt


@pytest.mark.parametrize("answer", [None, b"", b"-WRONGPASS no\r\n"], ids=["cut", "silence", "wrong"])
def test_nothing_is_unknown_while_the_connection_is_being_made(answer: Answer) -> None:
    """A password that nobody answers is no write."""
    with peer(lambda _: answer) as server, client(server.port, password="p") as made, request(0.2) as told:  # noqa: S106
        with pytest.raises(exceptions.RedisError):
            made.execute_command("EVALSHA", b"x")
        assert not told.in_doubt
        assert server.commands == [[b"AUTH", b"p"]]


def test_half_a_write_is_not_done() -> None:
    """A server that stops reading in the middle of a command cannot have carried it out."""
    large = b"x" * 2**24  # more than the system keeps for who does not read
    with socket.create_server(("127.0.0.1", 0)) as deaf, client(deaf.getsockname()[1]) as made:
        with fails_in_time() as told:
            made.execute_command("EVALSHA", large)
        assert not told.in_doubt


# ---- time ----


def test_a_silent_server_is_waited_for_as_long_as_the_request_may() -> None:
    """And no longer."""
    with peer(lambda _: b"") as server, client(server.port) as made, fails_in_time():
        made.execute_command("GET", b"k")


def test_a_server_that_dribbles_has_no_more_time() -> None:
    """Each byte comes in time; all of them do not."""
    over = threading.Event()

    def dribble(sock: socket.socket) -> None:
        while not over.wait(0.02):
            sock.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener, client(listener.getsockname()[1]) as made:
        thread: threading.Thread | None = None
        try:
            with fails_in_time():
                connection = made.connection_pool.get_connection()
                accepted, _ = listener.accept()
                accepted.sendall(b"$1000000\r\n")
                thread = threading.Thread(target=dribble, args=(accepted,))
                thread.start()
                connection.send_command("GET", b"k")
                connection.read_response()
        finally:
            over.set()
            if thread is not None:
                thread.join()
            accepted.close()


@contextmanager
def full_backlog() -> Iterator[int]:
    """A port where nobody accepts, and where no more connections fit: connecting to it hangs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        try:
            while True:
                one = socket.socket()
                waiting.append(one)
                one.settimeout(0.1)
                one.connect(listener.getsockname())
        except TimeoutError:
            yield listener.getsockname()[1]
        finally:
            for one in waiting:
                one.close()


def test_connecting_has_no_more_time() -> None:
    """A host that drops what comes."""
    with full_backlog() as port, client(port) as made, fails_in_time() as told:
        made.execute_command("EVALSHA", b"x")
    assert not told.in_doubt


def test_another_address_of_the_same_name_gets_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is silent, the second one answers: the request is served."""
    with full_backlog() as silent, peer() as server:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in (silent, server.port)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with client(1, host="two.example") as made, request(1):
            assert made.execute_command("GET", b"k") == b"OK"


def test_all_addresses_together_have_no_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are."""
    with full_backlog() as silent:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", silent))] * 50
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with client(1, host="fifty.example") as made, fails_in_time():
            made.execute_command("GET", b"k")


def test_when_no_time_is_left_nothing_is_sent() -> None:
    """And the connection is as good as before."""
    with peer() as server, client(server.port) as made:
        with request():
            made.execute_command("GET", b"k")
        with request(0) as told, pytest.raises(TimeoutError):
            made.execute_command("EVALSHA", b"x")
        assert not told.in_doubt
        with request():
            made.execute_command("GET", b"k")
        assert [command[0] for command in server.commands] == [b"GET", b"GET"]
        assert server.connections == 1


# ---- the pool ----


def test_a_connection_is_waited_for_as_long_as_the_request_may() -> None:
    """All are in use: who gets one in time is served, the others are told so."""
    with peer() as server, client(server.port, most=1) as made:
        with request():
            taken = made.connection_pool.get_connection()
            with fails_in_time():
                made.execute_command("GET", b"k")
            timer = threading.Timer(0.1, made.connection_pool.release, [taken])
            timer.start()
            assert made.execute_command("GET", b"k") == b"OK"
            timer.join()
        assert server.connections == 1


def test_no_place_is_lost() -> None:
    """Whatever fails, and however often: the only place of the pool is there again."""
    answers: list[Answer] = [None, b"", b"-ERR no\r\n", b"garbage", b"-LOADING no\r\n"] * 3
    with peer(lambda _: answers.pop() if answers else b"+OK\r\n") as server, client(server.port, most=1) as made:
        while answers:
            with request(0.05), pytest.raises(exceptions.RedisError):
                made.execute_command("GET", b"k")
        with request(0), pytest.raises(TimeoutError):
            made.execute_command("GET", b"k")
        with request():
            assert made.execute_command("GET", b"k") == b"OK"


def test_no_place_is_lost_while_connections_are_being_made() -> None:
    """As often as that fails."""
    answers: list[Answer] = [None, b"-WRONGPASS no\r\n", b"-LOADING no\r\n"] * 3
    with (
        peer(lambda _: answers.pop() if answers else b"+OK\r\n") as server,
        client(server.port, most=1, password="p") as made,  # noqa: S106 - nobody's
    ):
        while answers:
            with request(), pytest.raises(exceptions.RedisError):
                made.execute_command("GET", b"k")
        with request(TIME):
            assert made.execute_command("GET", b"k") == b"OK"


def test_a_connection_closed_meanwhile_costs_no_request() -> None:
    """As those of a server that was restarted: it is replaced before anything is sent."""
    cut = threading.Event()

    def answer(_: list[bytes]) -> Answer:
        return None if cut.is_set() else b"+OK\r\n"

    with peer(answer) as server, client(server.port) as made, request():
        made.execute_command("GET", b"k")
        connection = made.connection_pool._idle[0]
        cut.set()
        connection.send_command("PING")  # makes it close; nobody reads that
        assert connection._sock.recv(1, socket.MSG_PEEK) == b""
        cut.clear()
        assert made.execute_command("EVALSHA", b"x") == b"OK"
        assert server.connections == 2
        assert [command[0] for command in server.commands] == [b"GET", b"PING", b"EVALSHA"]


def test_nobody_gets_the_answer_to_another_command() -> None:
    """One that comes late, or that nobody asked for, goes with its connection."""
    with peer(lambda command: b"+%b\r\n+EXTRA\r\n" % command[1]) as server, client(server.port) as made, request():
        for number in range(10):
            wanted = b"%d" % number
            assert made.execute_command("GET", wanted) == wanted
        assert server.connections > 1


def test_only_idle_connections_are_closed() -> None:
    """One in use goes on, and is used again."""
    with peer() as server, client(server.port) as made, request():
        pool = made.connection_pool
        used, idle = pool.get_connection(), pool.get_connection()
        pool.release(idle)
        pool.disconnect()
        assert not idle.is_connected
        used.send_command("GET", b"k")
        assert used.read_response() == b"OK"
        pool.release(used)
        assert pool.get_connection() is used
        pool.release(used)


def test_threads_never_get_each_others_answers() -> None:
    """Many threads, few connections, some of them cut."""
    turn = iter(range(10**9))

    def answer(command: list[bytes]) -> Answer:
        return None if next(turn) % 7 == 0 else b"+%b\r\n" % command[1]

    wrong: list[Any] = []

    def work(number: int) -> None:
        for each in range(60):
            wanted = b"%d-%d" % (number, each)
            with request():
                try:
                    got = made.execute_command("GET", wanted)
                except exceptions.ConnectionError:
                    continue
                if got != wanted:
                    wrong.append((wanted, got))

    with peer(answer) as server, client(server.port, most=3) as made:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


# ---- the driver ----


@pytest.mark.parametrize(
    "before", ["", "sys.modules['opentelemetry'] = None"], ids=["as it is", "without OpenTelemetry"]
)
def test_importing_the_driver_starts_nothing(before: str) -> None:
    """It starts no thread, and needs no OpenTelemetry, whose metrics redis-py imports where they are installed."""
    code = f"import sys, threading\n{before}\nimport cartsvc.stores.valkey\nprint(threading.active_count())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "1\n"
