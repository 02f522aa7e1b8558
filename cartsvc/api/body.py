"""Reading request bodies: strict JSON, and faults with their place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from flask import current_app
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

from cartsvc.errors import Fault, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Request
    from marshmallow import ValidationError

_MOST_CHARACTERS = 200  # of one pointer: it may quote a name that the caller made up


class BodyParser(FlaskParser):
    """Takes ``application/json`` and nothing else; what RFC 8259 calls unpredictable (repeated names) is refused."""

    def _raw_load_json(self, req: Request) -> Any:  # noqa: ANN401 - whatever JSON holds
        charset = req.mimetype_params.get("charset", "utf-8")
        if req.mimetype != "application/json" or charset.lower() != "utf-8" or req.headers.get("Content-Encoding"):
            raise UnsupportedMediaType("The body must be application/json in UTF-8, without a Content-Encoding.")
        return parse_json(_data(req))

    def handle_error(self, error: ValidationError, *_args: object, **_kwargs: object) -> NoReturn:
        """Name every fault that marshmallow found and its place in the body."""
        messages = error.messages_dict["json"]  # webargs files them under where the arguments came from
        raise InvalidRequest(_faults(messages, "")) from error


def _data(req: Request) -> bytes:
    """The whole body. Raises RequestEntityTooLarge, and BadRequest when the client went away in the middle of it.

    Werkzeug's own stream is not used: it cuts a chunked body off at its limit without a word, and what is left may well
    be JSON; and it takes 18 of a POST's 150 microseconds.
    """
    limit = current_app.config["MAX_CONTENT_LENGTH"]
    announced = req.content_length
    if announced is not None and announced > limit:
        raise RequestEntityTooLarge
    if announced is None and not req.environ.get("wsgi.input_terminated"):
        return b""  # neither a length nor chunks: no body, and reading would wait for one
    data: bytes = req.environ["wsgi.input"].read(limit + 1 if announced is None else announced)
    if len(data) > limit:
        raise RequestEntityTooLarge
    if announced is not None and len(data) < announced:
        raise BadRequest("The body ended before its Content-Length.")
    return data


def parse_json(data: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The value of a JSON text (RFC 8259). Raises BadRequest, with the reason, for anything else."""
    try:
        # The stricter reader first: it refuses NaN, a byte order mark, lone surrogates and numbers out of range.
        msgspec.json.decode(data)
        return _decoder.decode(data.decode())
    except RecursionError:
        raise BadRequest("The body is nested too deeply.") from None
    except UnicodeDecodeError:
        raise BadRequest("The body is not UTF-8.") from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is not JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadRequest("A name stands more than once in one object of the body.")
    return members


def _faults(messages: Any, place: str) -> Iterator[Fault]:  # noqa: ANN401 - marshmallow nests dicts and lists of texts
    if isinstance(messages, dict):
        for key, nested in messages.items():
            step = (
                ""
                if key == "_schema" and nested != ["Unknown field."]
                else "/" + str(key).replace("~", "~0").replace("/", "~1")
            )
            yield from _faults(nested, place + step)
    else:
        for message in messages:
            yield Fault(place[:_MOST_CHARACTERS], message)


_decoder = json.JSONDecoder(object_pairs_hook=_object)  # json.loads would make one at each call
