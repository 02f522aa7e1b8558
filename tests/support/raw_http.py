"""Raw bytes to a server, and the responses as they arrive: for requests that no client library sends."""

from __future__ import annotations

import json
import re
import socket
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.http_clients import SECONDS, Client

if TYPE_CHECKING:
    from tests.support.servers import Server

SECRET = b"s3cr3t-0f-the-caller"  # must not appear in any response or log line
BODY = b'{"product_id": "sku-1", "quantity": 2}'
JSON = b"Content-Type: application/json"
CHUNKED = b"Transfer-Encoding: chunked"
SMUGGLED = b"PUT /cart/smuggled HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n"
SMUGGLED += b'{"items":[]}'

_LEAK = re.compile(rb"Traceback|\.py\b|/(?:site-packages|home|usr|tmp|srv|work|app)/|object at 0x|[A-Z]\w+Error\b")
EXPECTED_LOG = re.compile(r"\[INFO\]|\[WARNING\] Invalid request from ip=127\.0\.0\.1: ")


class Response(NamedTuple):
    """One response as received: status, headers and body."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the header, or None."""
        found = re.search(rb"(?im)^" + re.escape(name) + rb":[ \t]*(.*?)\r$", self.head)
        return found[1] if found else None


def check_well(server: Server, logged: int) -> None:
    """Check that it serves, has no smuggled cart, and has logged only one line per rejection, without the secret.

    ``logged`` is the length of its log at the start of the test.
    """
    with Client(server.url) as client:
        assert client.call("DELETE", "/cart/smuggled").status == 404
    log = server.log()[logged:]
    assert [line for line in log.splitlines() if not EXPECTED_LOG.search(line)] == []
    assert not _LEAK.search(log.encode()), log
    assert SECRET.decode() not in log


def exchange(server: Server, *sent: bytes) -> list[Response]:
    """Send this and end the stream; return all responses until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        try:
            for each in sent:
                connection.sendall(each)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server responded and closed before all was sent
        return read_responses(connection)


def read_responses(connection: socket.socket) -> list[Response]:
    """Return all responses until the server closes the connection."""
    received = b""
    try:
        while data := connection.recv(65_536):
            received += data
    except ConnectionResetError:
        pass  # the server closed with unread bytes, after its response
    found = []
    while received:
        head, ended, received = received.partition(b"\r\n\r\n")
        assert ended, head
        response = Response(int(head.split(b" ", 2)[1]), head + b"\r\n", b"")
        length = int(response.header(b"Content-Length") or 0)
        found.append(response._replace(body=received[:length]))
        received = received[length:]
        check_no_leak(found[-1])
    return found


def check_no_leak(response: Response) -> None:
    """Check that a response contains no internals and not the secret."""
    whole = response.head + response.body
    assert not _LEAK.search(whole), whole
    assert SECRET not in whole
    assert response.header(b"Server") in {None, b"gunicorn"}
    if response.header(b"Content-Type") == b"application/problem+json":
        assert json.loads(response.body)["status"] == response.status


def request(method: bytes, target: bytes, *fields: bytes, body: bytes | None = None) -> bytes:
    """Return a request as it is sent."""
    if body is not None:
        fields = (*fields, b"Content-Length: %d" % len(body))
    head = [method + b" " + target + b" HTTP/1.1", b"Host: x", b"Authorization: Bearer " + SECRET, *fields]
    return b"\r\n".join(head) + b"\r\n\r\n" + (body or b"")


def post(*fields: bytes, body: bytes = BODY, user_id: bytes = b"alice") -> bytes:
    """Return an add with these headers, and perhaps another body."""
    return request(b"POST", b"/cart/" + user_id, JSON, *fields, body=body)


def chunks(data: bytes) -> bytes:
    """Return an add with this chunked body."""
    return request(b"POST", b"/cart/alice", JSON, CHUNKED) + data


def chunk(data: bytes) -> bytes:
    """Return one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def statuses(server: Server, *sent: bytes) -> list[int]:
    """Send this and return the statuses of the responses."""
    return [response.status for response in exchange(server, *sent)]


def named(cases: dict[str, object]) -> pytest.MarkDecorator:
    """Run the test for each of these requests."""
    return pytest.mark.parametrize("sent", cases.values(), ids=cases)
