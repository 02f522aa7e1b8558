"""Compare gunicorn's C parser with its Python parser: no request must be another one, or two, in either of them."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.parser import RequestParser
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.parsers import with_parser

if TYPE_CHECKING:
    from collections.abc import Iterator

_HOST = b"Host: x\r\n"
_BEHIND = b"PUT /cart/smuggled HTTP/1.1\r\n" + _HOST + b"\r\n"
_WHOLE = [
    b"GET /cart/alice HTTP/1.1\r\n" + _HOST + b"Authorization: Bearer a\r\nX-A: \t b \r\n\r\n",
    b"GET http://x/cart/a?b=c HTTP/1.1\r\n" + _HOST + b"X_A: b\r\nConnection: close, x\r\n\r\n",
    b"OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"\r\nPOST /cart/a HTTP/1.1\r\n" + _HOST + b"Content-Length: 5\r\n\r\nhello",
    b"POST /cart/a HTTP/1.1\r\n" + _HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /cart/a HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /cart/a HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
]
_PIECES = [b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b",", b";", b"/", b"_", b"+", b"\xff", b"\x85", b"\x0b"]
_PIECES += [b"\r\n ", b"\r\n\r\n", b"0\r\n\r\n", b"HTTP/1.0", b"chunked", b"X: " + b"a" * 8190 + b"\r\n", b"9" * 4100]
_PIECES += [b"Content-Length: 3\r\n", b"content-length:5 \r\n", b"Transfer-Encoding: chunked\r\n", b"Host: y\r\n"]
_PIECES += [b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding:\r\n", b"Expect: x\r\n", b"X-A: a\r\n" * 99]


class Seen(NamedTuple):
    """A request as a parser sees it; ``body`` is None if the parser rejected it."""

    method: str
    uri: str
    version: tuple[int, int]
    headers: list[tuple[str, str]]
    expects_continue: bool
    ends_connection: bool
    body: bytes | None


def _config(parser: str) -> Config:
    config = Config()
    given = {"http_parser": with_parser(parser)[1], "limit_request_line": 4094, "limit_request_fields": 100}
    for name, value in {**given, "limit_request_field_size": 8190, "forwarded_allow_ips": ""}.items():
        config.set(name, value)
    return config


_CONFIGS = {parser: _config(parser) for parser in ("C", "Python")}


def _seen(parser: str, parts: list[bytes]) -> Iterator[Seen]:
    """Yield the requests of a connection until one is rejected or incomplete. Other errors are raised."""
    requests = RequestParser(_CONFIGS[parser], iter(parts), ("127.0.0.1", 1))
    while True:
        try:
            request = next(requests)
        except (ParseException, NoMoreData, StopIteration):
            return
        try:
            body = request.body.read()
        except (ParseException, NoMoreData, OSError):
            body = None
        head = (request.method, request.uri, request.version, request.headers)
        yield Seen(*head, request._expected_100_continue, request.should_close(), body)  # noqa: SLF001 - what hooks read


@pytest.mark.parametrize("whole", _WHOLE)
def test_both_parsers_see_the_same(whole: bytes) -> None:
    """Intact requests are accepted, with all that the service reads of them."""
    seen = list(_seen("C", [whole, _BEHIND]))
    assert seen == list(_seen("Python", [whole, _BEHIND]))
    assert seen


@settings(max_examples=20 * settings.default.max_examples)
@given(
    whole=st.sampled_from(_WHOLE),
    changes=st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(_PIECES) | st.binary(max_size=2), st.booleans()), max_size=4
    ),
    cuts=st.lists(st.integers(0, 200), max_size=4),
)
def test_the_c_parser_accepts_no_more(whole: bytes, changes: list[tuple[int, bytes, bool]], cuts: list[int]) -> None:
    """What the C parser accepts of damaged requests, the Python parser accepts as the same requests.

    The exception are several blanks in a request line, which delimit nothing else. The C parser may reject more.
    """
    words = re.split(rb"(\r\n|[ :,/])", whole)
    for place, piece, replace in changes:  # where a parser decides: at a delimiter
        words[place : place + replace] = [piece]
    sent = b"".join(words) + _BEHIND
    edges = [0, *sorted(cuts), len(sent)]
    parts = [part for start, end in pairwise(edges) if (part := sent[start:end])]
    seen = list(_seen("C", parts))
    assert seen == list(_seen("Python", parts))[: len(seen)] or b"  " in sent
