"""Verify tokens, identify callers, and decide which carts a caller may access.

Tokens are JSON Web Tokens (RFC 7519), sent as in RFC 6750 and checked as RFC 8725 recommends. A shop's issuer issues
the tokens of users and services; this service issues those of guests. The two kinds differ in type, issuer and
audience, so neither is accepted as the other, whatever the keys are.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jwt
from jwt.exceptions import InvalidSubjectError

from cartsvc.auth.config import GUEST_AUDIENCE, GUEST_ISSUER
from cartsvc.carts.record import GUEST_PREFIX
from cartsvc.carts.validation import check_user_id
from cartsvc.errors import Forbidden, InvalidRequest, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jwt.types import Options

    from cartsvc.auth.config import AuthConfig
    from cartsvc.auth.keys import JwtKey, KeySource

_ALL_CARTS = "carts:all"
_LEEWAY_S = 10  # by which two clocks may differ
_MAX_TOKEN_LENGTH = 8192  # characters; headers are shorter, but a from_token in a body could be longer
_MAX_NUMERIC_DATE = 253_402_300_799  # the end of the year 9999; a larger number is most likely in milliseconds

# Logout tokens and proofs of possession by the same issuer are not access tokens (RFC 8725, section 3.11; RFC 9068).
_ACCESS_TOKEN_TYPES = (None, "jwt", "application/jwt", "at+jwt", "application/at+jwt")
_GUEST_TYPE = "cartsvc-guest+jwt"

_TOKEN = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")  # RFC 7515, section 7.1

_JWS = jwt.PyJWS()
# Times are checked here, with the clock that is passed in, and more strictly: PyJWT accepts "12" and true as times.
_OPTIONS: Options = {
    "require": ["exp", "sub"],
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "enforce_minimum_key_length": True,
}
_JWT = jwt.PyJWT(_OPTIONS)


class Caller(NamedTuple):
    """The identity of a request: a user of the shop, a guest, or a service with the scope carts:all."""

    user_id: str
    role: Literal["user", "guest", "service"]

    def may_access(self, user_id: str) -> bool:
        """Return whether the caller may read and change this user's cart."""
        return self.role == "service" or user_id == self.user_id


def parse_bearer(header: str | None) -> str | None:
    """Return the token in an Authorization header; None without one or for another scheme (RFC 6750, section 2.1).

    Raise Unauthorized with ``invalid_request`` when there is not exactly one word after the scheme.
    """
    scheme, _, rest = (header or "").strip(" ").partition(" ")
    if scheme.lower() != "bearer":
        return None
    token = rest.strip(" ")
    if not token or " " in token:
        raise Unauthorized("The Authorization header must be 'Bearer <token>'.", error="invalid_request")
    return token


