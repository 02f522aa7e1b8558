"""Turns errors into problem details (RFC 9457): the one table from error to status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from flask import Response, request

from cartsvc import errors
from cartsvc.api.answers import cart_view, etag_headers
from cartsvc.api.schemas import CART_EXAMPLE, ProblemSchema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from apispec import APISpec
    from werkzeug.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"
_MOST_FAULTS = 20  # in one answer, which must not be a multiple of the request
_KEPT = ("Allow", "Retry-After", "WWW-Authenticate")  # headers of an error that are part of what it says


class Problem(NamedTuple):
    """A kind of problem. ``slug`` ends its type, ``urn:cartsvc:problem:<slug>``."""

    status: int
    slug: str
    title: str
    headers: tuple[tuple[str, str], ...] = ()


# What the service raises ...
OF_ERROR: dict[type[errors.CartsvcError], Problem] = {
    errors.Unauthorized: Problem(401, "unauthorized", "Who is asking?"),
    errors.Forbidden: Problem(403, "forbidden", "Not this cart"),
    errors.KeysAway: Problem(503, "keys-away", "Tokens cannot be checked", (("Retry-After", "1"),)),
    errors.CartNotFound: Problem(404, "cart-not-found", "No such cart"),
    errors.ItemNotFound: Problem(404, "item-not-found", "No such item"),
    errors.LimitExceeded: Problem(409, "limit-exceeded", "A limit of the cart would be exceeded"),
    errors.CurrencyMismatch: Problem(409, "currency-mismatch", "Another currency than the cart's"),
    errors.CartSealed: Problem(409, "cart-sealed", "The cart is being merged", (("Retry-After", "5"),)),
    errors.MergeAborted: Problem(409, "merge-aborted", "The merge was aborted"),
    errors.PreconditionFailed: Problem(412, "precondition-failed", "The cart is in another state"),
    errors.KeyReused: Problem(422, "idempotency-key-reused", "The Idempotency-Key stood on another request"),
    errors.TooManyMerges: Problem(429, "too-many-merges", "Too many merges into this cart", (("Retry-After", "60"),)),
    errors.InvalidRequest: Problem(422, "invalid-request", "The request is not valid"),
    errors.RecordUnreadable: Problem(500, "record-unreadable", "This cart cannot be read"),
    errors.StoreError: Problem(503, "store-away", "The store is away", (("Retry-After", "1"),)),
    errors.OutcomeUnknown: Problem(503, "outcome-unknown", "Done or not: unknown", (("Retry-After", "1"),)),
    errors.StoreFull: Problem(507, "store-full", "The store is full"),
}
# ... and what the framework does, by status.
OF_STATUS: dict[int, Problem] = {
    400: Problem(400, "bad-request", "The request is malformed"),
    404: Problem(404, "not-found", "Nothing is here"),
    405: Problem(405, "method-not-allowed", "The method is not allowed here"),
    408: Problem(408, "request-timeout", "The body did not come in time"),
    413: Problem(413, "content-too-large", "The body is too large"),
    415: Problem(415, "unsupported-media-type", "The body has the wrong media type"),
    429: Problem(429, "too-many-requests", "Too many requests", (("Retry-After", "1"),)),
    500: Problem(500, "internal-error", "Something is wrong with the service"),
}
_WITH_CART = 412
_BESIDES = {401: {"WWW-Authenticate"}, 403: {"WWW-Authenticate"}, _WITH_CART: {"ETag"}}  # headers that each one makes
_HEADERS: dict[str, dict[str, Any]] = {
    "ETag": {"schema": {"type": "string"}, "description": "Of the cart in this answer; none when it is absent."},
    "WWW-Authenticate": {"schema": {"type": "string"}, "description": "Bearer, and what is wrong with the token."},
    "Retry-After": {"schema": {"type": "string", "pattern": "^[0-9]+$"}, "description": "Seconds until it may work."},
}
_DETAILS = {
    404: "No route of this service has this path; /openapi.json lists them.",
    405: "The Allow header lists the methods of this path.",
    408: "The body came too slowly, or not at all; nothing was done.",
    413: "The body is larger than this service takes.",
    500: "What happened is in the service's log.",
}


def of_error(error: errors.CartsvcError) -> Response:
    """The answer to an error of ours."""
    kind = next(OF_ERROR[each] for each in type(error).__mro__ if each in OF_ERROR)
    if isinstance(error, errors.PreconditionFailed):
        return _with_cart(kind, error)
    if isinstance(error, errors.Unauthorized | errors.Forbidden):
        return _with_challenge(kind, error)
    faults = getattr(error, "faults", ())[:_MOST_FAULTS]
    if not faults:
        return answer(kind, str(error))
    return answer(kind, "; ".join(dict.fromkeys(fault.detail for fault in faults)), faults=faults)


def of_exception(error: HTTPException) -> Response:
    """The answer to an error of the framework's; its Allow and Retry-After stay."""
    if isinstance(error.response, Response):  # ready-made, by who raised it
        return error.response
    status = error.code or 500
    kind = OF_STATUS.get(status) or Problem(status, error.name.lower().replace(" ", "-"), error.name)
    headers = [(name, value) for name, value in error.get_headers() if name in _KEPT]
    return answer(kind, _DETAILS.get(status) or str(error.description), headers=headers)


