"""The settings: read from the environment, here and nowhere else, checked all at once, frozen."""

from __future__ import annotations

import difflib
import importlib.util
import ipaddress
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct, structs

from cartsvc.auth.config import AuthConfig, load_auth_config
from cartsvc.carts.cart import MAX_LIMITS, Limits
from cartsvc.carts.record import CART_TTL_RANGE_MS, IDEMPOTENCY_TTL_RANGE_MS, MAX_IDEMPOTENCY_KEYS, Policy
from cartsvc.errors import SettingsError
from cartsvc.server.cpus import available_cpus
from cartsvc.stores.urls import KEY_PREFIX, MemoryConfig, StoreConfig, check_key_prefix, describe, parse_store_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence

T = TypeVar("T")
D = TypeVar("D")

_DAY_S = 86_400
_YEAR_S = 366 * _DAY_S
_SPARE_READERS = 126
_KIB, _MIB = 2**10, 2**20
_AUTH_SETTINGS = ("jwt_key", "jwt_jwks_url", "jwt_algorithms", "jwt_issuer", "jwt_audience", "guest_key")
_LOG_FORMATS = ("text", "json")
_ACCESS_LOGS = ("off", "errors", "all")
_LEVELS = ("debug", "info", "warning", "error", "critical")

_ORIGIN = re.compile(r"(https?)://((?:\*\.)?[A-Za-z0-9-][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_NO_ORIGIN = "must be * or origins such as https://shop.example or https://*.shop.example, separated by commas"
_MAX_PORT = 65_535
_METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"  # where prometheus-client expects it
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token (RFC 9110, section 5.6.2)
_OTEL_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")  # of the extra otel
_QUOTES = "\"'"

# Kubernetes sets variables named after each Service in every pod. For a Service called "cartsvc" their names begin as
# those of our settings do: CARTSVC_SERVICE_HOST, CARTSVC_PORT_8080_TCP_ADDR, ...
_KUBERNETES = re.compile(r"CARTSVC_(.+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


class EnvReader:
    """Read typed values from an environment.

    A wrong value adds a line to ``faults`` and is read as its default, so that one start reports all faults. ``names``
    are those of all settings that were read, set or not.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.names: list[str] = []
        self.faults: list[str] = []

    def parsed(self, name: str, default: D, parse: Callable[[str], T], *, secret: bool = False) -> T | D:
        """Return what ``parse`` makes of the value. Its ValueError is the fault, which shows no secret value."""
        self.names.append(name)
        value = self.environ.get(name)
        if value is None:
            return default
        try:
            return parse(value)
        except ValueError as error:
            # Faults are logged, and a URL may hold a password, also one that was given to the wrong setting.
            self.faults.append(f"{name}={'...' if secret or '@' in value else repr(value)}: {error}")
            return default

    def text(self, name: str, default: D) -> str | D:
        """Return the value as it is."""
        return self.parsed(name, default, str)

    def integer(self, name: str, default: D, *, min_value: int, max_value: int) -> int | D:
        """Return the whole number."""
        fault = f"must be a whole number from {min_value} to {max_value}"
        return self.parsed(name, default, lambda text: _in_range(int, text, min_value, max_value, fault=fault))

    def number(self, name: str, default: D, *, min_value: float, max_value: float) -> float | D:
        """Return the number, which may have a fraction."""
        fault = f"must be a number from {min_value:g} to {max_value:g}"
        return self.parsed(name, default, lambda text: _in_range(float, text, min_value, max_value, fault=fault))

    def choice(self, name: str, default: D, choices: Sequence[str], *, ignore_case: bool = False) -> str | D:
        """Return the value, which is one of ``choices``."""

        def parse(text: str) -> str:
            chosen = text.lower() if ignore_case else text
            if chosen not in choices:
                raise ValueError(f"must be one of {', '.join(choices)}")
            return chosen

        return self.parsed(name, default, parse)


_Number = TypeVar("_Number", int, float)


def _in_range(
    kind: Callable[[str], _Number], text: str, min_value: _Number, max_value: _Number, *, fault: str
) -> _Number:
    with suppress(ValueError):
        value = kind(text)
        if min_value <= value <= max_value:  # never true for NaN
            return value
    raise ValueError(fault)


class Settings(Struct, frozen=True, kw_only=True):
    """The settings; docs/configuration.md explains each. Sizes are in bytes, times in seconds."""

    host: str
    port: int
    workers: int | None
    threads: int
    keep_alive: int
    store: StoreConfig
    store_timeout: float
    key_prefix: str
    memory_limit: int
    max_body: int
    policy: Policy
    auth: AuthConfig | None  # None: every client may read and change every cart
    rate_limit: str | None
    trusted_proxies: int
    cors_origins: tuple[str, ...]  # as a browser writes them; https://*.example matches one label before .example
    cors_headers: tuple[str, ...]
    log_level: str
    metrics_port: int | None
    log_format: str | None  # None: text on a terminal, json elsewhere
    access_log: str
    slow_request: float
    drain: float
    otlp_endpoint: str | None  # None: no tracing
    warnings: tuple[str, ...]

    @property
    def worker_count(self) -> int:
        """The number of workers unless the command line sets it: by default one per CPU."""
        return self.workers or available_cpus()

    @property
    def max_readers(self) -> int:
        """The number of threads that may read the store at once, with room for commands and workers being replaced."""
        return 2 * self.worker_count * max(self.threads, 1) + _SPARE_READERS

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read and check the environment. Raise SettingsError, which lists all faults at once."""
        return cls.read(EnvReader(environ))

    @classmethod
    def read(cls, env: EnvReader) -> Settings:
        """Read all settings. Raise SettingsError, which lists all faults at once."""
        settings = cls(
            host=env.parsed("HOST", "0.0.0.0", _host),  # noqa: S104 - other containers connect by address
            port=env.integer("PORT", 8080, min_value=1, max_value=_MAX_PORT),
            workers=env.integer("WEB_CONCURRENCY", None, min_value=1, max_value=1024),
            threads=env.integer("CARTSVC_THREADS", 0, min_value=0, max_value=1024),
            keep_alive=env.integer("CARTSVC_KEEP_ALIVE", 5, min_value=1, max_value=3600),
            store=env.parsed("CARTSVC_STORE_URL", MemoryConfig(), _store_config, secret=True),
            store_timeout=env.number("CARTSVC_STORE_TIMEOUT", 2.0, min_value=0.1, max_value=60.0),
            key_prefix=env.parsed("CARTSVC_KEY_PREFIX", KEY_PREFIX, _key_prefix),
            memory_limit=env.integer("CARTSVC_MEMORY_LIMIT", 512 * _MIB, min_value=_MIB, max_value=2**50),
            max_body=env.integer("CARTSVC_MAX_BODY", 128 * _KIB, min_value=_KIB, max_value=16 * _MIB),
            policy=_policy(env),
            auth=_auth(env),
            rate_limit=env.parsed("CARTSVC_RATE_LIMIT", None, _rates),
            trusted_proxies=env.integer("CARTSVC_TRUSTED_PROXIES", 0, min_value=0, max_value=10),
            cors_origins=env.parsed("CARTSVC_CORS_ORIGINS", (), _origins),
            cors_headers=env.parsed("CARTSVC_CORS_HEADERS", (), _header_names),
            log_level=env.choice("CARTSVC_LOG_LEVEL", "info", _LEVELS, ignore_case=True),
            metrics_port=env.integer("CARTSVC_METRICS_PORT", None, min_value=1, max_value=_MAX_PORT),
            log_format=env.choice("CARTSVC_LOG_FORMAT", None, _LOG_FORMATS),
            access_log=env.choice("CARTSVC_ACCESS_LOG", "errors", _ACCESS_LOGS),
            slow_request=env.number("CARTSVC_SLOW_REQUEST", 1.0, min_value=0.001, max_value=3600.0),
            drain=env.number("CARTSVC_DRAIN", 0.0, min_value=0.0, max_value=3600.0),
            otlp_endpoint=env.parsed("OTEL_EXPORTER_OTLP_ENDPOINT", None, _collector),
            warnings=(),
        )
        if settings.metrics_port == settings.port:
            env.faults.append(f"CARTSVC_METRICS_PORT={settings.port!r}: must differ from PORT")
        if env.faults:
            raise SettingsError(sorted(env.faults))
        return structs.replace(settings, warnings=tuple(_warnings(env)))


def export_store(config: StoreConfig, environ: MutableMapping[str, str] = os.environ) -> None:
    """Set the store of the processes that this one starts, which read their settings themselves.

    Only for a store whose URL has no secret, because :func:`describe` leaves secrets out.
    """
    environ["CARTSVC_STORE_URL"] = describe(config)


def metrics_directory(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the directory of the metrics that :func:`export_metrics_directory` has set; None if there is none."""
    return environ.get(_METRICS_DIRECTORY)


def export_metrics_directory(path: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """Set the directory of the metrics for the processes that this one starts."""
    environ[_METRICS_DIRECTORY] = path


def _policy(env: EnvReader) -> Policy:
    max_cart_ttl_s, max_idempotency_ttl_s = CART_TTL_RANGE_MS[1] // 1000, IDEMPOTENCY_TTL_RANGE_MS[1] // 1000
    return Policy(
        limits=Limits(
            max_quantity=_limit(env, "max_quantity", min_value=1),
            max_items=_limit(env, "max_items", min_value=1),
            max_cart_bytes=_limit(env, "max_cart_bytes", min_value=_KIB),
            max_options=_limit(env, "max_options", min_value=0),
            max_option_name=_limit(env, "max_option_name", min_value=1),
            max_option_value=_limit(env, "max_option_value", min_value=1),
            max_unit_price=_limit(env, "max_unit_price", min_value=1),
            max_metadata=_limit(env, "max_metadata", min_value=0),
            max_metadata_value=_limit(env, "max_metadata_value", min_value=1),
        ),
        cart_ttl_ms=1000 * env.integer("CARTSVC_CART_TTL", 30 * _DAY_S, min_value=1, max_value=max_cart_ttl_s),
        guest_ttl_ms=1000 * env.integer("CARTSVC_GUEST_TTL", 7 * _DAY_S, min_value=1, max_value=max_cart_ttl_s),
        max_idempotency_keys=env.integer("CARTSVC_IDEMPOTENCY_KEYS", 32, min_value=1, max_value=MAX_IDEMPOTENCY_KEYS),
        idempotency_ttl_ms=1000
        * env.integer("CARTSVC_IDEMPOTENCY_TTL", _DAY_S, min_value=1, max_value=max_idempotency_ttl_s),
    )


def _limit(env: EnvReader, name: str, *, min_value: int) -> int:
    default: int = getattr(Limits(), name)
    max_value: int = getattr(MAX_LIMITS, name)
    return env.integer(f"CARTSVC_{name.upper()}", default, min_value=min_value, max_value=max_value)


def _auth(env: EnvReader) -> AuthConfig | None:
    """Read the settings of authentication, which are checked together; their faults show no value."""
    values = {name: env.text(f"CARTSVC_{name.upper()}", None) for name in _AUTH_SETTINGS}
    mode = env.choice("CARTSVC_AUTH", None, ("none", "jwt"))
    if "CARTSVC_AUTH" not in env.environ and (names := _auth_names(env.environ)):
        # A forgotten CARTSVC_AUTH=jwt would leave every cart open to every client.
        env.faults.append(
            f"CARTSVC_AUTH: must be set together with {', '.join(names)}: to jwt, or to none if every client may "
            "read and change every cart"
        )
    if mode != "jwt":
        return None
    url = values["jwt_jwks_url"]
    if url is not None and (fault := _wrapping(url)):
        env.faults.append(f"CARTSVC_JWT_JWKS_URL: {fault}")
        url = _unwrapped(url)
    try:
        return load_auth_config(
            key=values["jwt_key"],
            jwks_url=url,
            algorithms=values["jwt_algorithms"],
            issuer=values["jwt_issuer"],
            audience=values["jwt_audience"],
            guest_key=values["guest_key"],
        )
    except SettingsError as error:
        env.faults += error.faults
        return None


# ---- values: each function returns what the text of a setting means, or raises ValueError with the fault ----


def _store_config(url: str) -> StoreConfig:
    if fault := _wrapping(url):
        raise ValueError(fault)
    return parse_store_url(url)


def _key_prefix(text: str) -> str:
    check_key_prefix(text)
    return text


def _rates(text: str) -> str:
    from limits import parse_many  # noqa: PLC0415 - it takes 30 ms, and most services have no limit

    try:
        rates = parse_many(text)
    except ValueError:
        rates = []
    if not rates or not all(rate.amount and rate.get_expiry() <= _YEAR_S for rate in rates):
        raise ValueError("must be a rate such as 100/minute, or several separated by ;")
    return text


def _wrapping(url: str) -> str | None:
    """Return the fault of a URL with quotes or blanks around it, without the URL; None when it has neither.

    Docker's --env-file keeps quotes, and a mounted secret often ends with a line break. The value may hold a password,
    so it is not shown, and the fault has to name them.
    """
    if url != url.strip():
        return "must have no blanks or line breaks around it"
    if url != _unwrapped(url):
        return "must have no quotation marks around it"
    return None


def _unwrapped(url: str) -> str:
    return url.strip().strip(_QUOTES).strip()


def _host(text: str) -> str:
    with suppress(ValueError):
        if "%" not in text and ipaddress.ip_address(text):
            return text
    raise ValueError("must be an IP address such as 127.0.0.1 or ::")


def _collector(url: str) -> str | None:
    """Return the URL, whose path the SDK completes; None if it is empty, which OpenTelemetry takes for unset."""
    if not url:
        return None
    if not re.fullmatch(r"https?://[^\s/]\S*", url):
        raise ValueError("must be a URL such as http://collector:4318")
    if not all(map(_is_installed, _OTEL_PACKAGES)):
        raise ValueError("needs packages that are not installed: pip install -r requirements-otel.txt")
    return url


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of a package that contains this one
        return False


def _origins(text: str) -> tuple[str, ...]:
    return tuple([_origin(each) for each in _split_list(text)])


def _origin(text: str) -> str:
    """Return the origin as a browser writes it in ``Origin``, because the two are compared as texts."""
    if text == "*":
        return text
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise ValueError(_NO_ORIGIN)
    scheme, host, port = match[1], match[2].lower(), int(match[3] or _DEFAULT_PORTS[match[1]])
    if not 0 < port <= _MAX_PORT:
        raise ValueError(_NO_ORIGIN)
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            raise ValueError(_NO_ORIGIN) from None
    return f"{scheme}://{host}" if port == _DEFAULT_PORTS[scheme] else f"{scheme}://{host}:{port}"


def _header_names(text: str) -> tuple[str, ...]:
    names = _split_list(text)
    # In a list of allowed headers * is no wildcard, though it is a token.
    if not all(_HEADER_NAME.fullmatch(name) and name != "*" for name in names):
        raise ValueError("must be names of headers such as X-Session, separated by commas")
    return names


def _split_list(text: str) -> tuple[str, ...]:
    return tuple([each.strip() for each in text.split(",")]) if text.strip() else ()


# ---- warnings ----


def _auth_names(environ: Mapping[str, str]) -> list[str]:
    """Return what is set of tokens and their keys, misspelt names included, because they were meant to protect."""
    return sorted(name for name in environ if name.startswith(("CARTSVC_JWT_", "CARTSVC_GUEST_KEY")))


def _warnings(env: EnvReader) -> Iterator[str]:
    if env.environ.get("CARTSVC_AUTH") == "none" and (ignored := _auth_names(env.environ)):
        yield f"CARTSVC_AUTH=none ignores {', '.join(ignored)}: no token is checked or issued"
    for name in sorted(env.environ):
        meant = name == "CARTSVC_PORT" and env.environ[name].isdigit()  # Kubernetes has tcp://... there
        if name.startswith("CARTSVC_") and name not in env.names and (meant or not _KUBERNETES.fullmatch(name)):
            bare = name.removeprefix("CARTSVC_")  # PORT and the few others that have no prefix
            nearest = bare if bare in env.names else difflib.get_close_matches(name, env.names, n=1, cutoff=0)[0]
            yield f"{name} is not a setting of cartsvc and has no effect; the nearest one is {nearest}"
