"""Tests of how bodies are read from a server's stream: any bytes, any announced length, any end."""

from __future__ import annotations

import io
import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, Request
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import Schema
from werkzeug.exceptions import BadRequest, HTTPException, RequestEntityTooLarge, UnsupportedMediaType

from cartsvc.api.body import BodyParser, parse_json
from cartsvc.api.request_schemas import (
    CART_INPUT_SCHEMA,
    CART_UPDATE_SCHEMA,
    ITEM_INPUT_SCHEMA,
    ITEM_UPDATE_SCHEMA,
    ITEMS_INPUT_SCHEMA,
    ITEMS_UPDATE_SCHEMA,
    MERGE_INPUT_SCHEMA,
)
from cartsvc.carts.cart import Limits
from cartsvc.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cartsvc.errors import Fault

LIMIT = 200
SCHEMAS = [
    *(ITEM_UPDATE_SCHEMA, MERGE_INPUT_SCHEMA, CART_INPUT_SCHEMA, ITEM_INPUT_SCHEMA, ITEMS_INPUT_SCHEMA),
    *(CART_UPDATE_SCHEMA, ITEMS_UPDATE_SCHEMA),
]


class Anything(Schema):
    """Takes what was read as it is."""

    def load(self, data: Any, **_: Any) -> Any:
        """Return it."""
        return data


ANYTHING = Anything()
_large = Flask("large")
_large.config["MAX_CONTENT_LENGTH"] = 10**6
_large.extensions["cartsvc.limits"] = Limits()
parser = BodyParser()


class Stream(io.BytesIO):
    """A server's stream: it may return less than requested, and it counts how much was requested."""

    def __init__(self, data: bytes, *, breaks: Exception | None = None) -> None:
        super().__init__(data)
        self.asked = 0
        self._breaks = breaks

    def read(self, size: int | None = -1) -> bytes:
        """Give it, or break."""
        assert size is not None
        assert size >= 0, "reads without a bound"
        self.asked += size
        if self._breaks:
            raise self._breaks
        return super().read(size)


@pytest.fixture(scope="module", autouse=True)
def _app() -> Iterator[None]:
    """The app whose configuration limits the body."""
    app = Flask("body")
    app.config["MAX_CONTENT_LENGTH"] = LIMIT
    with app.app_context():
        yield


def parse(schema: Schema, stream: Stream, *, length: str | None = None, **environ: Any) -> Any:
    """Read a request that announces this length."""
    announced = {} if length is None else {"CONTENT_LENGTH": length}
    whole = {"CONTENT_TYPE": "application/json", "REQUEST_METHOD": "POST", "wsgi.input": stream} | announced | environ
    return parser.parse(schema, Request(whole))


# ---- any bytes ----

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=10,
)
_names = st.sampled_from(
    [
        *("items", "item_id", "product_id", "quantity", "options", "unit_price", "currency", "metadata"),
        *("from_user_id", "strategy", "on_limit", "version"),
    ]
)
_long = st.integers(150, 400).map("~/".__mul__)  # in a pointer it takes twice that
_bodies = st.dictionaries(
    _names | _texts | _long, _json | st.lists(st.dictionaries(_names, _json, max_size=4), max_size=3)
)


@given(schema=st.sampled_from(SCHEMAS), value=_bodies | _json)
def test_any_json_is_read_or_refused(schema: Schema, value: Any) -> None:
    """No JSON brings another exception than InvalidRequest, whose faults are few, short and fit to be sent."""
    with _large.app_context():
        faults = faults_of(schema, json.dumps(value).encode())
    assert faults is None or len(faults) > 0
    for fault in faults or ():
        assert fault.pointer == "" or fault.pointer.startswith("/")
        assert len(fault.pointer) <= 200
        assert fault.pointer.encode() + fault.detail.encode()  # no lone surrogates: they have no bytes


def faults_of(schema: Schema, data: bytes) -> tuple[Fault, ...] | None:
    """Return the reason why this body is rejected; None when it is accepted."""
    try:
        parse(schema, Stream(data), length=str(len(data)))
    except InvalidRequest as error:
        return error.faults
    return None


