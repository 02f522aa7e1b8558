"""The wiring: settings -> store -> service -> Api. The only place where clock and randomness come from."""

from __future__ import annotations

import logging
import re
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING

from flask import Flask
from flask_cors import CORS

from cartsvc.api import Api
from cartsvc.service import CartService
from cartsvc.settings import Settings
from cartsvc.stores import open_store

if TYPE_CHECKING:
    from flask import Response

    from cartsvc.stores.base import CartStore

_TAG_BYTES = 12  # 96 random bits: nobody meets the same tag twice
_REQUEST_HEADERS = ("Content-Type", "If-None-Match")
_RESPONSE_HEADERS = ("ETag", "Location", "Retry-After")
_PREFLIGHT_SECONDS = 600


def create_app(settings: Settings | None = None, *, store: CartStore | None = None) -> Flask:
    """Make the application: from the environment, or from ``settings`` (and on ``store``) where a test says so.

    Raises SettingsError, which names every wrong setting at once.
    """
    settings = settings or Settings.from_env()
    if store is None:
        store = open_store(settings.store_url, clock=_clock, memory_limit=settings.memory_limit)
    logging.getLogger("cartsvc").setLevel(settings.log_level.upper())
    app = Flask("cartsvc", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body
    app.url_map.merge_slashes = False
    app.extensions["cartsvc"] = CartService(
        store,
        limits=settings.limits,
        cart_ttl=settings.cart_ttl * 1000,
        clock=_clock,
        new_tag=partial(secrets.token_urlsafe, _TAG_BYTES),
    )
    Api(app, limits=settings.limits)
    app.after_request(_no_sniffing)
    if settings.cors_origins:
        CORS(
            app,
            origins=[_pattern(origin) for origin in settings.cors_origins],
            allow_headers=_REQUEST_HEADERS,
            expose_headers=_RESPONSE_HEADERS,
            max_age=_PREFLIGHT_SECONDS,
        )
    return app


def _pattern(origin: str) -> str | re.Pattern[str]:
    """The origin and no other: flask-cors takes the brackets of an IPv6 address for a pattern, and lets others in."""
    return origin if origin == "*" else re.compile(re.escape(origin) + r"\Z", re.IGNORECASE)


def _clock() -> int:
    return time.time_ns() // 1_000_000


def _no_sniffing(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
