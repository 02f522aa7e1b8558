"""The problems in the OpenAPI document: a schema and an example for each kind, and the responses that contain them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from cartsvc import errors
from cartsvc.api.problems import (
    DETAILS,
    INSTANCE_PREFIX,
    MEDIA_TYPE,
    PROBLEM_BY_ERROR,
    PROBLEM_BY_STATUS,
    TYPE_PREFIX,
    Problem,
    problem_body,
)
from cartsvc.api.schemas import CART_EXAMPLE
from cartsvc.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable

PROBLEM_BY_SLUG = {problem.slug: problem for problem in (*PROBLEM_BY_ERROR.values(), *PROBLEM_BY_STATUS.values())}
_PRECONDITION_FAILED = PROBLEM_BY_ERROR[errors.PreconditionFailed]
_ALWAYS_WITH_ERRORS = (errors.InvalidRequest, errors.LimitExceeded, errors.CurrencyMismatch)
_WITH_ERRORS = {PROBLEM_BY_ERROR[each].slug for each in (*_ALWAYS_WITH_ERRORS, errors.ItemNotFound)}
_OPTIONAL = {PROBLEM_BY_ERROR[errors.ItemNotFound].slug: {"errors"}}

# One error of each kind, as a client gets it.
_EXAMPLES = (
    errors.Unauthorized("An access token is needed: Authorization: Bearer ...", error=None),
    errors.Forbidden(),
    errors.KeysUnavailable(),
    errors.CartNotFound(),
    errors.ItemNotFound(),
    errors.LimitExceeded(
        [Fault("/quantity", "At most 999 of one item; this would make 1004.", "max_quantity", 999, 1004, "sku-1")]
    ),
    errors.CurrencyMismatch(
        [Fault("/currency", "The cart is in EUR; one cart has one currency.", "currency_mismatch", currency="EUR")]
    ),
    errors.CartSealed(),
    errors.CartMerged(),
    errors.MergeAborted(),
    errors.PreconditionFailed(None),
    errors.IdempotencyKeyReused(),
    errors.TooManyMerges(),
    errors.InvalidRequest(
        [
            Fault("/quantity", "A quantity is 1 to 999.", "max_quantity", 999, 1000),
            Fault("/colour", "Unknown field.", "unknown_member"),
        ]
    ),
    errors.RecordUnreadable(),
    errors.Draining(),
    errors.StoreError(),
    errors.OutcomeUnknown(),
    errors.StoreFull(),
)
_DETAILS = {
    **DETAILS,
    400: "The body is not JSON: JSON is malformed: invalid character (byte 1)",
    415: "The body must be application/json in UTF-8, without a Content-Encoding.",
    429: "Rate limit exceeded: 100 per 1 minute.",
}
_HEADERS: dict[str, dict[str, Any]] = {
    "ETag": {
        "schema": {"type": "string", "examples": ['"3t6rahouFHt350Cy"']},
        "description": "Identifies the cart in this response, unless it is absent.",
    },
    "WWW-Authenticate": {
        "schema": {"type": "string"},
        "description": "`Bearer`, and the error code if the token is invalid.",
    },
    "Retry-After": {
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "description": "Seconds to wait before a retry.",
    },
}
_EXTRA_HEADERS = {401: {"WWW-Authenticate"}, 403: {"WWW-Authenticate"}, 412: {"ETag"}}  # that problems' own code adds


def schema_name(problem: Problem) -> str:
    """Return a kind of problem as the name of its schema: limit-exceeded is LimitExceededProblem."""
    return "".join(map(str.capitalize, problem.slug.split("-"))) + "Problem"


def problem_schema(problem: Problem) -> dict[str, Any]:
    """Return the schema of one kind of problem: its type and status, and the members that it always has."""
    members: dict[str, Any] = {
        "type": {"type": "string", "format": "uri", "enum": [TYPE_PREFIX + problem.slug]},
        "title": {"type": "string"},
        "status": {"type": "integer", "format": "int64", "enum": [problem.status]},
        "detail": {"type": "string"},
        "instance": {"type": "string", "format": "uri", "description": "`urn:cartsvc:request:` and the request's id."},
    }
    if problem.slug in _WITH_ERRORS:
        members["errors"] = {"type": "array", "items": {"$ref": "#/components/schemas/Fault"}}
    if problem is _PRECONDITION_FAILED:
        members["cart"] = {"$ref": "#/components/schemas/Cart"}
    return {
        "type": "object",
        "description": f"{problem.title}. Problem details (RFC 9457).",
        "properties": members,
        "required": [name for name in members if name not in _OPTIONAL.get(problem.slug, ())],
    }


def problem_examples() -> dict[str, dict[str, Any]]:
    """Return an example of each kind of problem, by slug."""
    found = {}
    for error in _EXAMPLES:
        faults = getattr(error, "faults", ())
        found[PROBLEM_BY_ERROR[type(error)].slug] = _body(PROBLEM_BY_ERROR[type(error)], str(error), faults)
    for problem in PROBLEM_BY_STATUS.values():
        found[problem.slug] = _body(problem, _DETAILS[problem.status])
    found[_PRECONDITION_FAILED.slug]["cart"] = CART_EXAMPLE
    return found


def response(problems: Iterable[Problem]) -> dict[str, Any]:
    """Return the response of one status that has any of these problems; its ``type`` identifies the kind."""
    problems = list(problems)
    references = {TYPE_PREFIX + each.slug: f"#/components/schemas/{schema_name(each)}" for each in problems}
    schema: dict[str, Any] = {"$ref": next(iter(references.values()))}
    if len(problems) > 1:
        discriminator = {"propertyName": "type", "mapping": references}
        schema = {"oneOf": [{"$ref": each} for each in references.values()], "discriminator": discriminator}
    examples = {each.slug: {"$ref": f"#/components/examples/{each.slug}"} for each in problems}
    titles = [each.title for each in problems]
    made: dict[str, Any] = {
        "description": ", or ".join([titles[0], *(title[0].lower() + title[1:] for title in titles[1:])]) + ".",
        "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
    }
    headers = {name for each in problems for name, _ in each.headers} | _EXTRA_HEADERS.get(problems[0].status, set())
    if headers:
        made["headers"] = {name: _HEADERS[name] for name in sorted(headers)}
    return made


def _body(problem: Problem, detail: str, faults: Iterable[Fault] = ()) -> dict[str, Any]:
    # As a client reads it, and without a trace in the request for the document, which is none of these problems.
    body = problem_body(problem, detail, INSTANCE_PREFIX + "5f0c8a2b91d34e67", faults)
    read: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(body))
    return read
