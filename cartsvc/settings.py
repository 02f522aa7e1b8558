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

from cartsvc.cart import WIDEST, Limits
from cartsvc.cores import usable_cores
from cartsvc.errors import SettingsError
from cartsvc.keys import AuthConfig, AuthFaults, configure
from cartsvc.record import CART_LIFE, KEY_LIFE, MAX_KEYS, Policy
from cartsvc.stores.urls import KEY_PREFIX, MemoryPlace, Place, check_key_prefix, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_DAY = 86_400  # seconds
_YEAR = 366 * _DAY
_SPARE_READERS = 126
_KIB, _MIB = 2**10, 2**20
_OF_AUTH = ("jwt_key", "jwt_jwks_url", "jwt_algorithms", "jwt_issuer", "jwt_audience", "guest_key")
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
    store: Place
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
    def processes(self) -> int:
        """How many workers serve, unless the command line says otherwise: a core each, where they share their carts."""
        return self.workers or (1 if isinstance(self.store, MemoryPlace) else usable_cores())

    @property
    def readers(self) -> int:
        """How many threads may read the store at once, with room for commands and for workers being replaced."""
        return 2 * self.processes * max(self.threads, 1) + _SPARE_READERS

    @classmethod
    def from_env(cls) -> Settings:
        """Read and check the environment. Raises SettingsError, which names every fault at once."""
        env = Env(eager=False)
        faults: list[str] = []
        settings = cls(
            host=env.str("HOST", "0.0.0.0", validate=_check_host),  # noqa: S104 - other containers connect by address
            port=_whole(env, "PORT", 8080, least=1, most=_MAX_PORT),
            workers=_whole(env, "WEB_CONCURRENCY", None, least=1, most=1024),
            threads=_whole(env, "CARTSVC_THREADS", 0, least=0, most=1024),
            keep_alive=_whole(env, "CARTSVC_KEEP_ALIVE", 5, least=1, most=3600),
            store=_place(env.str("CARTSVC_STORE_URL", "memory://", validate=_place)),
            store_timeout=_fraction(env, "CARTSVC_STORE_TIMEOUT", 2.0, least=0.1, most=60.0),
            key_prefix=env.str("CARTSVC_KEY_PREFIX", KEY_PREFIX, validate=_check_key_prefix),
            memory_limit=_whole(env, "CARTSVC_MEMORY_LIMIT", 512 * _MIB, least=_MIB, most=2**50),
            max_body=_whole(env, "CARTSVC_MAX_BODY", 128 * _KIB, least=_KIB, most=16 * _MIB),
            policy=_policy(env),
            auth=_auth(env, faults),
            rate_limit=env.str("CARTSVC_RATE_LIMIT", None, validate=_check_rates),
            trusted_proxies=_whole(env, "CARTSVC_TRUSTED_PROXIES", 0, least=0, most=10),
            cors_origins=_origins(env.str("CARTSVC_CORS_ORIGINS", "", validate=_origins)),
            cors_headers=_listed(env.str("CARTSVC_CORS_HEADERS", "", validate=_check_headers) or ""),
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
            max_quantity=_limit(env, "max_quantity", least=1),
            max_items=_limit(env, "max_items", least=1),
            max_cart_bytes=_limit(env, "max_cart_bytes", least=_KIB),
            max_options=_limit(env, "max_options", least=0),
            max_option_name=_limit(env, "max_option_name", least=1),
            max_option_value=_limit(env, "max_option_value", least=1),
            max_unit_price=_limit(env, "max_unit_price", least=1),
        ),
        cart_ttl=_seconds(env, "CARTSVC_CART_TTL", 30 * _DAY, most=CART_LIFE[1] // 1000),
        guest_ttl=_seconds(env, "CARTSVC_GUEST_TTL", 7 * _DAY, most=CART_LIFE[1] // 1000),
        max_keys=_whole(env, "CARTSVC_IDEMPOTENCY_KEYS", 32, least=1, most=MAX_KEYS),
        key_ttl=_seconds(env, "CARTSVC_IDEMPOTENCY_TTL", _DAY, most=KEY_LIFE[1] // 1000),
    )


def _auth(env: Env, faults: list[str]) -> AuthConfig | None:
    """What keys.py says of its settings, which belong together; its faults show no value, for some are secrets."""
    stated = {name: env.str(f"CARTSVC_{name.upper()}", None) for name in _OF_AUTH}
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
        return configure(
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


def _limit(env: Env, name: str, *, least: int) -> Any:  # noqa: ANN401 - an int; None for a fault
    return _whole(env, f"CARTSVC_{name.upper()}", getattr(Limits(), name), least=least, most=getattr(WIDEST, name))


def _seconds(env: Env, name: str, default: int, *, most: int) -> Any:  # noqa: ANN401 - an int; None for a fault
    value = _whole(env, name, default, least=1, most=most)
    return value if value is None else value * 1000


def _whole(env: Env, name: str, default: Any, *, least: int, most: int) -> Any:  # noqa: ANN401 - an int, or the default
    error = f"must be a whole number from {least} to {most}"
    # environs hands error_messages to marshmallow's field, though its types do not say so.
    said: dict[str, Any] = {"error_messages": {"invalid": error}}
    return env.int(name, default, validate=Range(least, most, error=error), **said)


def _fraction(env: Env, name: str, default: float, *, least: float, most: float) -> Any:  # noqa: ANN401 - as _whole
    error = f"must be a number from {least:g} to {most:g}"
    said: dict[str, Any] = {"error_messages": {"invalid": error, "special": error}}
    return env.float(name, default, validate=Range(least, most, error=error), **said)


def _place(url: str | None) -> Any:  # noqa: ANN401 - a Place; None for a fault
    if url is None:
        return None
    if fault := _wrapping(url):
        raise ValidationError(fault)
    try:
        return parse(url)
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
    if not rates or not all(rate.amount and rate.get_expiry() <= _YEAR for rate in rates):
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
    return tuple([_origin(each) for each in _listed(text or "")])


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
    if not all(_HEADER_NAME.fullmatch(name) and name != "*" for name in _listed(text)):
        message = "must be names of headers such as X-Session, separated by commas"
        raise ValidationError(message)


def _listed(text: str) -> tuple[str, ...]:
    return tuple([each.strip() for each in text.split(",")]) if text.strip() else ()


def _faults(messages_of: Any) -> Iterator[str]:  # noqa: ANN401 - a dict, whatever environs' types say
    for name, messages in sorted(messages_of.items()):
        told = dict.fromkeys(_texts(messages))
        # This goes into logs, and a URL may hold a password, also one that was given to another setting.
        value = "..." if name == "CARTSVC_STORE_URL" or "@" in os.environ[name] else repr(os.environ[name])
        yield f"{name}={value}: {'; '.join(told)}"


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
