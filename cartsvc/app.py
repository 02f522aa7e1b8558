"""The wiring: settings -> store -> service -> Api. The only source of clocks and randomness."""

from __future__ import annotations

import logging
import re
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING

from flask_cors import CORS
from werkzeug.middleware.proxy_fix import ProxyFix

from cartsvc.api import Api
from cartsvc.api.flask_app import FlaskApp
from cartsvc.auth.jwks import JwksKeys, jwks_fetcher
from cartsvc.auth.keys import StaticKeys
from cartsvc.auth.tokens import Auth
from cartsvc.carts.merge import Merger
from cartsvc.carts.service import CartService
from cartsvc.cli.commands import carts_commands
from cartsvc.cli.openapi import openapi_command
from cartsvc.settings import Settings
from cartsvc.stores import open_script_runner, open_store, running_store
from cartsvc.telemetry.access_log import AccessLog
from cartsvc.telemetry.logging import LoggedStore
from cartsvc.telemetry.measured_store import MeasuredStore
from cartsvc.telemetry.metrics_files import own_slot
from cartsvc.telemetry.metrics_port import MetricsPort
from cartsvc.telemetry.requests import RequestTelemetry
from cartsvc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flask import Flask, Response

    from cartsvc.api.rate_limit import RateLimiter
    from cartsvc.auth.keys import KeySource
    from cartsvc.carts.store import CartStore
    from cartsvc.stores.urls import StoreConfig
    from cartsvc.telemetry.metrics import Metrics
    from cartsvc.telemetry.requests import Observer
    from cartsvc.telemetry.tracing import Tracing

_TAG_BYTES = 12  # 96 random bits, so no tag repeats
_GUEST_BYTES = 16  # 128 random bits, so an id cannot be guessed
_REQUEST_ID_BYTES = 8  # 64 random bits, so two requests of one log have different ids
_REQUEST_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match")
# Tracing tools and HTTP libraries add these to the requests of a page, and a header that is not allowed blocks them.
_COMMON_HEADERS = (
    "Cache-Control",
    "X-Request-ID",
    "X-Requested-With",
    "baggage",
    "sentry-trace",
    "traceparent",
    "tracestate",
)
_LABEL = r"[a-z0-9_-]{1,63}"  # of a host name
_RESPONSE_HEADERS = ("ETag", "Idempotency-Replayed", "Location", "Retry-After", "WWW-Authenticate", "X-Request-ID")
_PREFLIGHT_MAX_AGE_S = 600
_COUNTER_TIMEOUT_S = 0.25  # to wait for a shared rate counter


def _clock() -> int:
    return time.time_ns() // 1_000_000


class TrustedProxyFix(ProxyFix):
    """Trusts the values that the last proxies added, and none before those.

    werkzeug's ProxyFix parses quotation marks, so a client's unbalanced one would swallow what the proxies add.
    """

    def _get_real_value(self, trusted: int, value: str | None) -> str | None:
        values = (value or "").split(",")
        return values[-trusted].strip() if 0 < trusted <= len(values) else None


def create_app(
    settings: Settings | None = None,
    *,
    store: CartStore | None = None,
    clock: Callable[[], int] | None = None,
    wrap_store: Callable[[CartStore], CartStore] | None = None,
    counter_timeout: float | None = None,
) -> Flask:
    """Return the application for ``settings``, or for the environment.

    The other arguments are for tests: ``store`` replaces the store of the settings, ``clock`` returns milliseconds
    since the epoch, ``wrap_store`` observes or disturbs the service's use of its store, and ``counter_timeout`` is the
    number of seconds that a request may wait for a shared rate counter. Raises SettingsError, which lists every wrong
    setting, and StoreUnusable.
    """
    settings = settings or Settings.from_env()
    clock, policy, new_tag = clock or _clock, settings.policy, partial(secrets.token_urlsafe, _TAG_BYTES)

    def store_of_commands() -> CartStore:
        config = settings.store if store is not None else running_store(settings.store)
        return opened if config == settings.store else _open_store(config, settings, clock)

    opened = _open_store(settings.store, settings, clock) if store is None else store
    logging.getLogger("cartsvc").setLevel(settings.log_level.upper())
    logged, metrics, tracing = LoggedStore(opened, monotonic=_monotonic), _metrics(settings), _tracing(settings)
    observers = [each for each in (metrics, tracing) if each is not None]
    served: CartStore = MeasuredStore(logged, monotonic=time.perf_counter, observers=observers)
    if wrap_store is not None:
        served = wrap_store(served)
    app = FlaskApp("cartsvc", static_folder=None)
    app.after_request(_forbid_sniffing)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body
    app.url_map.merge_slashes = False
    app.extensions["cartsvc"] = CartService(
        served,
        Merger(served, policy=policy, clock=clock, new_tag=new_tag),
        policy=policy,
        clock=clock,
        new_tag=new_tag,
        new_guest=partial(secrets.token_urlsafe, _GUEST_BYTES),
    )
    rates = _rate_limiter(settings, clock, counter_timeout or _COUNTER_TIMEOUT_S)
    has_jwks = settings.auth is not None and settings.auth.jwks_url is not None
    api = Api(app, limits=policy.limits, auth=_auth(settings, clock), has_jwks=has_jwks, rate_limiter=rates)
    app.cli.add_command(carts_commands(store_of_commands, clock=clock, new_tag=new_tag))
    app.cli.add_command(openapi_command(lambda: api.document))
    _trust_proxies(app, settings)
    app.extensions["cartsvc.tracing"] = tracing
    _observe_requests(app, settings, observers)
    if settings.metrics_port is not None:
        page = None if metrics is None else partial(metrics.page, logged)
        app.wsgi_app = MetricsPort(app.wsgi_app, port=settings.metrics_port, page=page)  # type: ignore[method-assign]
    _allow_origins(app, settings)
    return app


