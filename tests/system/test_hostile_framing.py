"""Test requests whose headers or end are malformed: they are rejected, and nothing behind them is a request."""

from __future__ import annotations

import json
import socket
import struct
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from tests.support.http_clients import SECONDS, Client
from tests.support.parsers import parser_of
from tests.support.raw_http import (
    BODY,
    CHUNKED,
    JSON,
    SECRET,
    SMUGGLED,
    chunk,
    chunks,
    exchange,
    named,
    post,
    read_responses,
    request,
    statuses,
)

if TYPE_CHECKING:
    from tests.support.servers import Server


# ---- malformed headers ----

_GET = b"GET /cart/alice HTTP/1.1\r\nHost: x\r\n"


@named(
    {
        "bare-lf-in-a-value": _GET + b"X-A: a\nX-B: b\r\n\r\n",
        "bare-cr-in-a-value": _GET + b"X-A: a\rX-B: b\r\n\r\n",
        "nul-in-a-value": _GET + b"X-A: a\x00b\r\n\r\n",
        "nul-in-a-key": _GET + b"Idempotency-Key: a\x00b\r\n\r\n",
        "delete-in-a-value": _GET + b"X-A: a\x7f\r\n\r\n",
        "vertical-tab-in-a-value": _GET + b"X-A: \x0ba\r\n\r\n",
        "obs-fold": _GET + b"X-A: a\r\n b\r\n\r\n",
        "obs-fold-first": b"GET /cart/alice HTTP/1.1\r\n Host: x\r\n\r\n",
        "blank-before-the-colon": _GET + b"X-A : a\r\n\r\n",
        "no-name": _GET + b": a\r\n\r\n",
        "no-colon": _GET + b"Authorization\r\n\r\n",
        "no-colon-with-a-token": _GET + b"Authorization Bearer " + SECRET + b"\r\n\r\n",
        "blank-in-a-name": _GET + b"Authorization Bearer: " + SECRET + b"\r\n\r\n",
        "slash-in-a-name": _GET + b"X/A: a\r\n\r\n",
        "name-not-ascii": _GET + b"X-\xc4: a\r\n\r\n",
        "two-hosts": _GET + b"Host: y\r\n\r\n",
        "two-content-types": post(b"Content-Type: text/plain"),
        "a-hundred-and-one-fields": _GET + b"X-A: a\r\n" * 101 + b"\r\n",
        "a-long-field": _GET + b"X-A: " + b"a" * 9000 + b"\r\n\r\n",
        "a-long-name": _GET + b"X" * 9000 + b": a\r\n\r\n",
        "no-version": b"GET /cart/alice\r\nHost: x\r\n\r\n",
        "no-target": b"GET HTTP/1.1\r\nHost: x\r\n\r\n",
        "http-0.9": b"GET /cart/alice HTTP/0.9\r\n\r\n",
        "http-2": b"GET /cart/alice HTTP/2.0\r\nHost: x\r\n\r\n",
        "http-2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "http-lower-case": b"GET /cart/alice http/1.1\r\nHost: x\r\n\r\n",
        "version-of-many-digits": b"GET /cart/alice HTTP/1." + b"1" * 4000 + b"\r\nHost: x\r\n\r\n",
        "method-lower-case": b"get /cart/alice HTTP/1.1\r\nHost: x\r\n\r\n",
        "method-not-ascii": b"G\xc4T /cart/alice HTTP/1.1\r\nHost: x\r\n\r\n",
        "method-with-nul": b"GET\x00 /cart/alice HTTP/1.1\r\nHost: x\r\n\r\n",
        "method-of-many-letters": b"A" * 9000 + b" /cart/alice HTTP/1.1\r\nHost: x\r\n\r\n",
        "target-with-a-blank": b"GET /cart/ali ce HTTP/1.1\r\nHost: x\r\n\r\n",
        "target-with-a-tab": b"GET\t/cart/alice HTTP/1.1\r\nHost: x\r\n\r\n",
        "target-with-nul": b"GET /cart/ali\x00ce HTTP/1.1\r\nHost: x\r\n\r\n",
        "target-with-cr": b"GET /cart/ali\rce HTTP/1.1\r\nHost: x\r\n\r\n",
        "target-not-ascii": b"GET /cart/\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        "target-with-a-token": b"GET /cart/alice?token=" + SECRET + b" x HTTP/1.1\r\nHost: x\r\n\r\n",
        "target-of-9000-characters": b"GET /cart/" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        "query-of-9000-characters": b"GET /cart/alice?" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        "tls": bytes.fromhex("16030100f5010000f10303") + b"\x00\xff" * 100,
        "proxy-protocol": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + _GET + b"\r\n",
        "proxy-protocol-2": b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + b"\x01" * 12 + _GET + b"\r\n",
        "noise": bytes(range(256)) * 4 + b"\r\n\r\n",
        "unknown-expectation": post(b"Expect: " + SECRET),
    }
)
def test_malformed_headers(attacked: Server, sent: bytes) -> None:
    """One 4xx or no response, and the connection is closed: the bytes that follow are not a request."""
    received = statuses(attacked, sent + SMUGGLED)
    assert received == [] or (len(received) == 1 and 400 <= received[0] < 500), received


