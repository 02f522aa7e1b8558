"""The whole OpenAPI document: all routes, with the limits, the tokens and the rate limit of this process."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from cartsvc import errors
from cartsvc.api.openapi import HEADERS, ITEM_ID, PROBLEMS, USER_ID
from cartsvc.api.openapi_problems import PROBLEM_BY_SLUG, problem_examples, problem_schema, response, schema_name
from cartsvc.api.problems import PROBLEM_BY_ERROR, PROBLEM_BY_STATUS
from cartsvc.api.schemas import FaultSchema
from cartsvc.carts.combine import ON_LIMITS, STRATEGIES
from cartsvc.carts.validation import metadata_rules, option_rules
from cartsvc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from apispec import APISpec

    from cartsvc.api.problems import Problem
    from cartsvc.carts.cart import Limits

_DESCRIPTION = """\
Shopping carts over REST. Concurrent changes do not overwrite each other, and each request is applied completely or
not at all. With an `Idempotency-Key`, it is applied once, however often it is sent; with `If-Match`, only if the cart
is unchanged.

Prices are integers in minor units. Times are UTC. Errors are problem details (RFC 9457), `application/problem+json`."""
CONFIG = {
    "API_TITLE": "cartsvc",
    "API_VERSION": __version__,
    "OPENAPI_VERSION": "3.1.0",
    "OPENAPI_URL_PREFIX": "/",
    "API_SPEC_OPTIONS": {
        # Relative to the document, so it is right behind a proxy that adds a path prefix.
        "servers": [{"url": "."}],
        "info": {
            "description": _DESCRIPTION,
            "contact": {"name": "The cartsvc project"},
            "license": {"name": "MIT", "identifier": "MIT"},
        },
    },
}
_PATH_PARAMETERS = {"UserId": USER_ID, "ItemId": ITEM_ID}  # by the names of their components
_SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "A user token from the shop's issuer, or a guest token from `POST /cart`.",
}
_REQUEST_ID = {
    "X-Request-ID": {
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$", "examples": ["5f0c8a2b91d34e67"]},
        "description": "The request's id: that of the request if it has a valid one, otherwise a new one.",
    }
}
_TOKEN = "eyJhbGciOiJIUzI1NiIsInR5cCI6Imd1ZXN0K2p3dCJ9.e30.c2lnbmF0dXJl"  # noqa: S105 - of no service
_OF_TOKENS = (PROBLEM_BY_STATUS[400], PROBLEM_BY_ERROR[errors.Unauthorized])
_OF_RENEWALS = (PROBLEM_BY_ERROR[errors.StoreError], PROBLEM_BY_ERROR[errors.RecordUnreadable])


class Features(NamedTuple):
    """The settings of this process that the document depends on."""

    limits: Limits
    has_auth: bool  # whether requests for carts need a token
    has_jwks: bool  # whether the keys that verify tokens can be unavailable
    has_rate_limit: bool


def document(spec: APISpec, features: Features) -> dict[str, Any]:
    """Return the document of all routes."""
    spec.components.schema("Fault", schema=FaultSchema)
    made: dict[str, Any] = spec.to_dict()
    schemas = made["components"]["schemas"]
    for unused in ("Error", "PaginationMetadata"):  # flask-smorest's own
        schemas.pop(unused, None)
    made["components"].pop("responses", None)  # flask-smorest's own, too
    made["components"]["parameters"] = {**_PATH_PARAMETERS, **HEADERS}
    _move_path_parameters(made)
    _add_limits(schemas, features.limits)
    _name_choice(schemas, "Strategy", "strategy", STRATEGIES)
    _name_choice(schemas, "OnLimit", "on_limit", ON_LIMITS)
    _add_security(made, has_auth=features.has_auth)
    _add_problems(made, features)
    for _, operation in _operations(made):
        for found in operation["responses"].values():
            found["headers"] = found.get("headers", {}) | _REQUEST_ID
    return made


def _move_path_parameters(document: dict[str, Any]) -> None:
    """Give each operation the parameters of its path, before its headers, because Swagger UI shows shared ones last."""
    component = {parameter["name"]: name for name, parameter in _PATH_PARAMETERS.items()}
    for operations in document["paths"].values():
        of_path = [
            {"$ref": f"#/components/parameters/{component[each['name']]}"} for each in operations.pop("parameters", ())
        ]
        for operation in operations.values():
            operation["parameters"] = [*of_path, *operation.get("parameters", ())]


def _add_limits(schemas: dict[str, Any], limits: Limits) -> None:
    """Add the limits in force to the schemas of the requests."""
    option_names, option_values = option_rules(limits)
    metadata_names, metadata_values = metadata_rules(limits)
    options = {
        "maxProperties": limits.max_options,
        "propertyNames": option_names.json_schema(),
        "additionalProperties": {"type": "string", **option_values.json_schema()},
    }
    metadata = {
        "maxProperties": limits.max_metadata,
        "propertyNames": metadata_names.json_schema(),
        "additionalProperties": {"type": "string", **metadata_values.json_schema()},
    }
    for name in ("ItemInput", "ItemUpdate", "ItemsUpdateItem"):
        members = schemas[name]["properties"]
        members["quantity"]["maximum"] = limits.max_quantity
        members["unit_price"]["maximum"] = limits.max_unit_price
        members["options"] |= options
        members["metadata"] |= metadata
    for name in ("CartInput", "CartUpdate"):
        schemas[name]["properties"]["metadata"] |= metadata
    schemas["CartInput"]["properties"]["items"]["maxItems"] = limits.max_items


def _name_choice(schemas: dict[str, Any], name: str, member: str, values: Iterable[str]) -> None:
    """Give the choices of a merge a schema of their own, so that a generated client has a type for them."""
    found = schemas["MergeInput"]["properties"][member]
    description = found["description"]
    schemas[name] = {"type": "string", "enum": list(values), "description": description}
    found.clear()
    found |= {"anyOf": [{"$ref": f"#/components/schemas/{name}"}, {"type": "null"}], "description": description}


def _add_security(document: dict[str, Any], *, has_auth: bool) -> None:
    """Add the token that operations on carts require, and show it in the examples."""
    document["security"] = []  # nothing else needs a token
    if not has_auth:
        return
    document["components"]["securitySchemes"] = {"token": _SECURITY_SCHEME}
    for path, operation in _operations(document):
        if path == "/cart":  # a new guest has no token
            operation["security"] = [{}, {"token": []}]
            operation["responses"]["201"]["content"]["application/json"]["example"]["token"] = _TOKEN
        elif path.startswith("/cart"):
            operation["security"] = [{"token": []}]
        if operation["operationId"] == "mergeCart":
            operation["requestBody"]["content"]["application/json"]["example"]["from_token"] = _TOKEN
    document["components"]["schemas"]["Guest"]["properties"]["token"] = {
        "type": "string",
        "description": "The guest's token.",
    }


def _add_problems(document: dict[str, Any], features: Features) -> None:
    """Add the problems that each operation can return, with a schema and an example for each kind."""
    used = set()
    for path, operation in _operations(document):
        problems = {PROBLEM_BY_SLUG[slug] for slug in operation.pop(PROBLEMS)}
        if path.startswith("/cart"):
            problems |= set(_problems_of_settings(path, features))
        used |= problems
        ordered = sorted(problems, key=lambda each: (each.status, each.slug))
        for status, same in groupby(ordered, key=lambda each: each.status):
            operation["responses"][str(status)] = response(same)
        operation["responses"] = dict(sorted(operation["responses"].items()))
    components, examples = document["components"], problem_examples()
    components["schemas"] |= {schema_name(each): problem_schema(each) for each in used}
    components["schemas"] = dict(sorted(components["schemas"].items()))
    components["examples"] = {each.slug: {"value": examples[each.slug]} for each in sorted(used, key=lambda p: p.slug)}


def _problems_of_settings(path: str, features: Features) -> Iterator[Problem]:
    """Yield the problems that an operation on carts can return because of tokens or of a rate limit."""
    if features.has_auth:
        yield from _OF_TOKENS
        yield from _OF_RENEWALS if path == "/cart" else (PROBLEM_BY_ERROR[errors.Forbidden],)
    if features.has_jwks:
        yield PROBLEM_BY_ERROR[errors.KeysUnavailable]
    if features.has_rate_limit:
        yield PROBLEM_BY_STATUS[429]


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the description of each operation."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            yield path, operation