def _open_store(config: StoreConfig, settings: Settings, clock: Callable[[], int]) -> CartStore:
    return open_store(
        config,
        clock=clock,
        memory_limit=settings.memory_limit,
        max_readers=settings.max_readers,
        timeout=settings.store_timeout,
        key_prefix=settings.key_prefix,
    )


def _metrics(settings: Settings) -> Metrics | None:
    """Return the metrics of a worker of gunicorn; None without a port for them, and in any other process."""
    slot = own_slot()
    if settings.metrics_port is None or slot is None:
        return None
    from cartsvc.telemetry.metrics import Metrics  # noqa: PLC0415 - many services have no port for metrics

    return Metrics(slot, version=__version__, store=_store_kind(settings))


def _tracing(settings: Settings) -> Tracing | None:
    if settings.otlp_endpoint is None:
        return None
    from cartsvc.telemetry import tracing  # noqa: PLC0415 - it takes 300 ms, and its packages are optional

    provider = tracing.start_exporter(version=__version__, monotonic=_monotonic)
    return tracing.Tracing(provider, version=__version__, store=_store_kind(settings), now_ns=time.time_ns)


def _store_kind(settings: Settings) -> str:
    """Return memory, lmdb, valkey or postgresql."""
    return type(settings.store).__name__.removesuffix("Config").lower()


def _trust_proxies(app: Flask, settings: Settings) -> None:
    """Take the address of a client from the entry that the first trusted proxy has added."""
    if settings.trusted_proxies:
        app.wsgi_app = TrustedProxyFix(app.wsgi_app, x_for=settings.trusted_proxies, x_proto=0)  # type: ignore[method-assign]


def _observe_requests(app: Flask, settings: Settings, observers: Sequence[Observer]) -> None:
    """Identify all requests, and pass them to the observers and to the log."""
    if settings.access_log != "off":
        log = AccessLog(slow_s=settings.slow_request, all_requests=settings.access_log == "all")
        observers = [*observers, log]
    app.wsgi_app = RequestTelemetry(  # type: ignore[method-assign]
        app.wsgi_app,
        new_id=partial(secrets.token_hex, _REQUEST_ID_BYTES),
        monotonic=time.perf_counter,
        observers=observers,
    )


def _allow_origins(app: Flask, settings: Settings) -> None:
    """Let pages of the origins of the settings call the service, with its headers and those of the settings."""
    if settings.cors_origins:
        CORS(
            app,
            origins=[_exact_origin(origin) for origin in settings.cors_origins],
            allow_headers=[_literal(name) for name in (*_REQUEST_HEADERS, *_COMMON_HEADERS, *settings.cors_headers)],
            expose_headers=_RESPONSE_HEADERS,
            max_age=_PREFLIGHT_MAX_AGE_S,
        )


def _forbid_sniffing(response: Response) -> Response:
    """Prevent browsers from guessing the media type of a response."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _auth(settings: Settings, clock: Callable[[], int]) -> Auth | None:
    config = settings.auth
    if config is None:
        return None
    keys: KeySource = StaticKeys(config.keys)
    if config.jwks_url is not None:
        keys = JwksKeys(jwks_fetcher(config.jwks_url), algorithms=config.algorithms, monotonic=_monotonic)
    return Auth(config, keys=keys, guest_ttl_ms=settings.policy.guest_ttl_ms, clock=clock)


def _rate_limiter(settings: Settings, clock: Callable[[], int], timeout: float) -> RateLimiter | None:
    if settings.rate_limit is None:
        return None
    from cartsvc.api.rate_limit import RateLimiter  # noqa: PLC0415 - it takes 40 ms, and most have no limit

    return RateLimiter(settings.rate_limit, open_script_runner(settings.store, clock=clock, timeout=timeout))


def _exact_origin(origin: str) -> str | re.Pattern[str]:
    """Return a pattern for exactly this origin; ``*`` as the leftmost label matches exactly one label."""
    if origin == "*":
        return origin
    scheme, found, host = origin.partition("://*.")
    if not found:
        return _literal(origin)
    return re.compile(rf"{scheme}://{_LABEL}\.{re.escape(host)}\Z", re.ASCII | re.IGNORECASE)


def _literal(text: str) -> re.Pattern[str]:
    """Return a pattern for exactly this text, because flask-cors takes brackets and other signs for a pattern."""
    return re.compile(re.escape(text) + r"\Z", re.ASCII | re.IGNORECASE)


def _monotonic() -> float:
    """Return the time of CLOCK_BOOTTIME if there is one: it runs while the machine sleeps, as other servers do."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
