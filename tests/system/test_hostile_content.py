"""Test strange targets, methods, bodies and media types over raw sockets."""

from __future__ import annotations

import gzip
import json
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.http_clients import SECONDS
from tests.support.raw_http import (
    BODY,
    CHUNKED,
    JSON,
    SECRET,
    chunk,
    exchange,
    post,
    read_responses,
    request,
    statuses,
)

if TYPE_CHECKING:
    from tests.support.servers import Server


# ---- targets ----

_EVIL = [
    (b"/cart/a%2Fb", 404),
    (b"/cart/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404),
    (b"/cart/nobody%2Fitems%2Fsku-1", 404),
    (b"/cart/.", 422),
    (b"/cart/..", 422),
    (b"/cart/%2E", 422),
    (b"/cart/%2e%2E", 422),
    (b"/cart/.%2e", 422),
    (b"/cart/%252e%252e", 422),
    (b"/cart/%25252e", 422),
    (b"/cart/a%00", 422),
    (b"/cart/%00", 422),
    (b"/cart/a%0Ab", 422),
    (b"/cart/a%0d%0aX-A:%20b", 422),
    (b"/cart/a%0D%0ASet-Cookie:%20b=c%0D%0A%0D%0Ahello", 422),
    (b"/cart/%7F", 422),
    (b"/cart/%C3%A9", 422),
    (b"/cart/%FF", 422),
    (b"/cart/%C0%AE%C0%AE", 422),
    (b"/cart/%C0%AF", 422),
    (b"/cart/%ED%A0%80", 422),
    (b"/cart/%F8%88%80%80%80", 422),
    (b"/cart/%E2%80%AE", 422),
    (b"/cart/%", 422),
    (b"/cart/%2", 422),
    (b"/cart/%zz", 422),
    (b"/cart/%u0061", 422),
    (b"/cart/a%20b", 422),
    (b"/cart/a;x=1", 422),
    (b"/cart/a;jsessionid=1", 422),
    (b"/cart/<script>", 422),
    (b"/cart/{user_id}", 422),
    (b"/cart/$%7Bjndi:ldap:x%7D", 422),
    (b"/cart/'%20OR%201=1--", 422),
    (b"/cart/" + b"a" * 4000, 422),
    (b"/cart/" + b"%41" * 1000, 422),
    (b"/cart/../healthz", 404),
    (b"/cart/alice/..", 404),
    (b"/cart/./alice", 404),
    (b"/cart//alice", 404),
    (b"/cart/alice/", 404),
    (b"//x/cart/alice", 404),
    (b"/cart;x=1/alice", 404),
    (b"/./cart/alice", 404),
    (b"/CART/alice", 404),
    (b"/cart/alice/items/..", 404),
    (b"/cart/alice/items/..%2f..%2fetc%2fpasswd", 404),
    (b"/cart/alice/items/%00", 404),
    (b"/cart/alice/items/%ff", 404),
    (b"/cart/alice/items/" + b"a" * 3900, 404),
    (b"/swagger-ui/../../../../etc/passwd", 404),
    (b"/swagger-ui/..%2f..%2f..%2fetc%2fpasswd", 404),
    (b"/swagger-ui/%2e%2e/start.js", 404),
    (b"/swagger-ui/start.js%00.css", 404),
    (b"/swagger-ui/..\\..\\wsgi.py", 404),
    (b"/static/wsgi", 404),
    (b"/.git/config", 404),
    (b"/.env", 404),
    (b"/console?__debugger__=yes&cmd=1", 404),
    (b"/metrics%00", 404),
    (b"http://x/cart/..", 422),
    (b"http://other.example:99999/cart/..", 422),
    (b"http://[::1/cart/alice", 404),
    (b"https://user:pass@x/cart/%00", 422),
    (b"cart/..", 404),
    (b"x:443", 404),
    (b"*", 404),
    (b"?a=b", 404),
    (b"#alice", 404),
]


@pytest.mark.parametrize(("target", "status"), _EVIL, ids=[target[:50].decode() for target, _ in _EVIL])
def test_targets(attacked: Server, target: bytes, status: int) -> None:
    """Invalid ids and disguised paths: 422 or 404, or 400 for an invalid target."""
    for method in (b"GET", b"DELETE"):
        (received,) = statuses(attacked, request(method, target))
        assert received in {status, 400}, method
    (received,) = statuses(attacked, request(b"PUT", target, body=b"nope"))
    assert received in {status, 400, 405}


@pytest.mark.parametrize(
    "target",
    [
        b"/cart/nobody?x=1",
        b"/cart/nobody?%00%ff&&==&x[]=1",
        b"/cart/nobody?token=" + SECRET,
        b"/cart/nobody?" + b"a=b&" * 900,
        b"/cart/%6e%6F%62%6f%64%79",
        b"http://x/cart/nobody",
        b"HTTPS://other.example/cart/nobody",
        b"//cart/nobody",
        b"/%2Fcart/nobody",
    ],
)
def test_odd_but_valid_targets(attacked: Server, target: bytes) -> None:
    """They name the same cart: leading slashes are one, hosts and queries are ignored."""
    (received,) = exchange(attacked, request(b"GET", target))
    assert (received.status, json.loads(received.body)["user_id"]) == (200, "nobody")


@pytest.mark.parametrize(
    ("method", "status"),
    [
        (b"TRACE", 405),
        (b"CONNECT", 405),
        (b"TRACK", 405),
        (b"PROPFIND", 405),
        (b"QUERY", 405),
        (b"PURGE", 405),
        (b"A" * 20, 405),
        (b"X-!$%&'*+^_`|~", 405),
        (b"GET1", 405),
    ],
)
def test_methods(attacked: Server, method: bytes, status: int) -> None:
    """405 with Allow for unsupported methods, or 400 for invalid ones; a TRACE returns no token."""
    (received,) = exchange(attacked, request(method, b"/cart/alice"))
    assert received.status in {status, 400}
    if received.status == status:
        assert b"GET" in (received.header(b"Allow") or b"")


# ---- bodies ----


@pytest.mark.parametrize(
    ("fields", "body", "status"),
    [
        ((), b'{"product_id": "sku-1", "quantity": ' + b"9" * 5000 + b"}", 400),
        ((), b'{"product_id": "sku-1", "quantity": 1e' + b"9" * 5000 + b"}", 400),
        ((), b'{"product_id": "sku-1", "quantity": 0.' + b"0" * 100_000 + b"1}", 422),
        ((), b"[" * 100_000, 400),
        ((), b'{"a":' * 20_000 + b"1" + b"}" * 20_000, 400),
        ((), b'{"product_id": "sku-1", "quantity": NaN}', 400),
        ((), b'{"product_id": "sku-1", "quantity": -Infinity}', 400),
        ((), b'{"product_id": "sku-1", "quantity": 1, "quantity": 2}', 400),
        ((), b'{"product_id": "\\ud800", "quantity": 1}', 400),
        ((), b'{"product_id": "\xff", "quantity": 1}', 400),
        ((), b'{"product_id": "\xc0\xaf", "quantity": 1}', 400),
        ((), b'{"product_id": "a\x00", "quantity": 1}', 400),
        ((), b'{"product_id": "a\\u0000", "quantity": 1}', 422),
        ((), b'{"product_id": "a\\r\\nX-A: b", "quantity": 1}', 422),
        ((), b'{"__proto__": {"a": 1}, "product_id": "a", "quantity": 1}', 422),
        ((), b'{"product_id": "a", "quantity": 1, "' + b"\\u0000" * 10_000 + b'": 1}', 422),
        ((), b"\xef\xbb\xbf" + BODY, 400),
        ((), BODY.decode().encode("utf-16"), 400),
        ((), BODY.decode().encode("utf-32-le"), 400),
        ((), gzip.compress(BODY, mtime=0), 400),
        ((), gzip.compress(bytes(100_000_000), 1, mtime=0)[:100_000], 400),
        ((), bytes(131_072), 400),
        ((), bytes(131_073), 413),
        ((), b"", 400),
        ((), b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--x--", 400),
        ((), b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>", 400),
        ((b"Content-Encoding: gzip",), gzip.compress(BODY, mtime=0), 415),
        ((b"Content-Encoding: br",), BODY, 415),
        ((b"Content-Encoding: identity",), BODY, 415),
        ((b"Content-Encoding: \xff",), BODY, 415),
        ((b"Content-Encoding: gzip",) * 50, BODY, 415),
    ],
    ids=lambda value: repr(value)[:40],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_bodies(attacked: Server, fields: tuple[bytes, ...], body: bytes, status: int, *, chunked: bool) -> None:
    """Rejected as with the test client; the whole body is read, so the next request gets a response too."""
    sent = post(*fields, body=body)
    if chunked:
        sent = request(b"POST", b"/cart/alice", JSON, CHUNKED, *fields) + (chunk(body) if body else b"") + b"0\r\n\r\n"
    received = statuses(attacked, sent + request(b"GET", b"/cart/alice"))
    assert received[0] == status
    assert received[1:] in ([], [200])


_JSON_ALL_THE_SAME = (
    b"application/json" + b";a=b" * 1500,
    b"application/json; charset=\xff",
    b'application/json; charset="utf-8\\',
    b"application/json; charset=UTF8",
)


@pytest.mark.parametrize(
    "content_type",
    [
        *_JSON_ALL_THE_SAME,
        b"text/plain",
        b"application/json; charset=utf-16",
        b"application/json; charset=" + b"a" * 5000,
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=" + b"a" * 5000,
        b"multipart/form-data",
        b"application/json, text/plain",
        b"\xff/\xff",
        b"/",
        b";",
        b"",
    ],
    ids=lambda value: repr(value)[:40],
)
def test_content_types(attacked: Server, content_type: bytes) -> None:
    """415; malformed and unknown parameters are ignored."""
    sent = request(b"POST", b"/cart/alice", b"Content-Type: " + content_type, body=BODY)
    (received,) = statuses(attacked, sent)
    assert received == (200 if content_type in _JSON_ALL_THE_SAME else 415)


def test_expect_100_continue(attacked: Server) -> None:
    """100 Continue is sent before the body arrives, and the connection stays open."""
    sent = post(b"Expect: 100-continue")
    with socket.create_connection(("127.0.0.1", attacked.port), SECONDS) as connection:
        connection.sendall(sent.removesuffix(BODY))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY + request(b"GET", b"/cart/alice"))
        connection.shutdown(socket.SHUT_WR)
        received = read_responses(connection)
        assert [(response.status, response.header(b"Connection")) for response in received] == [
            (200, b"keep-alive")
        ] * 2


@pytest.mark.parametrize(
    ("target", "fields", "status"),
    [
        (b"/cart/alice", (JSON, b"Content-Length: 10000000"), 413),
        (b"/cart/alice", (b"Content-Type: text/plain", b"Content-Length: 1000"), 415),
        (b"/cart/..", (JSON, b"Content-Length: 1000"), 422),
        (b"/nothing", (JSON, CHUNKED), 404),
    ],
)
def test_rejected_expect_100_continue(attacked: Server, target: bytes, fields: tuple[bytes, ...], status: int) -> None:
    """The rejection is sent at once, without a 100 before it, and the connection is closed."""
    with socket.create_connection(("127.0.0.1", attacked.port), SECONDS) as connection:
        connection.sendall(request(b"POST", target, b"Expect: 100-continue", *fields))
        (received,) = read_responses(connection)
        assert (received.status, received.header(b"Connection"), received.header(b"Keep-Alive")) == (
            status,
            b"close",
            None,
        )


def test_expect_100_continue_without_waiting(attacked: Server) -> None:
    """A client may send its body at once."""
    assert statuses(attacked, post(b"Expect: 100-continue")) in ([200], [100, 200])
