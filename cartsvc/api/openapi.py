"""The OpenAPI document: what a route's decorators contribute, and what the settings of this process add at the end.

flask-smorest generates most of it from routes, schemas and docstrings. This package uses these of its private members:
``Blueprint._prepare_doc_cbks`` and the views' ``_apidoc`` (here), and ``Api._openapi_json`` (``api/__init__.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import flask_smorest
import msgspec

from cartsvc.api.body import BodyParser
from cartsvc.api.problems import (
    INSTANCE_PREFIX,
    MEDIA_TYPE,
    PROBLEM_BY_ERROR,
    PROBLEM_BY_STATUS,
    TYPE_PREFIX,
    Problem,
    problem_response,
)
from cartsvc.api.schemas import CART_EXAMPLE, FaultSchema
from cartsvc.carts import strings
from cartsvc.carts.cart import STRATEGIES, option_rules
from cartsvc.errors import CartConflict, Fault, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from apispec import APISpec

    from cartsvc.carts.cart import Limits

F = TypeVar("F", bound="Callable[..., Any]")

_DESCRIPTION = """\
Shopping carts over REST. Concurrent changes do not overwrite each other, and each request is applied completely or
not at all. With an `Idempotency-Key`, it is applied once, however often it is sent; with `If-Match`, only if the cart
is unchanged.

Prices are integers in minor units. Times are UTC. Errors are problem details (RFC 9457), `application/problem+json`."""
CONFIG = {
    "API_TITLE": "cartsvc",
    "API_VERSION": "v1",
    "OPENAPI_VERSION": "3.1.0",
    "OPENAPI_URL_PREFIX": "/",
    "API_SPEC_OPTIONS": {
        # Relative to the document, so it is right behind a proxy that adds a path prefix.
        "servers": [{"url": "."}],
        "info": {"description": _DESCRIPTION, "license": {"name": "MIT", "identifier": "MIT"}},
    },
}

# ---- what routes use ----

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
ETAG = {"ETag": {"schema": {"type": "string"}, "description": "Identifies this state of the cart (RFC 9110, 8.8.3)."}}
# The examples of headers are in their schemas, because Swagger UI would fill in and send those of a parameter.
_TAG = r'(W/)?"[!#-~]*"'
_TAGS = {"type": "string", "pattern": rf"^(\*|{_TAG}( *, *{_TAG})*)$", "examples": ['"3t6rahouFHt350Cy"', "*"]}
_IF_NONE_MATCH = {
    "in": "header",
    "name": "If-None-Match",
    "description": "ETags of earlier responses. The response is 304 if the cart still has one of them.",
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
        "description": "Apply the request only if the cart has one of these ETags; `*`: only if there is a cart.",
        "schema": _TAGS,
    },
    {
        "in": "header",
        "name": "If-None-Match",
        "description": "Apply the request only if the cart has none of these ETags; `*`: only if there is no cart.",
        "schema": _TAGS,
    },
)
_REQUEST_ID = {
    "X-Request-ID": {
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
        "description": "The request's id: that of the request if it has a valid one, otherwise a new one.",
    }
}
_REPLAYED = {
    "Idempotency-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "The request was applied before and not again. The response contains the current cart.",
    }
}
_BODY_PROBLEMS = (400, 408, 413, 415)


class _Note(NamedTuple):
    problems: tuple[int, ...] = ()
    conditional: bool = False
    keyed: bool = False
    operation_id: str = ""


class Blueprint(flask_smorest.Blueprint):
    """flask-smorest's Blueprint with strict bodies, whose operations list the problems they return.

    ``always`` are the statuses of the problems that each operation can return; reading a body adds its own.
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
            doc["responses"][304] = {"description": "The cart has not changed.", "headers": ETAG}
        problems = (*note.problems, 400) if note.conditional else note.problems
        if note.keyed:
            doc.setdefault("parameters", []).extend(_CONDITION_HEADERS)
            problems = (*problems, 400, 409, 412, 507)
            for status in {200, 201, 204} & doc["responses"].keys():
                doc["responses"][status].setdefault("headers", {}).update(_REPLAYED)
        bodies = _BODY_PROBLEMS if "requestBody" in doc else ()
        doc["responses"] |= {status: _component_name(status) for status in (*self._always, *bodies, *problems)}
        doc["responses"] = {str(status): response for status, response in sorted(doc["responses"].items())}
        return doc


