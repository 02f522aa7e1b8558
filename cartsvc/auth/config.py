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

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


# What guests' tokens say of themselves, and no issuer's may.
GUEST_ISSUER = "urn:cartsvc"


GUEST_AUDIENCE = "urn:cartsvc:guest"


_GUEST_ALGORITHM = "HS256"


_URL = re.compile(r"[\x21-\x7e]+")


_PEM, _PRIVATE = "-----BEGIN ", "PRIVATE KEY-----"


class AuthFaults(ValueError):
    """Settings that are missing, weak or contradictory. ``faults`` has a line for each; none shows a value."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """Settings that were checked. Either ``keys`` or ``jwks_url`` is there; the first guest key signs."""

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
    """Check the settings as the environment states them; None for one that is not set. Raises AuthFaults.

    Without ``algorithms`` there is one for each kind of key: HS256, or RS256, ES256 and EdDSA.
    """
    faults: list[str] = []
    named = _parse_algorithms(algorithms, faults)
    hmac = named[0] in HMAC_MIN_BYTES if named else jwks_url is None and key is not None and _PEM not in key
    named = named or (("HS256",) if hmac else ("RS256", "ES256", "EdDSA"))
    keys = () if key is None else _parse_keys("CARTSVC_JWT_KEY", key, named, faults)
    if jwks_url is not None:
        _check_url(jwks_url, faults)
        if hmac:
            faults.append("CARTSVC_JWT_ALGORITHMS: a key set (CARTSVC_JWT_JWKS_URL) is for public keys, not for HMAC")
    if (key is None) == (jwks_url is None):
        faults.append("CARTSVC_JWT_KEY: either this or CARTSVC_JWT_JWKS_URL must be set, and not both")
    _check_name("CARTSVC_JWT_ISSUER", issuer, faults)
    _check_name("CARTSVC_JWT_AUDIENCE", audience, faults)
    guest_keys = () if guest_key is None else _parse_keys("CARTSVC_GUEST_KEY", guest_key, (_GUEST_ALGORITHM,), faults)
    if guest_key is None:
        faults.append("CARTSVC_GUEST_KEY: must be set, since guests' tokens are signed with it")
    if faults:
        raise AuthFaults(faults)
    return AuthConfig(keys, jwks_url, named, issuer, audience, guest_keys)


def _parse_algorithms(text: str | None, faults: list[str]) -> tuple[str, ...]:
    named = [] if text is None else [each.strip() for each in text.split(",")]
    if any(each.lower() == "none" for each in named):
        faults.append("CARTSVC_JWT_ALGORITHMS: 'none' is not allowed: anyone could forge tokens")
    elif not {*named} <= {*HMAC_MIN_BYTES, *PUBLIC_KEY_ALGORITHMS}:
        faults.append(
            f"CARTSVC_JWT_ALGORITHMS: must be some of {', '.join((*HMAC_MIN_BYTES, *PUBLIC_KEY_ALGORITHMS))}, "
            "separated by commas"
        )
    elif len({each in HMAC_MIN_BYTES for each in named}) > 1:
        faults.append("CARTSVC_JWT_ALGORITHMS: HMAC (HS...) and public-key algorithms must not be mixed")
    else:
        return tuple(dict.fromkeys(named))
    return ()


def _parse_keys(setting: str, text: str, algorithms: Sequence[str], faults: list[str]) -> tuple[JwtKey, ...]:
    found: list[JwtKey] = []
    for number, each in enumerate(text.split(","), 1):
        try:
            found += _parse_key(each.strip(), algorithms)
        except ValueError as error:
            faults.append(f"{setting}: key {number} {error}")
    return tuple(found)


def _parse_key(text: str, algorithms: Sequence[str]) -> list[JwtKey]:
    """The key of this text for each algorithm that it fits. The message of a ValueError never holds the text."""
    pem = _PEM in text
    if pem and _PRIVATE in text:
        raise ValueError("is a private key, which stays with the issuer; the public one belongs here")
    if algorithms[0] in HMAC_MIN_BYTES:
        min_bytes = max(HMAC_MIN_BYTES[each] for each in algorithms)
        # Bytes that are not UTF-8 come out of the environment as lone surrogates.
        secret = text.encode(errors="surrogateescape")
        if pem:
            raise ValueError(f"is a PEM key, and {algorithms[0]} needs a secret")
        if len(secret) < min_bytes:
            raise ValueError(f"is shorter than the {min_bytes} bytes that are safe")
        keys = _fitting(secret, algorithms)
        if not keys:
            raise ValueError("is a public key or a JSON Web Key in some form, not a secret")
        return keys
    if not pem:
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
        # A template that was not filled in must not mean: anybody's tokens.
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
        # RFC 7517, section 9.1: whoever can change the answer on its way could add a key of their own.
        faults.append("CARTSVC_JWT_JWKS_URL: must begin with https://, unless it stays on this machine")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
