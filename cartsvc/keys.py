"""The keys that tokens are checked and signed with, and the settings that state them: unfit ones cannot be made."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HMAC = {"HS256": 32, "HS384": 48, "HS512": 64}  # the least bytes of a secret (RFC 7518, section 3.2)
PUBLIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "ES256K", "EdDSA")
# What guests' tokens say of themselves, and no issuer's may.
GUEST_ISSUER = "urn:cartsvc"
GUEST_AUDIENCE = "urn:cartsvc:guest"

_GUEST_ALGORITHM = "HS256"
_URL = re.compile(r"[\x21-\x7e]+")
_PEM, _PRIVATE = "-----BEGIN ", "PRIVATE KEY-----"
_JWS = jwt.PyJWS()


@dataclass(frozen=True, slots=True)
class Key:
    """One key for one algorithm, and for no other: an unfit pair cannot be made (RFC 8725, sections 3.1 and 3.5).

    ``material`` is bytes for HMAC, else a public key of the cryptography package; it is never shown. Raises ValueError.
    """

    algorithm: str
    material: Any = field(repr=False)
    kid: str | None = None

    def __post_init__(self) -> None:
        if self.algorithm not in HMAC and self.algorithm not in PUBLIC:
            raise ValueError("no such algorithm")
        algorithm = _JWS.get_algorithm_by_name(self.algorithm)
        try:
            # It would also read a PEM text, and take a private key.
            fits = algorithm.prepare_key(self.material) is self.material
        except (jwt.PyJWTError, TypeError, ValueError):
            fits = False
        if not fits or hasattr(self.material, "private_bytes"):
            raise ValueError("a key of the wrong kind")
        if algorithm.check_key_length(self.material):
            raise ValueError("a key that is too short")


class Keys(Protocol):
    """Where the issuer's keys come from."""

    def find(self, *, algorithm: str, kid: str | None) -> Iterable[Key]:
        """Those that a token with this header may be signed with. Raises KeysAway."""


class FixedKeys:
    """The keys that the settings state; a token's ``kid`` is only a hint, and they have none."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = keys

    def find(self, *, algorithm: str, kid: str | None) -> Iterable[Key]:  # noqa: ARG002 - Keys' signature
        """All keys for this algorithm."""
        return [key for key in self._keys if key.algorithm == algorithm]


# ---- settings ----


class AuthFaults(ValueError):
    """Settings that are missing, weak or contradictory. ``faults`` has a line for each; none shows a value."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """Settings that were checked. Either ``keys`` or ``jwks_url`` is there; the first guest key signs."""

    keys: tuple[Key, ...]
    jwks_url: str | None
    algorithms: tuple[str, ...]
    issuer: str | None
    audience: str | None
    guest_keys: tuple[Key, ...]


def configure(
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
    named = _algorithms(algorithms, faults)
    hmac = named[0] in HMAC if named else jwks_url is None and key is not None and _PEM not in key
    named = named or (("HS256",) if hmac else ("RS256", "ES256", "EdDSA"))
    keys = () if key is None else _keys("CARTSVC_JWT_KEY", key, named, faults)
    if jwks_url is not None:
        _check_url(jwks_url, faults)
        if hmac:
            faults.append("CARTSVC_JWT_ALGORITHMS: a key set (CARTSVC_JWT_JWKS_URL) is for public keys, not for HMAC")
    if (key is None) == (jwks_url is None):
        faults.append("CARTSVC_JWT_KEY: either this or CARTSVC_JWT_JWKS_URL must be set, and not both")
    _check_name("CARTSVC_JWT_ISSUER", issuer, faults)
    _check_name("CARTSVC_JWT_AUDIENCE", audience, faults)
    guest_keys = () if guest_key is None else _keys("CARTSVC_GUEST_KEY", guest_key, (_GUEST_ALGORITHM,), faults)
    if guest_key is None:
        faults.append("CARTSVC_GUEST_KEY: must be set, since guests' tokens are signed with it")
    if faults:
        raise AuthFaults(faults)
    return AuthConfig(keys, jwks_url, named, issuer, audience, guest_keys)


def _algorithms(text: str | None, faults: list[str]) -> tuple[str, ...]:
    named = [] if text is None else [each.strip() for each in text.split(",")]
    if any(each.lower() == "none" for each in named):
        faults.append("CARTSVC_JWT_ALGORITHMS: none is no algorithm: whoever likes could write such tokens")
    elif not {*named} <= {*HMAC, *PUBLIC}:
        faults.append(f"CARTSVC_JWT_ALGORITHMS: must be some of {', '.join((*HMAC, *PUBLIC))}, separated by commas")
    elif len({each in HMAC for each in named}) > 1:
        faults.append("CARTSVC_JWT_ALGORITHMS: HMAC (HS...) and public-key algorithms must not be mixed")
    else:
        return tuple(dict.fromkeys(named))
    return ()


def _keys(setting: str, text: str, algorithms: Sequence[str], faults: list[str]) -> tuple[Key, ...]:
    found: list[Key] = []
    for number, each in enumerate(text.split(","), 1):
        try:
            found += _key(each.strip(), algorithms)
        except ValueError as error:
            faults.append(f"{setting}: key {number} {error}")
    return tuple(found)


def _key(text: str, algorithms: Sequence[str]) -> list[Key]:
    """The key of this text for each algorithm that it fits. The message of a ValueError never holds the text."""
    pem = _PEM in text
    if pem and _PRIVATE in text:
        raise ValueError("is a private key, which stays with the issuer; the public one belongs here")
    if algorithms[0] in HMAC:
        least = max(HMAC[each] for each in algorithms)
        # Bytes that are not UTF-8 come out of the environment as lone surrogates.
        secret = text.encode(errors="surrogateescape")
        if pem:
            raise ValueError(f"is a PEM key, and {algorithms[0]} needs a secret")
        if len(secret) < least:
            raise ValueError(f"is shorter than the {least} bytes that are safe")
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


def _fitting(material: object, algorithms: Iterable[str]) -> list[Key]:
    return [Key(each, material) for each in algorithms if _fits(each, material)]


def _fits(algorithm: str, material: object) -> bool:
    try:
        Key(algorithm, material)
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