@given(data=st.binary(max_size=60))
def test_any_bytes_are_json_or_refused(data: bytes) -> None:
    """Whatever is taken is what the standard library makes of it; the rest is a 4xx."""
    try:
        value = parse(ANYTHING, Stream(data), length=str(len(data)))
    except BadRequest:
        return
    assert value == json.loads(data)


@given(depth=st.integers(1, 120_000), kind=st.sampled_from(["[", '{"a":']), closed=st.booleans())
def test_any_depth_is_read_or_refused(depth: int, kind: str, *, closed: bool) -> None:
    """However deep, it is JSON or a 400; nothing falls over on the way in or, when it is let go, on the way out."""
    end = {"[": "]", '{"a":': "}"}[kind] * depth if closed else ""
    try:
        parse_json(f"{kind * depth}1{end}".encode())
    except BadRequest:
        return
    assert closed


@given(
    sign=st.sampled_from(["", "-"]),
    digits=st.integers(1, 6000),
    fraction=st.integers(0, 6000),
    power=st.integers(0, 6000),
)
def test_any_number_is_read_or_refused(sign: str, digits: int, fraction: int, power: int) -> None:
    """Numbers of any length, with fractions and exponents of any length, are numbers or a 400."""
    text = sign + "7" * digits + (f".{'1' * fraction}" if fraction else "") + (f"e{'3' * power}" if power else "")
    try:
        value = parse_json(text.encode())
    except BadRequest:
        return
    assert isinstance(value, (int, float))
    assert value not in {float("inf"), float("-inf")}


# ---- any length ----


@given(
    data=st.integers(0, 2 * LIMIT).map(lambda size: b"[]".ljust(size)[:size]),
    length=st.none() | st.integers(0, 3 * LIMIT),
    terminated=st.booleans(),
)
def test_no_more_is_read_than_was_said_and_is_allowed(data: bytes, length: int | None, *, terminated: bool) -> None:
    """The announced length is read, or one byte more than the limit without a length; too much is a 413."""
    stream = Stream(data)
    expected: type[HTTPException] | None = None
    whole = data if length is None else data[:length]
    if length is None and not terminated:
        whole = b""
    if (length or 0) > LIMIT or (length is None and terminated and len(data) > LIMIT):
        expected = RequestEntityTooLarge
    elif (length is not None and length > len(data)) or len(whole) < 2:
        expected = BadRequest
    announced = None if length is None else str(length)
    with pytest.raises(expected) if expected else nullcontext():
        assert parse(ANYTHING, stream, length=announced, **{"wsgi.input_terminated": terminated}) == []
    assert stream.asked <= LIMIT + 1


class ServersOwnError(Exception):
    """As a WSGI server raises from its stream: gunicorn's InvalidChunkSize and its like have no base but Exception."""


@pytest.mark.parametrize("error", [ServersOwnError("zz"), ConnectionResetError(), OSError(), ValueError("bad chunk")])
@pytest.mark.parametrize("length", ["10", None])
def test_a_stream_that_breaks_is_a_bad_request(error: Exception, length: str | None) -> None:
    """Chunks that are none, and clients that hang up, are no fault of ours; what went wrong stays with the server."""
    with pytest.raises(BadRequest) as refused:
        parse(ANYTHING, Stream(b"", breaks=error), length=length, **{"wsgi.input_terminated": True})
    assert "zz" not in str(refused.value)


@given(
    content_type=st.text(st.characters(max_codepoint=255), max_size=30)
    | st.builds("application/json;{}={}".format, st.sampled_from(["charset", "a"]), st.text(max_size=9)),
)
def test_any_content_type_is_read_or_refused(content_type: str) -> None:
    """A header of any bytes is JSON's or a 415."""
    try:
        assert parse(ANYTHING, Stream(b"[]"), length="2", CONTENT_TYPE=content_type) == []
    except UnsupportedMediaType:
        return
    assert content_type.lower().strip().startswith("application/json")
