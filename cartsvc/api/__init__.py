"""The HTTP API: its routes, its error handlers and its OpenAPI document.

The views are in :mod:`~cartsvc.api.carts` and :mod:`~cartsvc.api.health`, Swagger UI is in
:mod:`~cartsvc.api.swagger_ui`.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import flask_smorest
import msgspec
from flask import Response

from cartsvc.api import authorization, carts, health, problems, swagger_ui
from cartsvc.api.openapi_document import CONFIG, Features, document
from cartsvc.errors import CartsvcError

if TYPE_CHECKING:
    from flask import Flask
    from werkzeug.exceptions import HTTPException

    from cartsvc.api.rate_limit import RateLimiter
    from cartsvc.auth.tokens import Auth
    from cartsvc.carts.cart import Limits


class Api(flask_smorest.Api):
    """flask-smorest's Api with problem details for errors, and with an OpenAPI document that is made once."""

    DEFAULT_ERROR_RESPONSE_NAME = None  # each operation documents its own

    def __init__(
        self, app: Flask, *, limits: Limits, auth: Auth | None, has_jwks: bool, rate_limiter: RateLimiter | None
    ) -> None:
        self._features = Features(limits, auth is not None, has_jwks, rate_limiter is not None)
        app.config |= CONFIG
        app.extensions["cartsvc.limits"] = limits
        super().__init__(app)
        app.register_error_handler(CartsvcError, problems.from_error)
        self.register_blueprint(carts.blueprint)
        self.register_blueprint(health.blueprint)
        app.register_blueprint(swagger_ui.blueprint)
        authorization.init_app(app, auth)
        if rate_limiter is not None:
            rate_limiter.init_app(app)

    def handle_http_exception(self, error: HTTPException) -> Response:
        """Return the problem for an error that the framework raised."""
        return problems.from_http_exception(error)

    @cached_property
    def document(self) -> bytes:
        """The OpenAPI document as JSON."""
        return msgspec.json.encode(document(self.spec, self._features))

    def _openapi_json(self) -> Response:
        return Response(self.document, mimetype="application/json")