@pytest.mark.parametrize("cut", [1, 3, 20, 60, -1])
def test_truncated_headers(attacked: Server, cut: int) -> None:
    """A request that ends in its headers gets no response and leaves nothing behind."""
    assert exchange(attacked, post(body=b"")[:cut]) == []


# ---- bodies whose end two servers could see in different places ----


@named(
    {
        "length-and-chunked": post(CHUNKED, body=b"0\r\n\r\n"),
        "chunked-and-length": request(b"POST", b"/cart/alice", JSON, CHUNKED, b"Content-Length: 5") + b"0\r\n\r\n",
        "length-and-chunked-of-no-bytes": post(CHUNKED, body=b""),
        "two-lengths": post(b"Content-Length: 0"),
        "one-length-twice": post(b"Content-Length: %d" % len(BODY)),
        "a-list-of-lengths": request(b"POST", b"/cart/alice", JSON, b"Content-Length: 38, 38") + BODY,
        "length-with-plus": request(b"POST", b"/cart/alice", JSON, b"Content-Length: +38") + BODY,
        "length-below-zero": request(b"POST", b"/cart/alice", JSON, b"Content-Length: -1") + BODY,
        "length-in-hex": request(b"POST", b"/cart/alice", JSON, b"Content-Length: 0x26") + BODY,
        "length-with-fraction": request(b"POST", b"/cart/alice", JSON, b"Content-Length: 38.0") + BODY,
        "length-with-blank": request(b"POST", b"/cart/alice", JSON, b"Content-Length: 3 8") + BODY,
        "length-not-ascii": request(b"POST", b"/cart/alice", JSON, b"Content-Length: \xb2") + BODY,
        "length-of-5000-digits": request(b"POST", b"/cart/alice", JSON, b"Content-Length: " + b"9" * 5000) + BODY,
        "no-length-number": request(b"POST", b"/cart/alice", JSON, b"Content-Length: ") + BODY,
        "length-of-a-get": request(b"GET", b"/cart/alice", b"Content-Length: x"),
        "chunked-twice": request(b"POST", b"/cart/alice", JSON, CHUNKED, CHUNKED) + b"0\r\n\r\n",
        "chunked-in-a-list": request(b"POST", b"/cart/alice", JSON, CHUNKED + b", chunked") + b"0\r\n\r\n",
        "chunked-not-last": request(b"POST", b"/cart/alice", JSON, CHUNKED + b", gzip") + b"0\r\n\r\n",
        "chunked-then-identity": request(b"POST", b"/cart/alice", JSON, CHUNKED + b", identity") + b"0\r\n\r\n",
        "gzip-only": request(b"POST", b"/cart/alice", JSON, b"Transfer-Encoding: gzip") + b"0\r\n\r\n",
        "identity": request(b"POST", b"/cart/alice", JSON, b"Transfer-Encoding: identity") + BODY,
        "chunked-after-a-control": request(b"POST", b"/cart/alice", JSON, b"Transfer-Encoding: \x0bchunked")
        + b"0\r\n\r\n",
        "chunked-in-http-1.0": chunks(b"0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    }
)
def test_smuggling(attacked: Server, sent: bytes) -> None:
    """The end of the body is ambiguous: 400, and the connection is closed."""
    assert statuses(attacked, sent + SMUGGLED) == [400]


@pytest.mark.parametrize("coding", [b"xchunked", b'"chunked"', b"chunked;q=1", b"", SECRET])
def test_unknown_codings(attacked: Server, coding: bytes) -> None:
    """An unknown transfer coding is a 501 (RFC 9112, section 6.1), the only 5xx of its kind; a 400 in the C parser."""
    received = statuses(
        attacked, request(b"POST", b"/cart/alice", JSON, b"Transfer-Encoding: " + coding) + BODY + SMUGGLED
    )
    assert received == [{"Python": 501, "C": 400}[parser_of(attacked)]]


# ---- differences between the parsers ----


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET  /cart/nobody HTTP/1.1\r\nHost: x\r\n\r\n", {"Python": [400], "C": [200]}),
        (b"GET /cart/nobody   HTTP/1.1\r\nHost: x\r\n\r\n", {"Python": [400], "C": [200]}),
        (b"GET /cart/no body HTTP/1.1\r\nHost: x\r\n\r\n", {"Python": [400], "C": [400]}),
        (_GET + b"X-A: a\r\n" * 101 + b"\r\n", {"Python": [431], "C": [431]}),
        (_GET + b"X-A: a\r\n" * 300 + b"\r\n", {"Python": [431], "C": [400]}),
        (post(b"Content-Length: " + b"9" * 20, body=None), {"Python": [413], "C": [400]}),
        (_GET + b"Expect: x\r\n: x\r\n\r\n", {"Python": [417], "C": [400]}),
        (_GET + b"X-A: a\r\n b\r\n\r\n", {"Python": [400], "C": [400]}),
    ],
    ids=[
        "blanks-before-the-target",
        "blanks-behind-the-target",
        "blank-in-the-target",
        "101-fields",
        "more-than-256-fields",
        "length-of-20-digits",
        "two-faults",
        "obs-fold",
    ],
)
def test_parser_differences(attacked: Server, sent: bytes, expected: dict[str, list[int]]) -> None:
    """Each request is one request in both parsers, or is rejected (docs/decisions/0016-c-parser.md has the table)."""
    assert statuses(attacked, sent) == expected[parser_of(attacked)]


