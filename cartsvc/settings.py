"""The settings: read from the environment, here and nowhere else, checked all at once, frozen."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from typing import TYPE_CHECKING, Any

import msgspec
from environs import Env, EnvValidationError, ValidationError
from marshmallow.validate import OneOf, Range
from msgspec import Struct

from cartsvc.auth.config import AuthConfig, AuthFaults, load_auth_config
from cartsvc.carts.cart import MAX_LIMITS, Limits
from cartsvc.carts.record import CART_TTL_RANGE_MS, IDEMPOTENCY_TTL_RANGE_MS, MAX_IDEMPOTENCY_KEYS, Policy
from cartsvc.errors import SettingsError
from cartsvc.server.cpus import available_cpus
from cartsvc.stores.urls import KEY_PREFIX, MemoryConfig, StoreConfig, check_key_prefix, parse_store_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_DAY_S = 86_400  # seconds
_YEAR_S = 366 * _DAY_S
_SPARE_READERS = 126
_KIB, _MIB = 2**10, 2**20
_AUTH_SETTINGS = ("jwt_key", "jwt_jwks_url", "jwt_algorithms", "jwt_issuer", "jwt_audience", "guest_key")
_LEVELS = ("debug", "info", "warning", "error", "critical")

_ORIGIN = re.compile(r"(https?)://((?:\*\.)?[A-Za-z0-9-][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_NO_ORIGIN = "must be * or origins such as https://shop.example or https://*.shop.example, separated by commas"
_MAX_PORT = 65_535
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token (RFC 9110, section 5.6.2)
_QUOTES = "\"'"

# Kubernetes tells every pod where a Service is in variables named after it. For a Service called "cartsvc" they begin
# as our settings do: CARTSVC_SERVICE_HOST, CARTSVC_PORT_8080_TCP_ADDR, ...
_KUBERNETES = re.compile(r"CARTSVC_(.+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


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
    auth: AuthConfig | None  # None: nobody is asked who they are
    rate_limit: str | None
    trusted_proxies: int
    cors_origins: tuple[str, ...]  # as a browser writes them; https://*.example stands for one label before .example
    cors_headers: tuple[str, ...]
    log_level: str
    warnings: tuple[str, ...]

    @property
    def worker_count(self) -> int:
        """How many workers serve, unless the command line says otherwise: a core each, where they share their carts."""
        return self.workers or (1 if isinstance(self.store, MemoryConfig) else available_cpus())

    @property
    def max_readers(self) -> int:
        """How many threads may read the store at once, with room for commands and for workers being replaced."""
        return 2 * self.worker_count * max(self.threads, 1) + _SPARE_READERS

    @classmethod
    def from_env(cls) -> Settings:
        """Read and check the environment. Raises SettingsError, which names every fault at once."""
        env = Env(eager=False)
        faults: list[str] = []
        settings = cls(
            host=env.str("HOST", "0.0.0.0", validate=_check_host),  # noqa: S104 - other containers connect by address
            port=_integer(env, "PORT", 8080, min_value=1, max_value=_MAX_PORT),
            workers=_integer(env, "WEB_CONCURRENCY", None, min_value=1, max_value=1024),
            threads=_integer(env, "CARTSVC_THREADS", 0, min_value=0, max_value=1024),
            keep_alive=_integer(env, "CARTSVC_KEEP_ALIVE", 5, min_value=1, max_value=3600),
            store=_store_config(env.str("CARTSVC_STORE_URL", "memory://", validate=_store_config)),
            store_timeout=_number(env, "CARTSVC_STORE_TIMEOUT", 2.0, min_value=0.1, max_value=60.0),
            key_prefix=env.str("CARTSVC_KEY_PREFIX", KEY_PREFIX, validate=_check_key_prefix),
            memory_limit=_integer(env, "CARTSVC_MEMORY_LIMIT", 512 * _MIB, min_value=_MIB, max_value=2**50),
            max_body=_integer(env, "CARTSVC_MAX_BODY", 128 * _KIB, min_value=_KIB, max_value=16 * _MIB),
            policy=_policy(env),
            auth=_auth(env, faults),
            rate_limit=env.str("CARTSVC_RATE_LIMIT", None, validate=_check_rates),
            trusted_proxies=_integer(env, "CARTSVC_TRUSTED_PROXIES", 0, min_value=0, max_value=10),
            cors_origins=_origins(env.str("CARTSVC_CORS_ORIGINS", "", validate=_origins)),
            cors_headers=_split_list(env.str("CARTSVC_CORS_HEADERS", "", validate=_check_headers) or ""),
            log_level=(env.str("CARTSVC_LOG_LEVEL", "info", validate=_check_level) or "").lower(),
            warnings=(),
        )
        try:
            env.seal()
        except EnvValidationError as error:
            faults += _faults(error.error_messages)
        if faults:
            raise SettingsError(sorted(faults))
        return msgspec.structs.replace(settings, warnings=tuple(_warnings(env.dump(), os.environ)))


def _policy(env: Env) -> Policy:
    return Policy(
        limits=Limits(
            max_quantity=_limit(env, "max_quantity", min_value=1),
            max_items=_limit(env, "max_items", min_value=1),
            max_cart_bytes=_limit(env, "max_cart_bytes", min_value=_KIB),
            max_options=_limit(env, "max_options", min_value=0),
            max_option_name=_limit(env, "max_option_name", min_value=1),
            max_option_value=_limit(env, "max_option_value", min_value=1),
            max_unit_price=_limit(env, "max_unit_price", min_value=1),
        ),
        cart_ttl_ms=_milliseconds(env, "CARTSVC_CART_TTL", 30 * _DAY_S, max_value=CART_TTL_RANGE_MS[1] // 1000),
        guest_ttl_ms=_milliseconds(env, "CARTSVC_GUEST_TTL", 7 * _DAY_S, max_value=CART_TTL_RANGE_MS[1] // 1000),
        max_idempotency_keys=_integer(env, "CARTSVC_IDEMPOTENCY_KEYS", 32, min_value=1, max_value=MAX_IDEMPOTENCY_KEYS),
        idempotency_ttl_ms=_milliseconds(
            env, "CARTSVC_IDEMPOTENCY_TTL", _DAY_S, max_value=IDEMPOTENCY_TTL_RANGE_MS[1] // 1000
        ),
    )


def _auth(env: Env, faults: list[str]) -> AuthConfig | None:
    """What keys.py says of its settings, which belong together; its faults show no value, for some are secrets."""
    stated = {name: env.str(f"CARTSVC_{name.upper()}", None) for name in _AUTH_SETTINGS}
    mode = env.str("CARTSVC_AUTH", None, validate=OneOf(("none", "jwt"), error="must be one of {choices}"))
    if mode is None and "CARTSVC_AUTH" not in os.environ and (names := _auth_names(os.environ)):
        # A forgotten CARTSVC_AUTH=jwt would leave every cart open to every client.
        faults.append(
            f"CARTSVC_AUTH: must be set beside {', '.join(names)}: to jwt, or to none if every client may read and "
            "change every cart"
        )
    if mode != "jwt":
        return None
    url = stated["jwt_jwks_url"]
    if url is not None and (fault := _wrapping(url)):
        faults.append(f"CARTSVC_JWT_JWKS_URL: {fault}")
        url = _unwrapped(url)
    try:
        return load_auth_config(
            key=stated["jwt_key"],
            jwks_url=url,
            algorithms=stated["jwt_algorithms"],
            issuer=stated["jwt_issuer"],
            audience=stated["jwt_audience"],
            guest_key=stated["guest_key"],
        )
    except AuthFaults as error:
        faults += error.faults
        return None


def _limit(env: Env, name: str, *, min_value: int) -> Any:  # noqa: ANN401 - an int; None for a fault
    return _integer(
        env,
        f"CARTSVC_{name.upper()}",
        getattr(Limits(), name),
        min_value=min_value,
        max_value=getattr(MAX_LIMITS, name),
    )


def _milliseconds(env: Env, name: str, default: int, *, max_value: int) -> Any:  # noqa: ANN401 - an int; None for a fault
    value = _integer(env, name, default, min_value=1, max_value=max_value)
    return value if value is None else value * 1000


def _integer(env: Env, name: str, default: Any, *, min_value: int, max_value: int) -> Any:  # noqa: ANN401 - an int, or the default
    error = f"must be a whole number from {min_value} to {max_value}"
    # environs hands error_messages to marshmallow's field, though its types do not say so.
    options: dict[str, Any] = {"error_messages": {"invalid": error}}
    return env.int(name, default, validate=Range(min_value, max_value, error=error), **options)


def _number(env: Env, name: str, default: float, *, min_value: float, max_value: float) -> Any:  # noqa: ANN401 - as _integer
    error = f"must be a number from {min_value:g} to {max_value:g}"
    options: dict[str, Any] = {"error_messages": {"invalid": error, "special": error}}
    return env.float(name, default, validate=Range(min_value, max_value, error=error), **options)


def _store_config(url: str | None) -> Any:  # noqa: ANN401 - a StoreConfig; None for a fault
    if url is None:
        return None
    if fault := _wrapping(url):
        raise ValidationError(fault)
    try:
        return parse_store_url(url)
    except ValueError as error:
        raise ValidationError(str(error)) from None


def _check_key_prefix(text: str) -> None:
    try:
        check_key_prefix(text)
    except ValueError as error:
        raise ValidationError(str(error)) from None


def _check_rates(text: str | None) -> None:
    if text is None:
        return
    from limits import parse_many  # noqa: PLC0415 - it takes 30 ms, and most have no limit

    try:
        rates = parse_many(text)
    except ValueError:
        rates = []
    if not rates or not all(rate.amount and rate.get_expiry() <= _YEAR_S for rate in rates):
        message = "must be a rate such as 100/minute, or several separated by ;"
        raise ValidationError(message)


def _wrapping(url: str) -> str | None:
    """Return the fault of a URL with quotes or blanks around it, without the URL; None when it has neither.

    Docker's --env-file keeps quotes, and a mounted secret often ends with a line break. The value is not shown, because
    it may hold a password, so the fault has to name them.
    """
    if url != url.strip():
        return "must have no blanks or line breaks around it"
    if url != _unwrapped(url):
        return "must have no quotation marks around it"
    return None


def _unwrapped(url: str) -> str:
    return url.strip().strip(_QUOTES).strip()


def _check_host(text: str) -> None:
    try:
        if "%" not in text and ipaddress.ip_address(text):
            return
    except ValueError:
        pass
    message = "must be an IP address such as 127.0.0.1 or ::"
    raise ValidationError(message)


def _check_level(text: str) -> None:
    if text.lower() not in _LEVELS:
        message = f"must be one of {', '.join(_LEVELS)}"
        raise ValidationError(message)


def _origins(text: str | None) -> tuple[str, ...]:
    return tuple([_origin(each) for each in _split_list(text or "")])


def _origin(text: str) -> str:
    """Return the origin as a browser writes it in ``Origin``, or it would never match. Raises ValidationError."""
    if text == "*":
        return text
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise ValidationError(_NO_ORIGIN)
    scheme, host, port = match[1], match[2].lower(), int(match[3] or _DEFAULT_PORTS[match[1]])
    if not 0 < port <= _MAX_PORT:
        raise ValidationError(_NO_ORIGIN)
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            raise ValidationError(_NO_ORIGIN) from None
    return f"{scheme}://{host}" if port == _DEFAULT_PORTS[scheme] else f"{scheme}://{host}:{port}"


def _check_headers(text: str) -> None:
    # In a list of allowed headers * is no wildcard, though it is a token.
    if not all(_HEADER_NAME.fullmatch(name) and name != "*" for name in _split_list(text)):
        message = "must be names of headers such as X-Session, separated by commas"
        raise ValidationError(message)


def _split_list(text: str) -> tuple[str, ...]:
    return tuple([each.strip() for each in text.split(",")]) if text.strip() else ()


def _faults(messages_of: Any) -> Iterator[str]:  # noqa: ANN401 - a dict, whatever environs' types say
    for name, messages in sorted(messages_of.items()):
        lines = dict.fromkeys(_texts(messages))
        # This goes into logs, and a URL may hold a password, also one that was given to another setting.
        value = "..." if name == "CARTSVC_STORE_URL" or "@" in os.environ[name] else repr(os.environ[name])
        yield f"{name}={value}: {'; '.join(lines)}"


def _texts(messages: Any) -> Iterator[str]:  # noqa: ANN401 - marshmallow nests lists and dicts of texts
    if isinstance(messages, str):
        yield messages
    else:
        for each in messages.values() if isinstance(messages, dict) else messages:
            yield from _texts(each)


def _auth_names(environ: Mapping[str, str]) -> list[str]:
    """Return what is set of tokens and their keys, misspelt names included, because they were meant to protect."""
    return sorted(name for name in environ if name.startswith(("CARTSVC_JWT_", "CARTSVC_GUEST_KEY")))


def _warnings(known: Iterable[str], environ: Mapping[str, str]) -> Iterator[str]:
    names = list(known)
    if environ.get("CARTSVC_AUTH") == "none" and (ignored := _auth_names(environ)):
        yield f"CARTSVC_AUTH=none ignores {', '.join(ignored)}: no token is checked or issued"
    for name in sorted(environ):
        meant = name == "CARTSVC_PORT" and environ[name].isdigit()  # Kubernetes has tcp://... there
        if name.startswith("CARTSVC_") and name not in names and (meant or not _KUBERNETES.fullmatch(name)):
            bare = name.removeprefix("CARTSVC_")  # PORT and the few others that have no prefix
            nearest = bare if bare in names else difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
            yield f"{name} is not a setting of cartsvc and has no effect; the nearest one is {nearest}"
