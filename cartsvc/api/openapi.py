"""What a route's decorators contribute to the OpenAPI document: parameters, headers, and the problems it can return.

flask-smorest generates the document from routes, schemas and docstrings, and :mod:`~cartsvc.api.openapi_document` adds
what depends on the settings. These modules use some private members of flask-smorest: ``Blueprint._prepare_doc_cbks``
and the views' ``_apidoc`` (here), and ``Api._openapi_json`` (``api/__init__.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import flask_smorest

from cartsvc import errors
from cartsvc.api.body import BodyParser
from cartsvc.api.problems import PROBLEM_BY_ERROR, PROBLEM_BY_STATUS
from cartsvc.carts import strings

if TYPE_CHECKING:
    from collections.abc import Callable

    from cartsvc.api.problems import Problem
    from cartsvc.errors import CartsvcError

F = TypeVar("F", bound="Callable[..., Any]")

PROBLEMS = "x-problems"  # the slugs of an operation's problems, until the document is made

USER_ID = {
    "in": "path",
    "name": "user_id",
    "required": True,
    "description": "The owner of the cart. It appears in access logs, so use opaque ids rather than e-mail addresses.",
    "schema": {"type": "string", **strings.USER_ID.json_schema()},
    "example": "alice",
}
ITEM_ID = {
    "in": "path",
    "name": "item_id",
    "required": True,
    "description": "The `item_id` of an item in the cart.",
    "schema": {"type": "string"},
    "example": "sku-1",
}
LOCATION = {"Location": {"schema": {"type": "string"}, "description": "The guest's cart, relative to this URL."}}
ETAG = {
    "ETag": {
        "schema": {"type": "string", "examples": ['"3t6rahouFHt350Cy"']},
        "description": 'Identifies this state of the cart (RFC 9110, 8.8.3), with its quotes: `"3t6rahouFHt350Cy"`.',
    }
}
# The examples of headers are in their schemas, because Swagger UI would fill in and send those of a parameter.
_TAG = r'(W/)?"[!#-~]*"'
_TAGS = {"type": "string", "pattern": rf"^(\*|{_TAG}( *, *{_TAG})*)$", "examples": ['"3t6rahouFHt350Cy"', "*"]}
_QUOTED = 'each with its quotes: `"3t6rahouFHt350Cy"`'
# The headers of requests, by the names of their components, which apispec makes references of.
HEADERS: dict[str, dict[str, Any]] = {
    "IfChanged": {
        "in": "header",
        "name": "If-None-Match",
        "description": f"ETags of earlier responses, {_QUOTED}. The response is 304 if the cart still has one of them.",
        "schema": _TAGS,
    },
    "IdempotencyKey": {
        "in": "header",
        "name": "Idempotency-Key",
        "description": "A unique key you choose per request. Repeat it on retries; the request is applied once.",
        "schema": {
            "type": "string",
            "pattern": r"^[\x21-\x7e]{1,255}$",
            "examples": ["7c0f1d3a-2f5e-4d9b-9d52-0c6f5c1e8a11"],
        },
    },
    "IfMatch": {
        "in": "header",
        "name": "If-Match",
        "description": f"Apply the request only if the cart has one of these ETags, {_QUOTED}. "
        "`*`: only if there is a cart.",
        "schema": _TAGS,
    },
    "IfNoneMatch": {
        "in": "header",
        "name": "If-None-Match",
        "description": f"Apply the request only if the cart has none of these ETags, {_QUOTED}. "
        "`*`: only if there is no cart.",
        "schema": _TAGS,
    },
}
_REPLAYED = {
    "Idempotency-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "The request was applied before, and was not applied again.",
    }
}
# Problems of every read and of every write of a cart; reading a body adds its own, by status.
_OF_READS = (errors.InvalidRequest, errors.RecordUnreadable, errors.StoreError)
_OF_WRITES = (
    *_OF_READS,
    errors.IdempotencyKeyReused,
    errors.CartSealed,
    errors.CartMerged,
    errors.PreconditionFailed,
    errors.OutcomeUnknown,
)
_OF_HEADERS = (400,)
_OF_BODIES = (400, 408, 413, 415)


class _Note(NamedTuple):
    errors: tuple[type[CartsvcError], ...] = ()
    conditional: bool = False
    keyed: bool = False
    operation_id: str = ""


class Blueprint(flask_smorest.Blueprint):
    """flask-smorest's Blueprint with strict bodies, whose operations list the problems they return."""

    ARGUMENTS_PARSER = BodyParser()

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - flask_smorest's own
        super().__init__(*args, **kwargs)
        self._prepare_doc_cbks.append(self._prepare_problem_doc)

    def _prepare_problem_doc(self, doc: dict[str, Any], doc_info: dict[str, Any], **_: object) -> dict[str, Any]:
        note = doc_info.get("problems", _Note())
        doc["operationId"] = note.operation_id
        problems = [PROBLEM_BY_STATUS[500], *(PROBLEM_BY_ERROR[each] for each in note.errors)]
        if note.conditional:
            doc.setdefault("parameters", []).append("IfChanged")
            doc["responses"][304] = {"description": "The cart has not changed.", "headers": ETAG}
            problems += _problems(_OF_READS, _OF_HEADERS)
        if note.keyed:
            doc.setdefault("parameters", []).extend(("IdempotencyKey", "IfMatch", "IfNoneMatch"))
            problems += _problems(_OF_WRITES, _OF_HEADERS)
            for status in {200, 201, 204} & doc["responses"].keys():
                doc["responses"][status].setdefault("headers", {}).update(_REPLAYED)
        if "requestBody" in doc:
            problems += _problems((), _OF_BODIES)
        doc["responses"] = {str(status): response for status, response in doc["responses"].items()}
        doc[PROBLEMS] = [problem.slug for problem in problems]
        return doc


def documents(*problems: type[CartsvcError], conditional: bool = False, keyed: bool = False) -> Callable[[F], F]:
    """Document the errors that a view raises in addition to those of every read or write, and its headers.

    A ``conditional`` read can return 304. A ``keyed`` write accepts an Idempotency-Key and preconditions. The decorator
    only annotates the view and has no effect on requests.
    """

    def note(view: F) -> F:
        view.__dict__.setdefault("_apidoc", {})["problems"] = _Note(
            problems, conditional, keyed, _operation_id(view.__name__)
        )
        return view

    return note


def _problems(kinds: tuple[type[CartsvcError], ...], statuses: tuple[int, ...]) -> list[Problem]:
    return [*(PROBLEM_BY_ERROR[each] for each in kinds), *(PROBLEM_BY_STATUS[each] for each in statuses)]


def _operation_id(name: str) -> str:
    """Return a view's name as an ``operationId``, after which generated clients name their methods: getCart."""
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))