@named(
    {
        "line": b"GET /" + b"a" * 2**20,
        "field": _GET + b"X-A: " + b"a" * 2**20,
        "fields": _GET + (b"X-A: " + b"a" * 1000 + b"\r\n") * 1000,
    }
)
def test_heads_without_an_end(attacked: Server, sent: bytes) -> None:
    """A head that does not end is rejected before it has filled the memory."""
    logged = len(attacked.log())
    with socket.create_connection(("127.0.0.1", attacked.port), SECONDS) as connection:
        with suppress(OSError):  # the server closes the connection before all is sent
            connection.sendall(sent)
        received = [response.status for response in read_responses(connection)]
    assert received in ([], [414], [431])
    assert "Invalid request from ip=127.0.0.1: limit request " in attacked.log()[logged:]


@named(
    {
        "no-hex": b"zz\r\n" + BODY,
        "below-zero": b"-1\r\n" + BODY,
        "plus": b"+26\r\n" + BODY + b"\r\n0\r\n\r\n",
        "0x": b"0x26\r\n" + BODY + b"\r\n0\r\n\r\n",
        "underscore": b"2_6\r\n" + BODY + b"\r\n0\r\n\r\n",
        "blank-before": b" 26\r\n" + BODY + b"\r\n0\r\n\r\n",
        "blank-behind": b"26 \r\n" + BODY + b"\r\n0\r\n\r\n",
        "no-size": b"\r\n" + BODY + b"\r\n0\r\n\r\n",
        "not-ascii": "²6\r\n".encode() + BODY + b"\r\n0\r\n\r\n",
        "5000-digits": b"f" * 5000 + b"\r\n" + BODY,
        "9000-digits": b"f" * 9000 + b"\r\n" + BODY,
        "no-end-of-line": b"f" * 100_000,
        "bare-lf": b"26\n" + BODY + b"\n0\n\n",
        "extension-with-cr": b"26;a\rb\r\n" + BODY + b"\r\n0\r\n\r\n",
        "extension-of-nothing": b"26;\r\n" + BODY + b"\r\n0\r\n\r\n",
        "extension-with-a-secret": b"26;" + SECRET + b"=\x00\r\n" + BODY + b"\r\n0\r\n\r\n",
        "longer-than-its-size": b"5\r\n" + BODY + b"\r\n0\r\n\r\n",
        "no-end-of-chunk": b"26\r\n" + BODY + b"0\r\n\r\n",
        "cut-off-in-a-size": b"26",
        "cut-off-in-a-chunk": b"26\r\n" + BODY[:10],
        "cut-off-behind-a-chunk": chunk(BODY),
        "cut-off-in-the-last": chunk(BODY) + b"0\r\n",
        "cut-off-in-a-trailer": chunk(BODY) + b"0\r\nX-A: a",
        "trailer-with-length": chunk(BODY) + b"0\r\nContent-Length: 5\r\n\r\n",
        "trailer-with-authorization": chunk(BODY) + b"0\r\nAuthorization: " + SECRET + b"\r\n\r\n",
        "trailer-without-colon": chunk(BODY) + b"0\r\nAuthorization " + SECRET + b"\r\n\r\n",
        "trailer-with-nul": chunk(BODY) + b"0\r\nX-A: \x00\r\n\r\n",
        "trailer-with-bare-lf": chunk(BODY) + b"0\r\nX-A: a\nX-B: b\r\n\r\n",
        "many-trailers": chunk(BODY) + b"0\r\n" + b"X-A: a\r\n" * 200 + b"\r\n",
        "a-long-trailer": chunk(BODY) + b"0\r\nX-A: " + b"a" * 9000 + b"\r\n\r\n",
    }
)
def test_broken_chunks(attacked: Server, sent: bytes) -> None:
    """400 for each; nothing is changed, and the connection is closed."""
    with Client(attacked.url) as client:
        before = client.call("GET", "/cart/alice").body
    received = statuses(attacked, chunks(sent) + (SMUGGLED if sent.endswith(b"\n") else b""))
    assert received == [400]
    with Client(attacked.url) as client:
        assert client.call("GET", "/cart/alice").body == before


