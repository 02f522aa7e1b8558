"""The Blueprint that all routes of the API stand in: strict bodies, and every problem documented."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import flask_smorest

from cartsvc.api.body import BodyParser
from cartsvc.api.problems import component_name

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

ETAG = {"ETag": {"schema": {"type": "string"}, "description": "Names this state of the cart (RFC 9110, 8.8.3)."}}
# Their examples stand in the schemas: those of a parameter would be filled in by Swagger UI, and sent.
_TAG = r'(W/)?"[!#-~]*"'
_TAGS = {"type": "string", "pattern": rf"^(\*|{_TAG}( *, *{_TAG})*)$", "examples": ['"3t6rahouFHt350Cy"', "*"]}
_IF_NONE_MATCH = {
    "in": "header",
    "name": "If-None-Match",
    "description": "ETags got before: the answer is 304 when the cart is still one of them.",
    "schema": _TAGS,
}
_CONDITION_HEADERS = (
    {
        "in": "header",
        "name": "Idempotency-Key",
        "description": "A unique key you choose per request. Repeat it on retries; the request is applied once.",
        "schema": {
            "type": "string",
            "pattern": r"^[\x21-\x7e]{1,255}$",
            "examples": ["7c0f1d3a-2f5e-4d9b-9d52-0c6f5c1e8a11"],
        },
    },
    {
        "in": "header",
        "name": "If-Match",
        "description": "Do it only if the cart is still in one of these states; `*`: only if there is a cart.",
        "schema": _TAGS,
    },
    {
        "in": "header",
        "name": "If-None-Match",
        "description": "Do it only if the cart is in none of these states; `*`: only if there is no cart.",
        "schema": _TAGS,
    },
)
_REPLAYED = {
    "Idempotency-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "This request was done before; nothing was done now, and the cart is shown as it is.",
    }
}
_BODY_PROBLEMS = (400, 408, 413, 415)


class _Note(NamedTuple):
    problems: tuple[int, ...] = ()
    conditional: bool = False
    keyed: bool = False
    operation_id: str = ""


class Blueprint(flask_smorest.Blueprint):
    """flask-smorest's Blueprint whose operations name the problems they answer with.

    ``always`` are the statuses of the problems that each operation can answer with; reading a body adds its own.
    """

    ARGUMENTS_PARSER = BodyParser()

    def __init__(self, *args: Any, always: tuple[int, ...], **kwargs: Any) -> None:  # noqa: ANN401 - flask_smorest's own
        super().__init__(*args, **kwargs)
        self._always = always
        self._prepare_doc_cbks.append(self._prepare_problem_doc)

    def _prepare_problem_doc(self, doc: dict[str, Any], doc_info: dict[str, Any], **_: object) -> dict[str, Any]:
        note = doc_info.get("problems", _Note())
        doc["operationId"] = note.operation_id
        if note.conditional:
            doc.setdefault("parameters", []).append(_IF_NONE_MATCH)
            doc["responses"][304] = {"description": "The cart is still the one you have.", "headers": ETAG}
        problems = (*note.problems, 400) if note.conditional else note.problems
        if note.keyed:
            doc.setdefault("parameters", []).extend(_CONDITION_HEADERS)
            problems = (*problems, 400, 409, 412, 507)
            for status in {200, 201, 204} & doc["responses"].keys():
                doc["responses"][status].setdefault("headers", {}).update(_REPLAYED)
        bodies = _BODY_PROBLEMS if "requestBody" in doc else ()
        doc["responses"] |= {status: component_name(status) for status in (*self._always, *bodies, *problems)}
        doc["responses"] = {str(status): response for status, response in sorted(doc["responses"].items())}
        return doc


def documents(*problems: int, conditional: bool = False, keyed: bool = False) -> Callable[[F], F]:
    """Document what else a view takes and answers: these statuses' problems, and more for what it is.

    A ``conditional`` read can answer 304; a ``keyed`` write takes an Idempotency-Key and preconditions. Only a note on
    the view: nothing happens at run time.
    """

    def note(view: F) -> F:
        view.__dict__.setdefault("_apidoc", {})["problems"] = _Note(
            problems, conditional, keyed, operation_id(view.__name__)
        )
        return view

    return note


def operation_id(name: str) -> str:
    """Return a view's name as an ``operationId``: get_cart is getCart, so a client's method has the view's name."""
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))
