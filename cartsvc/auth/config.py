"""The settings of authentication, checked together."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from cartsvc.auth.keys import HMAC_MIN_BYTES, PUBLIC_KEY_ALGORITHMS, JwtKey
from cartsvc.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# The iss and aud of guest tokens, which no token of the issuer may have.
GUEST_ISSUER = "urn:cartsvc"
GUEST_AUDIENCE = "urn:cartsvc:guest"

_GUEST_ALGORITHMS = ("HS256",)
_URL = re.compile(r"[\x21-\x7e]+")
_PEM, _PRIVATE = "-----BEGIN ", "PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """Settings that were checked. Either ``keys`` or ``jwks_url`` is set; the first guest key signs."""

    keys: tuple[JwtKey, ...]
    jwks_url: str | None
    algorithms: tuple[str, ...]
    issuer: str | None
    audience: str | None
    guest_keys: tuple[JwtKey, ...]


def load_auth_config(
    *,
    key: str | None,
    jwks_url: str | None,
    algorithms: str | None,
    issuer: str | None,
    audience: str | None,
    guest_key: str | None,
) -> AuthConfig:
    """Check the settings as the environment contains them; None for one that is not set.

    Without ``algorithms`` there is one for each kind of key: HS256, or RS256, ES256 and EdDSA. Raise SettingsError for
    settings that are missing, weak or contradictory; its faults show no value.
    """
    faults: list[str] = []
    accepted = _parse_algorithms(algorithms, faults) or _default_algorithms(key=key, jwks_url=jwks_url)
    uses_secrets = accepted[0] in HMAC_MIN_BYTES
    keys: tuple[JwtKey, ...] = ()
    if key is not None:
        parse = _parse_secret if uses_secrets else _parse_public_key
        keys = _parse_keys("CARTSVC_JWT_KEY", key, parse, accepted, faults=faults)
    if jwks_url is not None:
        _check_url(jwks_url, faults)
        if uses_secrets:
            faults.append("CARTSVC_JWT_ALGORITHMS: a key set (CARTSVC_JWT_JWKS_URL) is for public keys, not for HMAC")
    if (key is None) == (jwks_url is None):
        faults.append("CARTSVC_JWT_KEY: either this or CARTSVC_JWT_JWKS_URL must be set, and not both")
    _check_name("CARTSVC_JWT_ISSUER", issuer, faults)
    _check_name("CARTSVC_JWT_AUDIENCE", audience, faults)
    guest_keys: tuple[JwtKey, ...] = ()
    if guest_key is None:
        faults.append("CARTSVC_GUEST_KEY: must be set, since guests' tokens are signed with it")
    else:
        guest_keys = _parse_keys("CARTSVC_GUEST_KEY", guest_key, _parse_secret, _GUEST_ALGORITHMS, faults=faults)
    if faults:
        raise SettingsError(faults)
    return AuthConfig(keys, jwks_url, accepted, issuer, audience, guest_keys)


def _parse_algorithms(text: str | None, faults: list[str]) -> tuple[str, ...]:
    """Return the algorithms, all of them HMAC or none; nothing when they are not set or wrong."""
    names = [] if text is None else [each.strip() for each in text.split(",")]
    if any(each.lower() == "none" for each in names):
        faults.append("CARTSVC_JWT_ALGORITHMS: 'none' is not allowed: anyone could forge tokens")
    elif not {*names} <= {*HMAC_MIN_BYTES, *PUBLIC_KEY_ALGORITHMS}:
        faults.append(
            f"CARTSVC_JWT_ALGORITHMS: must be some of {', '.join((*HMAC_MIN_BYTES, *PUBLIC_KEY_ALGORITHMS))}, "
            "separated by commas"
        )
    elif len({each in HMAC_MIN_BYTES for each in names}) > 1:
        faults.append("CARTSVC_JWT_ALGORITHMS: HMAC (HS...) and public-key algorithms must not be mixed")
    else:
        return tuple(dict.fromkeys(names))
    return ()


def _default_algorithms(*, key: str | None, jwks_url: str | None) -> tuple[str, ...]:
    """Return the algorithms for the kind of key that is set: a secret, PEM keys or a key set."""
    is_secret = jwks_url is None and key is not None and _PEM not in key
    return ("HS256",) if is_secret else ("RS256", "ES256", "EdDSA")


# ---- keys: the message of a ValueError never contains the text of the key ----


def _parse_keys(
    setting: str,
    text: str,
    parse: Callable[[str, Sequence[str]], list[JwtKey]],
    algorithms: Sequence[str],
    *,
    faults: list[str],
) -> tuple[JwtKey, ...]:
    found: list[JwtKey] = []
    for number, each in enumerate(text.split(","), 1):
        try:
            found += parse(each.strip(), algorithms)
        except ValueError as error:
            faults.append(f"{setting}: key {number} {error}")
    return tuple(found)


def _parse_secret(text: str, algorithms: Sequence[str]) -> list[JwtKey]:
    """Return the secret as a key for each of these HMAC algorithms."""
    _reject_private_key(text)
    if _PEM in text:
        raise ValueError(f"is a PEM key, and {algorithms[0]} needs a secret")
    # Python decodes bytes of the environment that are not UTF-8 as lone surrogates.
    secret = text.encode(errors="surrogateescape")
    min_bytes = max(HMAC_MIN_BYTES[each] for each in algorithms)
    if len(secret) < min_bytes:
        raise ValueError(f"is shorter than the {min_bytes} bytes that are safe")
    keys = _fitting(secret, algorithms)
    if not keys:
        raise ValueError("is a public key or a JSON Web Key in some form, not a secret")
    return keys


def _parse_public_key(text: str, algorithms: Sequence[str]) -> list[JwtKey]:
    """Return the public key in PEM format as a key for each of the algorithms that it fits."""
    _reject_private_key(text)
    if _PEM not in text:
        raise ValueError(f"is not a PEM public key, which {algorithms[0]} needs")
    if text.count(_PEM) > 1:
        raise ValueError("has several PEM blocks; a comma belongs between two keys")
    try:
        # Where a variable cannot hold several lines, they are written with \n between them.
        public = load_pem_public_key(text.replace("\\n", "\n").encode(errors="surrogateescape"))
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is not a PEM public key that can be read") from None
    keys = _fitting(public, algorithms)
    if not keys:
        raise ValueError(f"fits none of {', '.join(algorithms)}, or is an RSA key of fewer than 2048 bits")
    return keys


def _reject_private_key(text: str) -> None:
    if _PEM in text and _PRIVATE in text:
        raise ValueError("is a private key, which stays with the issuer; the public one belongs here")


def _fitting(material: object, algorithms: Iterable[str]) -> list[JwtKey]:
    return [JwtKey(each, material) for each in algorithms if _fits(each, material)]


def _fits(algorithm: str, material: object) -> bool:
    try:
        JwtKey(algorithm, material)
    except ValueError:
        return False
    return True


def _check_name(setting: str, value: str | None, faults: list[str]) -> None:
    if value is not None and not value.strip():
        # An empty value is often a template that was not filled in, and must not accept the tokens of every issuer.
        faults.append(f"{setting}: must not be empty; leave it out when tokens have none")
    if value in {GUEST_ISSUER, GUEST_AUDIENCE}:
        faults.append(f"{setting}: {GUEST_ISSUER} and {GUEST_AUDIENCE} are for guests' tokens alone")


def _check_url(url: str, faults: list[str]) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or not _URL.fullmatch(url) or parts.scheme not in {"http", "https"}:
        faults.append("CARTSVC_JWT_JWKS_URL: must be a URL such as https://issuer.example/.well-known/jwks.json")
    elif parts.username is not None or parts.password is not None or parts.fragment:
        faults.append("CARTSVC_JWT_JWKS_URL: must have no user, password or fragment")
    elif parts.scheme == "http" and not _is_loopback(host):
        # Anyone who can change the response on its way could add a key (RFC 7517, section 9.1).
        faults.append("CARTSVC_JWT_JWKS_URL: must begin with https://, unless it stays on this machine")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