def _with_challenge(kind: Problem, error: errors.Unauthorized | errors.Forbidden) -> Response:
    """The problem, and what RFC 6750 (section 3) wants to be said of the token; 400 when the header is malformed."""
    code = error.error
    if code == "invalid_request":
        kind = OF_STATUS[400]
    challenge = "Bearer" if code is None else f'Bearer error="{code}"'
    return answer(kind, str(error), headers=[("WWW-Authenticate", challenge)])


def _with_cart(kind: Problem, error: errors.PreconditionFailed) -> Response:
    """The problem, and the current cart with its ETag, so that the client can rebase without another call."""
    user_id = (request.view_args or {})["user_id"]
    headers = etag_headers(error.cart).items()
    return answer(kind, str(error), headers=headers, more={"cart": cart_view(user_id, error.cart)})


def answer(
    kind: Problem,
    detail: str,
    *,
    faults: Iterable[errors.Fault] = (),
    headers: Iterable[tuple[str, str]] = (),
    more: Mapping[str, object] | None = None,
) -> Response:
    """A problem as a response; ``more`` are its extension members (RFC 9457, 3.2)."""
    body: dict[str, Any] = {
        "type": f"urn:cartsvc:problem:{kind.slug}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
    }
    if listed := [fault._asdict() for fault in faults]:
        body["errors"] = listed
    body |= more or {}
    return Response(msgspec.json.encode(body), kind.status, [*kind.headers, *headers], mimetype=MEDIA_TYPE)


def describe(spec: APISpec) -> None:
    """Put one response a status into the OpenAPI document, with an example of each kind of problem it stands for."""
    for status, kinds in sorted(_by_status().items()):
        examples = {kind.slug: {"value": _example(kind)} for kind in kinds}
        content = {MEDIA_TYPE: {"schema": ProblemSchema, "examples": examples}}
        titles = [kind.title for kind in kinds]
        description = ", or ".join([titles[0], *(title[0].lower() + title[1:] for title in titles[1:])]) + "."
        response: dict[str, Any] = {"description": description, "content": content}
        headers = {name for kind in kinds for name, _ in kind.headers} | _BESIDES.get(status, set())
        if headers:
            response["headers"] = {name: _HEADERS[name] for name in sorted(headers)}
        spec.components.response(reference(status), response)


def operations_on_carts(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The path and the description of each operation of the OpenAPI document that is for carts."""
    for path, operations in document["paths"].items():
        for operation in operations.values() if path.startswith("/cart") else ():
            if "responses" in operation:  # or it is the list of parameters that they share
                yield path, operation


def add_responses(operation: dict[str, Any], *statuses: int) -> None:
    """Let the description of an operation name the problems of these statuses too."""
    added = {str(status): {"$ref": f"#/components/responses/{reference(status)}"} for status in statuses}
    operation["responses"] = dict(sorted((operation["responses"] | added).items()))


def reference(status: int) -> str:
    """The name of this status's response among the components of the OpenAPI document."""
    return f"Problem{status}"


def _by_status() -> dict[int, list[Problem]]:
    found: dict[int, list[Problem]] = {}
    for kind in (*OF_ERROR.values(), *OF_STATUS.values()):
        found.setdefault(kind.status, []).append(kind)
    return found


def _example(kind: Problem) -> dict[str, Any]:
    faults = [errors.Fault("/quantity", "A quantity is 1 to 999.")] if kind.slug == "invalid-request" else []
    told = answer(kind, "; ".join(fault.detail for fault in faults) or kind.title + ".", faults=faults)
    example: dict[str, Any] = msgspec.json.decode(told.data)
    return example | ({"cart": CART_EXAMPLE} if kind.status == _WITH_CART else {})
