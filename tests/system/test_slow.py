"""Slow and greedy clients: each is cut off in time, others are served within a second, and nothing of them stays."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.http_clients import SECONDS, Client
from tests.support.servers import serve
from tests.system.conftest import SERVERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.servers import Server

MANY = 1500  # connections at a time; more than the usual limit of open files
# Seconds for a head, a body and an answer: enough to connect them all. A body of this size has four more.
# One worker, which has to bear all that is sent.
PATIENCE = {"CARTSVC_KEEP_ALIVE": "5", "CARTSVC_MAX_BODY": "131072", "WEB_CONCURRENCY": "1"}
SHORT = {"CARTSVC_KEEP_ALIVE": "1", "WEB_CONCURRENCY": "1"}
HELD_UP = 4.5  # seconds: a request that waited for a slow client would take 5; on a busy machine others take 1 or 2
TURNS = 4  # of others, while a client never stops sending
MIB = 2**20
MOST_MEMORY = 96 * MIB  # that 1,500 clients may take: 64 KiB each
REST = b'{"product_id": "sku-1", "quantity": 2}'

HEAD = b"GET /cart/alice HTTP/1.1\r\nHost: x\r\nX-Slow: "
POST = b"POST /cart/alice HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
ANNOUNCED = POST + b"Content-Length: 10000\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
REFUSED = POST + b"Content-Length: 1000000000000\r\n\r\n"  # answered at once; then gunicorn reads on for a while
# What a slow client sends at once, and what it goes on with, over and over.
SLOW = {
    "nothing": (b"", b""),
    "a head that stops": (HEAD, b""),
    "a head that dribbles": (HEAD, b"a"),
    "a body announced and never sent": (ANNOUNCED, b""),
    "a body that dribbles": (ANNOUNCED, b" "),
    "chunks that dribble": (CHUNKED, b"1\r\n \r\n"),
    "chunks of next to nothing": (CHUNKED, b"1;" + b"x" * 8000 + b"\r\n \r\n"),
    "the refused rest of a body": (REFUSED, b" "),
}


class Footprint(NamedTuple):
    """What the worker holds: open files, and bytes of memory."""

    files: int
    memory: int


def worker_of(server: Server) -> Path:
    """The worker's directory among the processes."""
    (pid,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return Path("/proc") / pid


def footprint(worker: Path) -> Footprint:
    """What it holds now."""
    pages = int((worker / "statm").read_text().split()[1])
    return Footprint(len(list((worker / "fd").iterdir())), pages * resource.getpagesize())


@contextmanager
def connected(server: Server, count: int, small: int = 0) -> Iterator[list[socket.socket]]:
    """So many connections; their receive buffers are ``small`` bytes."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.settimeout(SECONDS)
            if small:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, small)
            client.connect(("127.0.0.1", server.port))
            found.append(client)
        yield found


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Meanwhile a thread does this, until the event that it gets is set."""
    enough = threading.Event()
    thread = threading.Thread(target=work, args=(enough,))
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


@contextmanager
def others_served(server: Server) -> Iterator[Callable[[], int]]:
    """Meanwhile others add, over new connections and over one that is kept; none of them waits for a slow client.

    Yields a function that returns how often both have added.
    """
    took: dict[str, list[float]] = {"new": [], "kept": []}
    failed: list[BaseException] = []

    def add(what: str, client: Client) -> None:
        began = time.monotonic()
        assert client.add(what).status in {200, 409}  # 409: there are many already
        took[what].append(time.monotonic() - began)

    def go_on(enough: threading.Event) -> None:
        try:
            with Client(server.url) as kept:
                while not enough.wait(0.1):
                    with Client(server.url) as new:
                        add("new", new)
                    add("kept", kept)
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    with beside(go_on):
        yield lambda: min(map(len, took.values()))
    assert failed == []
    assert all(took.values())
    slowest = {what: max(times) for what, times in took.items()}
    assert {what for what, seconds in slowest.items() if seconds >= HELD_UP} == set(), slowest


@contextmanager
def leaving_nothing(server: Server, *, most_memory: int = MOST_MEMORY) -> Iterator[Callable[[], Footprint]]:
    """Afterwards as many files are open as before, and memory has grown by no more than it may at any moment.

    Yields a look at the most that the worker has held until now.
    """
    worker = worker_of(server)
    with Client(server.url) as warm:
        warm.add("warm")
    time.sleep(0.2)  # nothing tells from outside that the worker has closed its end
    before = most = footprint(worker)

    def look() -> Footprint:
        nonlocal most
        most = Footprint(*map(max, zip(most, footprint(worker), strict=True)))
        return most

    def watch(enough: threading.Event) -> None:
        while not enough.wait(0.1):
            look()

    with beside(watch):
        yield look
    wait_until(lambda: footprint(worker).files <= before.files)
    assert worker_of(server) == worker  # it was not replaced
    assert look().memory - before.memory < most_memory
    assert "Traceback" not in server.log()


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when it holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def dribbling(clients: list[tuple[socket.socket, bytes]], pause: float) -> Iterator[None]:
    """Each client goes on with its bytes, one after the other, until it is cut off."""

    def dribble(enough: threading.Event) -> None:
        gone = set()
        for client, more in cycle(clients):
            if client is clients[0][0] and enough.wait(pause):
                return
            if client not in gone:
                try:
                    os.write(client.fileno(), more)  # send() would wait for room
                except BlockingIOError:
                    pass
                except OSError:
                    gone.add(client)

    with beside(dribble):
        yield


def until_closed(client: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    received = b""
    try:
        while chunk := client.recv(65536):
            received += chunk
    except ConnectionResetError:  # it had not read all that the client sent
        pass
    client.close()  # threads linger over a connection for up to two seconds, all of them, until the client closes it
    return received


@pytest.fixture(scope="module", params=SERVERS, ids=SERVERS)
def short(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that waits a second for each; with four threads or with coroutines, and with either parser."""
    arguments, settings = SERVERS[request.param]
    with serve(*arguments, **SHORT, **settings) as server:
        yield server


@pytest.fixture(scope="module")
def patient() -> Iterator[Server]:
    """A server that was started with few open files, and a client that may have many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        with serve(**PATIENCE) as server:
            resource.setrlimit(resource.RLIMIT_NOFILE, (2 * MANY, hard))
            yield server
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_1500_idle_connections_are_let_go(patient: Server) -> None:
    """All of them are connected at a time, are closed without a word, and leave no file open."""
    with leaving_nothing(patient) as most, others_served(patient), connected(patient, MANY) as idle:
        began = footprint(worker_of(patient))
        assert began.files <= 2 * MANY
        assert {until_closed(client) for client in idle} == {b""}
        assert most().files >= MANY


def test_1500_slow_clients_are_cut_off(patient: Server) -> None:
    """Whatever they are slow with, they are answered 408 if it was a body, and their connections are closed."""
    with leaving_nothing(patient) as most, others_served(patient), connected(patient, MANY) as clients:
        kinds = list(zip(cycle(SLOW.items()), clients, strict=False))
        for (_, (first, _)), client in kinds:
            client.sendall(first)
        with dribbling([(client, more) for (_, (_, more)), client in kinds if more], 1):
            ends = {(kind, until_closed(client)[:12]) for (kind, _), client in kinds}
        assert most().files >= MANY
    late, too_large = b"HTTP/1.1 408", b"HTTP/1.1 413"
    bodies = {kind: late for kind, (first, _) in SLOW.items() if first in {ANNOUNCED, CHUNKED}}
    expected = dict.fromkeys(SLOW, b"") | bodies | {"the refused rest of a body": too_large}
    assert dict(sorted(ends)) == dict(sorted(expected.items()))
    assert len(ends) == len(SLOW)


def test_clients_that_read_no_answer_are_let_go(patient: Server) -> None:
    """15 clients ask for a cart of 500 items, again and again, and read nothing: each is cut off, and none is told of.

    What the worker holds for one of them is one answer.
    """
    items = [{"product_id": f"sku-{number}", "quantity": 1, "options": {"a": "b" * 50}} for number in range(500)]
    worker = worker_of(patient)
    before = footprint(worker).files
    with Client(patient.url) as client:
        assert client.call("PUT", "/cart/big", {"items": items}).status == 201
        size = len(str(client.call("GET", "/cart/big").body))
    asked = b"GET /cart/big HTTP/1.1\r\nHost: x\r\n\r\n" * 200
    with (
        leaving_nothing(patient, most_memory=15 * 2 * size + 16 * MIB),
        others_served(patient),
        connected(patient, 15, small=4096) as greedy,
    ):
        for client in greedy:
            client.sendall(asked)
        wait_until(lambda: footprint(worker).files > before + 10)
        wait_until(lambda: footprint(worker).files < before + 10)  # the server has closed them; they have not


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (REFUSED, b"x" * MIB),
        (CHUNKED, b"1\r\n \r\n" * 10_000),
        (CHUNKED, b"1;" + b"x" * 8000 + b"\r\n \r\n"),
        (b"", b"GET /cart/alice HTTP/1.1\r\nHost: x\r\n\r\n" * 1000),
    ],
    ids=["a refused body without an end", "chunks of one byte", "chunks of next to nothing", "requests"],
)
def test_a_client_that_never_stops_sending_leaves_others_their_turn(patient: Server, first: bytes, more: bytes) -> None:
    """What it sends is always there already; the others are served all the same."""
    with leaving_nothing(patient), others_served(patient) as served, connected(patient, 1) as (greedy,):
        enough = served() + TURNS
        greedy.settimeout(0.1)
        data = memoryview(first)
        while served() < enough:
            data = data or memoryview(more)
            try:
                data = data[greedy.send(data) :]
                os.read(greedy.fileno(), MIB)  # recv() would wait for an answer
            except (TimeoutError, BlockingIOError):
                pass
            except ConnectionError:  # on a busy machine, the server may have read all that it ever does
                wait_until(lambda: served() >= enough)


@pytest.mark.parametrize("short", [each for each in SERVERS if each.startswith("gevent")], indirect=True)
def test_a_head_that_does_not_end_is_cut_off(short: Server) -> None:
    """It stops, or it dribbles: the connection is closed without a response. With threads, a proxy has to do that."""
    first, more = HEAD + b"a" * 100_000, b"a"
    with connected(short, 2) as (stopped, slow):
        stopped.sendall(first)
        slow.sendall(first)
        with dribbling([(slow, more)], 0.05):
            assert [until_closed(client) for client in (stopped, slow)] == [b"", b""]
    assert "Traceback" not in short.log()


def test_a_body_that_does_not_come_is_a_problem(short: Server) -> None:
    """Announced and not sent, dribbled, or chunked: 408, with which the connection ends, and nothing was added.

    The clients are as many as the threads: after that all threads are free again.
    """
    with Client(short.url) as client:
        before = client.call("GET", "/cart/alice").body["version"]
    slow = [(ANNOUNCED, b""), (ANNOUNCED, b" "), (CHUNKED, b"1\r\n \r\n"), (CHUNKED, b"1;x")]
    with connected(short, len(slow)) as clients:
        for client, (first, _) in zip(clients, slow, strict=True):
            client.sendall(first + REST[:10] if first is ANNOUNCED else first)
        with dribbling([(client, more) for client, (_, more) in zip(clients, slow, strict=True) if more], 0.05):
            responses = [until_closed(client) for client in clients]
    for response in responses:
        assert response.startswith(b"HTTP/1.1 408 ")
        assert b"\r\nConnection: close\r\n" in response
        assert b"\r\nContent-Type: application/problem+json\r\n" in response
        assert b"urn:cartsvc:problem:request-timeout" in response
    with Client(short.url) as client:
        assert client.call("GET", "/cart/alice").body["version"] == before
    assert "Traceback" not in short.log()


def test_a_body_that_comes_steadily_is_read(short: Server) -> None:
    """A large body may take longer than a small one, as long as it keeps coming."""
    body = REST + b" " * (100 * 1024)
    head = POST + f"Content-Length: {len(body)}\r\n\r\n".encode()
    with connected(short, 1) as (client,):
        client.sendall(head)
        began = time.monotonic()
        step = len(body) // 8
        for start in range(0, len(body), step):
            client.sendall(body[start : start + step])
            time.sleep(0.2)  # where a body that stops has one second in all
        assert time.monotonic() - began > 1.5
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_a_client_that_reads_no_answer_is_cut_off(short: Server) -> None:
    """A thread that sends to nobody is free again; the log has no word of it."""
    items = [{"product_id": f"sku-{number}", "quantity": 1} for number in range(500)]
    with Client(short.url) as client:
        assert client.call("PUT", "/cart/big", {"items": items}).status == 201
    asked = b"GET /cart/big HTTP/1.1\r\nHost: x\r\n\r\n" * 500
    with connected(short, 4, small=4096) as greedy:
        for client in greedy:
            client.sendall(asked)
        time.sleep(0.5)  # until their answers are stuck
        with Client(short.url) as client:
            assert client.add("bob").status == 200
    assert "Traceback" not in short.log()


@pytest.mark.parametrize(
    "chunks",
    [b"ZZ\r\n", b"1\r\nabc\r\n", b"1;\x01\r\na\r\n", b"0\r\nno trailer\r\n\r\n"],
    ids=["size", "end", "extension", "trailer"],
)
def test_chunks_that_are_malformed_are_a_problem(short: Server, chunks: bytes) -> None:
    """They are the client's fault: 400, and no word in the log."""
    with connected(short, 1) as (client,):
        client.sendall(CHUNKED + chunks)
        response = until_closed(client)
    assert response.startswith(b"HTTP/1.1 400 ")
    assert b"urn:cartsvc:problem:bad-request" in response
    assert "Traceback" not in short.log()


@pytest.mark.parametrize("sent", [ANNOUNCED, CHUNKED, CHUNKED + b"ff\r\nabc"], ids=["length", "chunks", "chunk"])
def test_a_client_that_goes_away_within_a_body_is_not_told_of(short: Server, sent: bytes) -> None:
    """It is answered, as it may have closed one direction only; the log has no word of it."""
    with connected(short, 1) as (client,):
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        assert until_closed(client).startswith(b"HTTP/1.1 400 ")
    assert "Traceback" not in short.log()


def test_a_stop_does_not_wait_for_slow_clients_for_ever() -> None:
    """SIGTERM while clients are slow with all they can be slow with: each has the time it always has, then it ends."""
    with serve(**SHORT, CARTSVC_MAX_BODY="16384") as server, connected(server, len(SLOW)) as clients:
        kinds = list(zip(SLOW.values(), clients, strict=True))
        for (first, _), client in kinds:
            client.sendall(first)
        wait_until(lambda: footprint(worker_of(server)).files > len(SLOW))
        with dribbling([(client, more) for (_, more), client in kinds if more], 0.05):
            began = time.monotonic()
            server.process.terminate()
            assert server.process.wait(SECONDS) == 0
            assert time.monotonic() - began < 10  # half the graceful time-out
        assert "graceful timeout" not in server.log()
