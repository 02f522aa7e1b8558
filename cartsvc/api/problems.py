"""Turns errors into problem details (RFC 9457), with the one table from error to status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from flask import Response, request
from msgspec import UNSET, structs

from cartsvc import errors
from cartsvc.api.responses import cart_view, etag_headers
from cartsvc.carts.cart import MAX_SUBTOTAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from werkzeug.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:cartsvc:problem:"
INSTANCE_PREFIX = "urn:cartsvc:request:"
_MAX_FAULTS = 20  # in one response, so it is not many times larger than the request
_PASSED_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")  # headers of the framework's errors that are kept


class Problem(NamedTuple):
    """A kind of problem. ``slug`` ends its type, ``urn:cartsvc:problem:<slug>``."""

    status: int
    slug: str
    title: str
    headers: tuple[tuple[str, str], ...] = ()


# Errors of the service, by class.
PROBLEM_BY_ERROR: dict[type[errors.CartsvcError], Problem] = {
    errors.Unauthorized: Problem(401, "unauthorized", "Authentication required"),
    errors.Forbidden: Problem(403, "forbidden", "Access to this cart denied"),
    errors.KeysUnavailable: Problem(
        503, "keys-unavailable", "Token verification keys unavailable", (("Retry-After", "1"),)
    ),
    errors.CartNotFound: Problem(404, "cart-not-found", "No such cart"),
    errors.ItemNotFound: Problem(404, "item-not-found", "No such item"),
    errors.LimitExceeded: Problem(409, "limit-exceeded", "A cart limit would be exceeded"),
    errors.CurrencyMismatch: Problem(409, "currency-mismatch", "Currency differs from the cart's"),
    errors.CartSealed: Problem(409, "cart-sealed", "The cart is being merged", (("Retry-After", "5"),)),
    errors.CartMerged: Problem(409, "cart-merged", "The cart was merged"),
    errors.MergeAborted: Problem(409, "merge-aborted", "The merge was aborted"),
    errors.PreconditionFailed: Problem(412, "precondition-failed", "Precondition failed"),
    errors.IdempotencyKeyReused: Problem(
        422, "idempotency-key-reused", "Idempotency-Key already used for a different request"
    ),
    errors.TooManyMerges: Problem(429, "too-many-merges", "Too many merges into this cart", (("Retry-After", "60"),)),
    errors.InvalidRequest: Problem(422, "invalid-request", "The request is not valid"),
    errors.RecordUnreadable: Problem(500, "record-unreadable", "This cart cannot be read"),
    errors.Draining: Problem(503, "draining", "The server is about to stop", (("Retry-After", "1"),)),
    errors.StoreError: Problem(503, "store-unavailable", "Store unavailable", (("Retry-After", "1"),)),
    errors.OutcomeUnknown: Problem(503, "outcome-unknown", "Outcome unknown", (("Retry-After", "1"),)),
    errors.StoreFull: Problem(507, "store-full", "The store is full"),
}
# Errors of the framework, by status.
PROBLEM_BY_STATUS: dict[int, Problem] = {
    400: Problem(400, "bad-request", "The request is malformed"),
    404: Problem(404, "not-found", "Not found"),
    405: Problem(405, "method-not-allowed", "Method not allowed"),
    408: Problem(408, "request-timeout", "The body arrived too slowly"),
    413: Problem(413, "content-too-large", "The body is too large"),
    415: Problem(415, "unsupported-media-type", "Unsupported media type"),
    429: Problem(429, "too-many-requests", "Too many requests", (("Retry-After", "1"),)),
    500: Problem(500, "internal-error", "Internal server error"),
}
DETAILS = {
    404: "This path does not exist. /openapi.json lists all paths.",
    405: "The Allow header lists the methods of this path.",
    408: "The body arrived too slowly or not at all. Nothing was changed.",
    413: "The body is larger than this service accepts.",
    500: "The service's log contains the cause.",
}


def from_error(error: errors.CartsvcError) -> Response:
    """Return the response to an error of this service."""
    problem = next(PROBLEM_BY_ERROR[each] for each in type(error).__mro__ if each in PROBLEM_BY_ERROR)
    if isinstance(error, errors.PreconditionFailed):
        return _with_cart(problem, error)
    if isinstance(error, errors.Unauthorized | errors.Forbidden):
        return _with_challenge(problem, error)
    faults = getattr(error, "faults", ())[:_MAX_FAULTS]
    if not faults or isinstance(error, errors.ItemNotFound):
        return problem_response(problem, str(error), faults=faults)
    return problem_response(problem, " ".join(dict.fromkeys(fault.detail for fault in faults)), faults=faults)


def from_http_exception(error: HTTPException) -> Response:
    """Return the response to an error of the framework, with its Allow and Retry-After headers."""
    if isinstance(error.response, Response):  # already made by the code that raised it
        return error.response
    status = error.code or 500
    problem = PROBLEM_BY_STATUS.get(status) or Problem(status, error.name.lower().replace(" ", "-"), error.name)
    headers = [(name, value) for name, value in error.get_headers() if name in _PASSED_HEADERS]
    return problem_response(problem, DETAILS.get(status) or str(error.description), headers=headers)


def _with_challenge(problem: Problem, error: errors.Unauthorized | errors.Forbidden) -> Response:
    """Return the problem with the challenge of RFC 6750 (section 3); 400 for a malformed header."""
    code = error.error
    if code == "invalid_request":
        problem = PROBLEM_BY_STATUS[400]
    challenge = "Bearer" if code is None else f'Bearer error="{code}"'
    return problem_response(problem, str(error), headers=[("WWW-Authenticate", challenge)])


def _with_cart(problem: Problem, error: errors.PreconditionFailed) -> Response:
    """Return the problem with the current cart and its ETag, so the client can rebase without another request."""
    user_id = (request.view_args or {})["user_id"]
    headers = etag_headers(error.cart).items()
    return problem_response(problem, str(error), headers=headers, more={"cart": cart_view(user_id, error.cart)})


def _readable(fault: errors.Fault) -> errors.Fault:
    """Return the fault without a value that clients cannot read as a number."""
    is_wide = isinstance(fault.value, int) and not -MAX_SUBTOTAL <= fault.value <= MAX_SUBTOTAL
    return structs.replace(fault, value=UNSET) if is_wide else fault


def problem_response(
    problem: Problem,
    detail: str,
    *,
    faults: Iterable[errors.Fault] = (),
    headers: Iterable[tuple[str, str]] = (),
    more: Mapping[str, object] | None = None,
) -> Response:
    """Return a problem as a response; ``more`` contains its extension members (RFC 9457, 3.2)."""
    instance = None
    if request:  # false outside a request
        request.environ["cartsvc.problem"] = problem.slug  # for the log and the metrics
        instance = INSTANCE_PREFIX + request.environ["HTTP_X_REQUEST_ID"]
    body = problem_body(problem, detail, instance, faults) | dict(more or {})
    return Response(msgspec.json.encode(body), problem.status, [*problem.headers, *headers], mimetype=MEDIA_TYPE)


def problem_body(
    problem: Problem, detail: str, instance: str | None, faults: Iterable[errors.Fault] = ()
) -> dict[str, Any]:
    """Return the members of a problem; ``instance`` identifies the request."""
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + problem.slug,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
    }
    if instance is not None:
        body["instance"] = instance
    if listed := [_readable(fault) for fault in faults]:
        body["errors"] = listed
    return body
