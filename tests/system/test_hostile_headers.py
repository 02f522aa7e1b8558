"""Test strange, repeated and forged headers over raw sockets."""

from __future__ import annotations

import json
import re
from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.support.http_clients import Client
from tests.support.parsers import PARSERS, with_parser
from tests.support.raw_http import (
    SECRET,
    exchange,
    post,
    request,
    statuses,
)
from tests.support.servers import serve

if TYPE_CHECKING:
    from tests.support.servers import Server


# ---- headers that are read ----

_VALUES = {
    "empty": b"",
    "long": b"a" * 8000,
    "long-tag": b'"' + b"a" * 8000 + b'"',
    "not-ascii": b"\xff\xfe",
    "tag-not-ascii": b'"\xe9"',
    "utf-8": "größe".encode(),
    "quote": b'"',
    "quotes": b'"' * 8001,
    "commas": b"," * 8000,
    "tags": b'"a",' * 1999,
    "blanks-and-commas": b" ,\t" * 2600 + b"x",
    "stars": b"*, *",
    "weak": b"W/" * 4000,
    "blanks": b"a b\tc",
    "markup": b"<script>alert(1)</script>",
    "percent": b"%00%0d%0a%s%n{0}${x}",
    "json": b'{"a": [1]}',
    "number": b"9" * 5000,
}


@pytest.mark.parametrize("name", [b"Idempotency-Key", b"If-Match", b"If-None-Match"])
@pytest.mark.parametrize("value", _VALUES.values(), ids=_VALUES)
def test_odd_conditions(attacked: Server, name: bytes, value: bytes) -> None:
    """400 if malformed, 412 if not met; never a 5xx."""
    with Client(attacked.url) as client:
        client.call("DELETE", "/cart/alice")
    (received,) = statuses(attacked, post(name + b": " + value))
    assert received in {200, 400, 412}


_UNREAD = "Origin Authorization Cookie Accept Accept-Encoding User-Agent Referer X-Request-ID traceparent Forwarded Via"
_UNREAD += " Upgrade Connection Date Range If-Range Cache-Control Accept-Language Priority"


@pytest.mark.parametrize("value", _VALUES.values(), ids=_VALUES)
def test_odd_headers(attacked: Server, value: bytes) -> None:
    """A header that is not read may have any value: it is not returned and changes nothing."""
    for name, path in product(_UNREAD.split(), (b"/cart/nobody", b"/swagger-ui/start.js")):
        (received,) = exchange(attacked, request(b"GET", path, name.encode() + b": " + value))
        assert received.status in {200, 416}, name
        if len(value) > 2:
            assert value not in received.head, name


@pytest.mark.parametrize(
    "name",
    [b"Idempotency-Key", b"If-Match", b"If-None-Match", b"Origin", b"Authorization", b"X-Forwarded-For", b"Range"],
)
def test_repeated_headers(attacked: Server, name: bytes) -> None:
    """90 lines are one list or are ignored: never a 5xx."""
    for value in (b"a", b'"a"', b"*", b"", b"\xff", SECRET):
        (received,) = statuses(attacked, post(*[name + b": " + value] * 90))
        assert received in {200, 400, 412}


@pytest.mark.parametrize(
    "origin",
    [
        b"null",
        b"https://shop.example.evil",
        b"https://evil/https://shop.example",
        b"*",
        b"\xff",
        b"https://shop.example\t,x",
    ],
)
def test_odd_origins(attacked: Server, origin: bytes) -> None:
    """Only the configured origin gets Access-Control-Allow-Origin, also in a preflight."""
    for sent in (
        request(b"GET", b"/cart/nobody", b"Origin: " + origin),
        request(b"OPTIONS", b"/cart/nobody", b"Origin: " + origin, b"Access-Control-Request-Method: PUT"),
    ):
        (received,) = exchange(attacked, sent)
        assert (received.status, received.header(b"Access-Control-Allow-Origin")) == (200, None)