def documents(*problems: int, conditional: bool = False, keyed: bool = False) -> Callable[[F], F]:
    """Document the problems of these statuses for a view, and its headers.

    A ``conditional`` read can return 304. A ``keyed`` write accepts an Idempotency-Key and preconditions. The decorator
    only annotates the view and has no effect on requests.
    """

    def note(view: F) -> F:
        view.__dict__.setdefault("_apidoc", {})["problems"] = _Note(
            problems, conditional, keyed, _operation_id(view.__name__)
        )
        return view

    return note


def _operation_id(name: str) -> str:
    """Return a view's name as an ``operationId``, after which generated clients name their methods: getCart."""
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


# ---- the whole document ----

_SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "A user token from the shop's issuer, or a guest token from `POST /cart`.",
}
_WITH_CART = 412
_WITH_ERRORS = {
    problem.slug for error, problem in PROBLEM_BY_ERROR.items() if issubclass(error, (InvalidRequest, CartConflict))
}
_EXAMPLE_FAULTS = {
    "invalid-request": Fault("/quantity", "A quantity must be from 1 to 999."),
    "limit-exceeded": Fault("/quantity", "At most 999 of one item; this would make 1000."),
    "currency-mismatch": Fault("/currency", "The cart is in EUR; a cart has one currency."),
}
# Headers that the problem's own code adds.
_EXTRA_HEADERS = {401: {"WWW-Authenticate"}, 403: {"WWW-Authenticate"}, _WITH_CART: {"ETag"}}
_HEADERS: dict[str, dict[str, Any]] = {
    "ETag": {
        "schema": {"type": "string"},
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


def document(spec: APISpec, *, limits: Limits, has_auth: bool, has_rate_limit: bool) -> dict[str, Any]:
    """Return the document of all routes, with the limits, the tokens and the rate limit of this process."""
    made: dict[str, Any] = spec.to_dict()
    schemas = made["components"]["schemas"]
    for unused in ("Error", "PaginationMetadata"):  # flask-smorest's own
        schemas.pop(unused, None)
    _add_limits(schemas, limits)
    _name_strategy(schemas)
    responses = [*made["components"]["responses"].values()]
    responses += [
        response
        for operations in made["paths"].values()
        for operation in operations.values()
        if "responses" in operation
        for response in operation["responses"].values()
        if "$ref" not in response
    ]
    for response in responses:
        response["headers"] = response.get("headers", {}) | _REQUEST_ID
    if has_auth:
        _add_security(made)
    if has_rate_limit:
        for _, operation in _operations_on_carts(made):
            _add_responses(operation, 429)
    return made


def add_problems(spec: APISpec) -> None:
    """Add one response per status to the OpenAPI document, with an example of each problem that has this status."""
    spec.components.schema("Fault", schema=FaultSchema)
    for status, problems in sorted(_by_status().items()):
        examples = {problem.slug: {"value": _example(problem)} for problem in problems}
        for problem in problems:
            spec.components.schema(_schema_name(problem), _problem_schema(problem))
        content = {MEDIA_TYPE: {"schema": _one_of(problems), "examples": examples}}
        titles = [problem.title for problem in problems]
        description = ", or ".join([titles[0], *(title[0].lower() + title[1:] for title in titles[1:])]) + "."
        response: dict[str, Any] = {"description": description, "content": content}
        headers = {name for problem in problems for name, _ in problem.headers} | _EXTRA_HEADERS.get(status, set())
        if headers:
            response["headers"] = {name: _HEADERS[name] for name in sorted(headers)}
        spec.components.response(_component_name(status), response)


def _schema_name(problem: Problem) -> str:
    """Return a kind of problem as the name of its schema: limit-exceeded is LimitExceededProblem."""
    return "".join(map(str.capitalize, problem.slug.split("-"))) + "Problem"


def _problem_schema(problem: Problem) -> dict[str, Any]:
    """Return the schema of one kind of problem: its type and status, and the members that it always has."""
    members: dict[str, Any] = {
        "type": {"type": "string", "format": "uri", "enum": [TYPE_PREFIX + problem.slug]},
        "title": {"type": "string"},
        "status": {"type": "integer", "enum": [problem.status]},
        "detail": {"type": "string"},
        "instance": {"type": "string", "format": "uri", "description": "`urn:cartsvc:request:` and the request's id."},
    }
    if problem.slug in _WITH_ERRORS:
        members["errors"] = {"type": "array", "items": {"$ref": "#/components/schemas/Fault"}}
    if problem.status == _WITH_CART:
        members["cart"] = {"$ref": "#/components/schemas/Cart"}
    return {
        "type": "object",
        "description": f"{problem.title}. Problem details (RFC 9457).",
        "properties": members,
        "required": list(members),
    }


def _one_of(problems: list[Problem]) -> dict[str, Any]:
    """Return the schema of a response that can have any of these problems; its ``type`` identifies the kind."""
    references = {TYPE_PREFIX + each.slug: f"#/components/schemas/{_schema_name(each)}" for each in problems}
    if len(problems) == 1:
        return {"$ref": next(iter(references.values()))}
    return {
        "oneOf": [{"$ref": reference} for reference in references.values()],
        "discriminator": {"propertyName": "type", "mapping": references},
    }


def _by_status() -> dict[int, list[Problem]]:
    found: dict[int, list[Problem]] = {}
    for problem in (*PROBLEM_BY_ERROR.values(), *PROBLEM_BY_STATUS.values()):
        found.setdefault(problem.status, []).append(problem)
    return found


def _example(problem: Problem) -> dict[str, Any]:
    faults = [_EXAMPLE_FAULTS.get(problem.slug, Fault("", f"{problem.title}."))] if problem.slug in _WITH_ERRORS else []
    detail = faults[0].detail if faults else f"{problem.title}."
    example: dict[str, Any] = msgspec.json.decode(problem_response(problem, detail, faults=faults).data)
    example["instance"] = INSTANCE_PREFIX + "5f0c8a2b91d34e67"
    return example | ({"cart": CART_EXAMPLE} if problem.status == _WITH_CART else {})


def _add_limits(schemas: dict[str, Any], limits: Limits) -> None:
    """Add the limits in force to the schemas of the requests."""
    for name in ("ItemInput", "ItemUpdate"):
        members = schemas[name]["properties"]
        members["quantity"]["maximum"] = limits.max_quantity
        members["unit_price"]["maximum"] = limits.max_unit_price
    names, values = option_rules(limits)
    schemas["ItemInput"]["properties"]["options"] |= {
        "maxProperties": limits.max_options,
        "propertyNames": names.json_schema(),
        "additionalProperties": {"type": "string", **values.json_schema()},
    }
    schemas["CartInput"]["properties"]["items"]["maxItems"] = limits.max_items


def _name_strategy(schemas: dict[str, Any]) -> None:
    """Give the strategies of a merge a schema of their own, so that a generated client has a type for them."""
    member = schemas["MergeInput"]["properties"]["strategy"]
    kept = {name: member[name] for name in ("default", "description")}
    schemas["Strategy"] = {"type": "string", "enum": list(STRATEGIES), "description": member["description"]}
    member.clear()
    member |= {"anyOf": [{"$ref": "#/components/schemas/Strategy"}, {"type": "null"}], **kept}


def _add_security(document: dict[str, Any]) -> None:
    """Add the token that operations on carts require, and the problems of a missing or wrong token."""
    document["components"]["securitySchemes"] = {"token": _SECURITY_SCHEME}
    for path, operation in _operations_on_carts(document):
        optional = path == "/cart"  # a new guest has no token
        operation["security"] = [{}, {"token": []}] if optional else [{"token": []}]
        _add_responses(operation, 400, 401, *(() if optional else (403,)))


def _operations_on_carts(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the description of each operation on carts."""
    for path, operations in document["paths"].items():
        for operation in operations.values() if path.startswith("/cart") else ():
            if "responses" in operation:  # the other value is their list of shared parameters
                yield path, operation


def _add_responses(operation: dict[str, Any], *statuses: int) -> None:
    """Add the problems of these statuses to the description of an operation."""
    added = {str(status): {"$ref": f"#/components/responses/{_component_name(status)}"} for status in statuses}
    operation["responses"] = dict(sorted((operation["responses"] | added).items()))


def _component_name(status: int) -> str:
    """Return the name of this status's response in the components of the document."""
    return f"Problem{status}"
