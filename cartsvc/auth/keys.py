"""The keys that tokens are verified and signed with; an unfit key cannot be created."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import jwt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HMAC_MIN_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}  # minimum size of a secret (RFC 7518, section 3.2)

PUBLIC_KEY_ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "ES256K",
    "EdDSA",
)

_JWS = jwt.PyJWS()


@dataclass(frozen=True, slots=True)
class JwtKey:
    """A key for one algorithm only: an unfit pair cannot be created (RFC 8725, sections 3.1 and 3.5).

    ``material`` is bytes for HMAC, else a public key of the cryptography package; it is never shown. The
    constructor raises ValueError.
    """

    algorithm: str
    material: Any = field(repr=False)
    kid: str | None = None

    def __post_init__(self) -> None:
        if self.algorithm not in HMAC_MIN_BYTES and self.algorithm not in PUBLIC_KEY_ALGORITHMS:
            raise ValueError("no such algorithm")
        algorithm = _JWS.get_algorithm_by_name(self.algorithm)
        try:
            # prepare_key also parses PEM texts and accepts private keys, so it must return the key itself.
            fits = algorithm.prepare_key(self.material) is self.material
        except (jwt.PyJWTError, TypeError, ValueError):
            fits = False
        if not fits or hasattr(self.material, "private_bytes"):
            raise ValueError("a key of the wrong kind")
        if algorithm.check_key_length(self.material):
            raise ValueError("a key that is too short")


class KeySource(Protocol):
    """A source of the issuer's keys."""

    def find(self, *, algorithm: str, kid: str | None) -> Iterable[JwtKey]:
        """Return the keys that a token with this header may be signed with. Raise KeysUnavailable."""


class StaticKeys:
    """The keys in the settings. They have no ids, so the ``kid`` of a token is ignored."""

    def __init__(self, keys: Sequence[JwtKey]) -> None:
        self._keys = keys

    def find(self, *, algorithm: str, kid: str | None) -> Iterable[JwtKey]:  # noqa: ARG002 - the signature of KeySource
        """Return all keys for this algorithm."""
        return [key for key in self._keys if key.algorithm == algorithm]