class Auth:
    """Decides which carts a token grants access to. ``guest_ttl_ms`` and ``clock`` are in milliseconds."""

    def __init__(self, config: AuthConfig, *, keys: KeySource, guest_ttl_ms: int, clock: Callable[[], int]) -> None:
        self._config = config
        self._keys = keys
        self._guest_ttl_ms = guest_ttl_ms
        self._clock = clock

    def check(self, token: str | None, user_id: str) -> Caller:
        """Return the caller if it may access this user's cart. Raise Unauthorized, Forbidden, KeysUnavailable."""
        caller = self.identify(token)
        if not caller.may_access(user_id):
            raise Forbidden
        return caller

    def check_source(self, caller: Caller, user_id: str, token: str | None) -> None:
        """Check that a merge by this caller may consume this cart; ``token`` is its ``from_token``.

        Raise Forbidden, also for an invalid token, because a 401 would refer to the token of the request, which is
        valid. Raise KeysUnavailable.
        """
        if caller.may_access(user_id):
            return
        try:
            self.check(token, user_id)
        except Unauthorized:
            raise Forbidden from None

    def identify(self, token: str | None) -> Caller:
        """Return the caller that the token identifies. Raise Unauthorized, KeysUnavailable."""
        if token is None:
            raise Unauthorized("An access token is needed: Authorization: Bearer ...", error=None)
        parts = _TOKEN.fullmatch(token) if len(token) <= _MAX_TOKEN_LENGTH else None
        if parts is None:
            raise _invalid("Not a valid JWT.")
        header = _read_header(parts[1])
        return self._guest(token) if header.type == _GUEST_TYPE else self._user(token, header)

    def renewable_guest(self, token: str | None) -> str | None:
        """Return the guest whose token is to be renewed; None when the token is a user's, or none was sent.

        Raise Unauthorized, KeysUnavailable.
        """
        caller = None if token is None else self.identify(token)
        return caller.user_id if caller is not None and caller.role == "guest" else None

    def guest_token(self, user_id: str) -> str:
        """Return a token for this guest's cart only, which expires when a cart that is changed now expires."""
        now = self._clock()
        claims = {
            "iss": GUEST_ISSUER,
            "aud": GUEST_AUDIENCE,
            "sub": user_id,
            "iat": now // 1000,
            "exp": -(-(now + self._guest_ttl_ms) // 1000),
        }
        key = self._config.guest_keys[0]
        return _JWT.encode(claims, key.material, key.algorithm, headers={"typ": _GUEST_TYPE})

    def _user(self, token: str, header: _Header) -> Caller:
        if header.type not in _ACCESS_TOKEN_TYPES:
            raise _invalid("Not an access token.")
        keys = self._keys.find(algorithm=header.algorithm, kid=header.kid)
        claims = self._claims(token, keys, issuer=self._config.issuer, audience=self._config.audience)
        # A service that is not listed in the audience must reject the token (RFC 7519, section 4.1.3). PyJWT accepts an
        # empty audience.
        has_other_audience = self._config.audience is None and "aud" in claims
        if has_other_audience or _is_for_guests(claims):
            raise _invalid("This token was issued for another service.")
        user_id = _subject(claims)
        if user_id.startswith(GUEST_PREFIX):
            raise _invalid("The sub claim is not a valid user_id.")
        return Caller(user_id, "service" if _has_all_carts_scope(claims) else "user")

    def _guest(self, token: str) -> Caller:
        keys = self._config.guest_keys
        claims = self._claims(token, keys, issuer=GUEST_ISSUER, audience=GUEST_AUDIENCE)
        user_id = _subject(claims)
        if not user_id.startswith(GUEST_PREFIX):
            raise _invalid("The sub claim is not a guest.")
        return Caller(user_id, "guest")

    def _claims(
        self, token: str, keys: Iterable[JwtKey], *, issuer: str | None, audience: str | None
    ) -> dict[str, Any]:
        for key in keys:
            try:
                claims = _JWT.decode(token, key.material, [key.algorithm], issuer=issuer, audience=audience)
            except jwt.InvalidSignatureError:
                continue
            except (jwt.InvalidIssuerError, jwt.InvalidAudienceError):
                raise _invalid("This token was issued for another service.") from None
            except jwt.MissingRequiredClaimError as error:
                raise _invalid(f"The {error.claim} claim is missing.") from None
            except InvalidSubjectError:
                raise _invalid("The sub claim must be a string.") from None
            except jwt.PyJWTError:
                raise _invalid("This token is malformed.") from None
            _check_times(claims, now=self._clock() / 1000)
            return claims
        raise _invalid("This token is not signed with a trusted key and algorithm.")


class _Header(NamedTuple):
    algorithm: str
    kid: str | None
    type: str | None


@lru_cache(maxsize=64)  # an issuer's header changes only with its key, and parsing it costs as much as an HMAC
def _read_header(segment: str) -> _Header:
    """Return the unverified header of a token (RFC 7515, section 4), which only selects among the configured keys.

    Keys and URLs in the header (jwk, jku, x5c, x5u) are ignored.
    """
    try:
        header = _JWS.get_unverified_header(f"{segment}..")
    except jwt.PyJWTError:
        raise _invalid("Not a valid JWT.") from None
    algorithm, type_ = header.get("alg"), header.get("typ")
    # No extension is supported, and a JWT must not have b64 (RFC 7515, section 4.1.11; RFC 7797).
    if not isinstance(algorithm, str) or not isinstance(type_, str | None) or {"crit", "b64"} & header.keys():
        raise _invalid("This token's header is malformed, or requires an unsupported extension.")
    return _Header(algorithm, header.get("kid"), None if type_ is None else type_.lower())


def _check_times(claims: dict[str, Any], *, now: float) -> None:
    times = dict(_times(claims))
    if times["exp"] <= now - _LEEWAY_S:
        raise _invalid("This token has expired.")
    if max(times.get("nbf", now), times.get("iat", now)) > now + _LEEWAY_S:
        raise _invalid("This token is not valid yet.")


def _times(claims: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name in ("exp", "nbf", "iat"):
        if name in claims:
            value = claims[name]
            # A NumericDate is a number (RFC 7519, section 2). NaN fails each comparison.
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_NUMERIC_DATE:
                raise _invalid(f"The {name} claim is not a NumericDate.")
            yield name, value


def _is_for_guests(claims: dict[str, Any]) -> bool:
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    return claims.get("iss") == GUEST_ISSUER or GUEST_AUDIENCE in named


def _subject(claims: dict[str, Any]) -> str:
    user_id: str = claims["sub"]
    try:
        check_user_id(user_id)
    except InvalidRequest:
        raise _invalid("The sub claim is not a valid user_id.") from None
    return user_id


def _has_all_carts_scope(claims: dict[str, Any]) -> bool:
    """Return whether ``scope`` contains carts:all (RFC 9068, RFC 8693). A vendor's ``scp`` grants nothing.

    Scopes are separated by spaces only (RFC 6749, section 3.3), not by all that Python treats as white space.
    """
    scope = claims.get("scope")
    return isinstance(scope, str) and _ALL_CARTS in scope.split(" ")


def _invalid(detail: str) -> Unauthorized:
    return Unauthorized(detail, error="invalid_token")
