"""Test damaged requests and long series of wrong requests on one server."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.http_clients import Client
from tests.support.raw_http import (
    BODY,
    EXPECTED_LOG,
    JSON,
    chunk,
    chunks,
    post,
    request,
    statuses,
)
from tests.system.conftest import SERVERS

if TYPE_CHECKING:
    from tests.support.servers import Server


BODIES = 1_000_000 if "SOAK_ROUNDS" in os.environ else 6000  # small ones, in a row

# ---- anything at all ----

_WHOLE = [
    post(),
    chunks(chunk(BODY) + b"0\r\n\r\n"),
    request(b"PUT", b"/cart/alice", JSON, b'If-Match: "a", W/"b"', body=b'{"items": [' + BODY + b"]}"),
    request(b"GET", b"/cart/alice/items/sku-1", b"If-None-Match: *"),
    request(b"OPTIONS", b"/cart/alice", b"Origin: https://shop.example", b"Access-Control-Request-Method: PUT"),
]
_PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b" ",
    b"\t",
    b":",
    b"%",
    b"/",
    b"\xff",
    b"0\r\n\r\n",
    b"Content-Length: 3\r\n",
]
_PIECES += [b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"HTTP/1.0", b"9" * 5000, b"{", b'"']


@given(
    whole=st.sampled_from(_WHOLE),
    changes=st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from(_PIECES) | st.binary(max_size=4), st.integers(0, 6)), max_size=4
    ),
)
def test_any_damage(attacked_server: Server, whole: bytes, changes: list[tuple[int, bytes, int]]) -> None:
    """Requests with bytes inserted, removed and overwritten get responses below 500, or 501 for an unknown coding."""
    logged = len(attacked_server.log())
    for place, piece, length in changes:
        whole = whole[:place] + piece + whole[place + length :]
    assert all(status < 500 or status == 501 for status in statuses(attacked_server, whole))
    log = attacked_server.log()[logged:]
    assert [line for line in log.splitlines() if not EXPECTED_LOG.search(line)] == []


# ---- long series ----

# Each worker class and each parser is in one of the other two.
_EACH_ONCE = [pytest.param(name, marks=pytest.mark.soak if name == "gevent-C" else ()) for name in SERVERS]


def memory(attacked: Server) -> int:
    """Return the memory of its workers in KiB."""
    received = [Path(f"/proc/{pid}/status").read_text() for pid in attacked.workers()]
    return sum(int(re.findall(r"VmRSS:\s+(\d+) kB", each)[0]) for each in received)


def status_of_next(responses: BinaryIO) -> int:
    """Read one whole response and return its status."""
    status = int(responses.readline().split()[1])
    length = 0
    while (line := responses.readline()) != b"\r\n":
        if line.lower().startswith(b"content-length:"):
            length = int(line.split()[1])
    responses.read(length)
    return status


@pytest.mark.parametrize("attacked_server", _EACH_ONCE, indirect=True)
def test_many_small_bodies(attacked_server: Server) -> None:
    """Valid and invalid requests, all different, leave nothing behind: the memory does not grow."""
    bodies = [
        (b"/cart/bob", BODY.replace(b"2", b"1")),
        (b"/cart/bob", b"nope %d"),
        (b"/cart/bob", b'{"product_id": "sku-%d", "quantity": "3", "zap%d": 1}'),
        (b"/cart/bob/items", b'{"items": [{"product_id": "sku-%d", "quantity": 1, "options": {"%d": ""}, "zap": 1}]}'),
        (b"/cart/b%00%d", BODY),
        (b"/nothing/%d", BODY),
    ]
    held = []
    with Client(attacked_server.url) as client, client.connection.sock.makefile("rb") as responses:
        for part in range(4):
            client.connection.sock.sendall(request(b"PUT", b"/cart/bob", JSON, body=b'{"items": []}'))
            assert status_of_next(responses) in {200, 201}
            for number in range(BODIES // 4 // len(bodies)):
                unlike = b"%d" % (part * 1_000_000_000 + number)
                sent = [
                    request(b"POST", path.replace(b"%d", unlike), JSON, body=body.replace(b"%d", unlike))
                    for path, body in bodies
                ]
                client.connection.sock.sendall(b"".join(sent))
                received = [status_of_next(responses) for _ in bodies]
                assert received in ([200, 400, 422, 422, 422, 404], [409, 400, 422, 422, 422, 404])
            held.append(memory(attacked_server))
    # The server has its working memory by the second part. Python allocates 1 MiB at once; two of them would be growth.
    assert held[-1] - held[1] < 2048, held
