"""The HTTP side: flask-smorest's Api and Blueprint, made strict; errors as problems; the OpenAPI document.

The views are in :mod:`~cartsvc.api.carts` and :mod:`~cartsvc.api.health`, the pages for people in
:mod:`~cartsvc.api.swagger_ui`.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import flask_smorest
import msgspec
from flask import Response

from cartsvc.api import authorization, carts, health, problems, schemas, swagger_ui
from cartsvc.errors import CartsvcError

if TYPE_CHECKING:
    from flask import Flask
    from werkzeug.exceptions import HTTPException

    from cartsvc.api.rate_limit import RateLimiter
    from cartsvc.auth.tokens import Auth
    from cartsvc.carts.cart import Limits

_DESCRIPTION = """\
Shopping carts over REST. Changes that race all count, and a request is done whole or not at all. With an
`Idempotency-Key` it is done once, however often it is sent; with `If-Match`, only if nobody changed the cart before.

Money is integer minor units. Times are UTC. Errors are problem details (RFC 9457), `application/problem+json`."""


class Api(flask_smorest.Api):
    """flask-smorest's Api with problems for errors, and an OpenAPI document that is made once."""

    ERROR_SCHEMA = schemas.ProblemSchema
    DEFAULT_ERROR_RESPONSE_NAME = None  # every answer is documented by itself

    def __init__(self, app: Flask, *, limits: Limits, auth: Auth | None, rate_limiter: RateLimiter | None) -> None:
        self._limits = limits
        self._authenticates, self._rate_limiter = auth is not None, rate_limiter
        app.config |= {
            "API_TITLE": "cartsvc",
            "API_VERSION": "v1",
            "OPENAPI_VERSION": "3.1.0",
            "OPENAPI_URL_PREFIX": "/",
            "API_SPEC_OPTIONS": {
                # Relative to the document, so that it holds behind a proxy that adds a path prefix.
                "servers": [{"url": "."}],
                "info": {"description": _DESCRIPTION, "license": {"name": "MIT", "identifier": "MIT"}},
            },
        }
        super().__init__(app)
        app.register_error_handler(CartsvcError, problems.from_error)
        problems.add_problems(self.spec)
        self.register_blueprint(carts.blueprint)
        self.register_blueprint(health.blueprint)
        app.register_blueprint(swagger_ui.blueprint)
        authorization.init_app(app, auth)
        if rate_limiter is not None:
            rate_limiter.init_app(app)

    def handle_http_exception(self, error: HTTPException) -> Response:
        """Answer an error of the framework's with a problem."""
        return problems.from_http_exception(error)

    @cached_property
    def _document(self) -> bytes:
        document: dict[str, Any] = self.spec.to_dict()
        described = document["components"]["schemas"]
        described.pop("PaginationMetadata", None)  # flask-smorest's own; nothing here is paged
        schemas.add_limits(described, self._limits)
        if self._authenticates:
            authorization.add_security(document)
        if self._rate_limiter is not None:
            self._rate_limiter.add_rate_limit(document)
        return msgspec.json.encode(document)

    def _openapi_json(self) -> Response:
        return Response(self._document, mimetype="application/json")