@named(
    {
        "one": chunk(BODY) + b"0\r\n\r\n",
        "bytes": b"".join(chunk(bytes([byte])) for byte in BODY) + b"0\r\n\r\n",
        "zeros-before": b"0" * 5000 + b"26\r\n" + BODY + b"\r\n" + b"0" * 9000 + b"\r\n\r\n",
        "extensions": b'26;a=b;c="d e" ; f\r\n' + BODY + b"\r\n0;g\r\n\r\n",
        "trailers": chunk(BODY) + b"0\r\nX-A: a\r\nIdempotency-Key: \xff\r\n\r\n",
    }
)
def test_odd_but_valid_chunks(attacked: Server, sent: bytes) -> None:
    """They are an ordinary body, and the next request follows; trailers are ignored."""
    received = exchange(attacked, request(b"DELETE", b"/cart/alice") + chunks(sent) + request(b"GET", b"/cart/alice"))
    assert [response.status for response in received][1:] == [200, 200]
    assert [json.loads(response.body)["total_quantity"] for response in received[1:]] == [2, 2]


@named(
    {
        "length": post(body=BODY).removesuffix(BODY[5:]),
        "length-nothing": post(body=BODY).removesuffix(BODY),
        "chunked": chunks(b"26\r\n" + BODY[:5]),
        "chunked-nothing": chunks(b""),
        "head": post(body=BODY)[:40],
    }
)
def test_connection_resets(attacked: Server, sent: bytes) -> None:
    """A connection reset within a request changes nothing and is not logged."""
    with Client(attacked.url) as client:
        before = client.call("GET", "/cart/alice").body
        with closing(socket.create_connection(("127.0.0.1", attacked.port), SECONDS)) as connection:
            connection.sendall(sent)
            client.call("GET", "/healthz")  # so the server has had a turn to read it
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for _ in range(3):
            assert client.call("GET", "/cart/alice").body == before