_CLAIMS = [
    b"X-HTTP-Method-Override: DELETE",
    b"X-HTTP-Method: DELETE",
    b"X-Method-Override: DELETE",
    b"X-Original-URL: /cart/bob",
    b"X-Rewrite-URL: /cart/bob",
    b"X-Forwarded-For: 10.0.0.1, \xff, <x>",
    b"X-Forwarded-Host: evil.example",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-Proto: gopher",
    b"X-Forwarded-Ssl: on",
    b"X-Forwarded-Port: 99999",
    b"X-Forwarded-Prefix: /evil",
    b"X-Forwarded-Prefix: //evil.example",
    b"X-Real-IP: 127.0.0.1",
    b"Forwarded: for=127.0.0.1;host=evil.example;proto=https",
    b"X-Script-Name: /evil",
    b"SCRIPT_NAME: /cart",
    b"SCRIPT_NAME: /evil",
    b"Script-Name: /evil",
    b"PATH_INFO: /cart/bob",
    b"Path-Info: /cart/bob",
    b"REMOTE_USER: bob",
    b"Remote-User: bob",
    b"CONTENT_LENGTH: 1",
    b"CONTENT_TYPE: text/plain",
    b"TRANSFER_ENCODING: chunked",
    b"Proxy: http://evil.example",
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings",
]


@pytest.mark.parametrize("claim", _CLAIMS, ids=[claim[:40].decode("latin-1") for claim in _CLAIMS])
def test_forged_headers(attacked: Server, claim: bytes) -> None:
    """Only the request line decides cart, method, host and scheme."""
    with Client(attacked.url) as client:
        client.call("PUT", "/cart/claims", {"items": []})
        before = client.call("GET", "/cart/claims").body
    (received,) = exchange(attacked, request(b"GET", b"/cart/claims", claim))
    assert (received.status, json.loads(received.body)) == (200, before)
    (guest,) = exchange(attacked, request(b"POST", b"/cart", claim))
    assert guest.status == 201
    assert re.fullmatch(rb"cart/guest-[\w-]{22}", guest.header(b"Location") or b"")
    (root,) = exchange(attacked, request(b"GET", b"/", claim))
    assert (root.status, root.header(b"Location")) == (302, b"swagger-ui")
    assert b"evil" not in guest.head + root.head + root.body


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"a b",
        b"<script>",
        b"x:99999",
        b"x:y",
        b"evil.example@x",
        b"[::1",
        b"..",
        b"\xff",
        b"x, y",
        b"a" * 8000,
        None,
    ],
)
def test_odd_hosts(attacked: Server, host: bytes | None) -> None:
    """No response depends on the host or contains it; 200, or 400 for an invalid host."""
    for path in (b"/cart/nobody", b"/", b"/openapi.json"):
        field = b"" if host is None else b"Host: " + host + b"\r\n"
        (received,) = exchange(attacked, request(b"GET", path).replace(b"Host: x\r\n", field))
        assert received.status in {200, 302, 400}
        if host and len(host) > 2:
            assert host not in received.head + received.body


@pytest.mark.parametrize(
    "value", [b"bytes=0-0", b"bytes=-1", b"bytes=9999999999-", b"bytes=5-1", b"bytes=" + b"0-1," * 1900]
)
def test_ranges(attacked: Server, value: bytes) -> None:
    """A cart is returned whole; no part of a file is sent a thousand times."""
    (cart,) = exchange(attacked, request(b"GET", b"/cart/nobody", b"Range: " + value))
    assert (cart.status, json.loads(cart.body)["user_id"]) == (200, "nobody")
    (whole,) = exchange(attacked, request(b"GET", b"/swagger-ui/start.js"))
    (part,) = exchange(attacked, request(b"GET", b"/swagger-ui/start.js", b"Range: " + value))
    assert part.status in {200, 206, 416}
    assert part.status == 416 or len(part.body) <= len(whole.body)


@pytest.mark.parametrize("parser", PARSERS)
def test_malformed_header_in_the_access_log(parser: str) -> None:
    """The log contains the rejection without the header. Only the Python parser has a request for the access log."""
    with serve("--access-logfile", "-", *with_parser(parser), WEB_CONCURRENCY="1") as server:
        sent = request(b"GET", b"/cart/alice", b"Content-Length: " + SECRET)
        assert statuses(server, sent) == [400]
        server.wait_for_log("Invalid request from ip=127.0.0.1: invalid header\n")
        assert ('"GET /cart/alice HTTP/1.1" 400 ' in server.log()) == (parser == "Python")
        assert SECRET.decode() not in server.log()
