"""Who is asking, and which carts they may touch: a token and a user_id in, a verdict out; keys and clock handed in.

Tokens are JSON Web Tokens (RFC 7519) that come as RFC 6750 says and are checked as RFC 8725 advises. A shop's issuer
makes those of users and services; this service makes those of guests. The two kinds differ in type, issuer and
audience, so that neither passes for the other, whatever the keys are.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jwt
from jwt.exceptions import InvalidSubjectError

from cartsvc.auth.config import GUEST_AUDIENCE, GUEST_ISSUER
from cartsvc.carts.cart import check_user_id
from cartsvc.carts.record import GUEST_PREFIX
from cartsvc.errors import Forbidden, InvalidRequest, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jwt.types import Options

    from cartsvc.auth.config import AuthConfig
    from cartsvc.auth.keys import JwtKey, KeySource

_ALL_CARTS = "carts:all"
_LEEWAY_S = 10  # seconds that two clocks may differ
_MAX_TOKEN_LENGTH = 8192  # characters; a header holds fewer, but a body could hold more
_MAX_NUMERIC_DATE = 253_402_300_799  # the end of the year 9999: later ones are milliseconds, taken for seconds

# A logout token or a proof of possession of the same issuer is no access token (RFC 8725, section 3.11; RFC 9068).
_ACCESS_TOKEN_TYPES = (None, "jwt", "application/jwt", "at+jwt", "application/at+jwt")
_GUEST_TYPE = "cartsvc-guest+jwt"

_TOKEN = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")  # RFC 7515, section 7.1

_JWS = jwt.PyJWS()
# The times are compared here, with the clock that was handed in, and stricter: PyJWT takes "12" and true for times.
_OPTIONS: Options = {
    "require": ["exp", "sub"],
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "enforce_minimum_key_length": True,
}
_JWT = jwt.PyJWT(_OPTIONS)


class Caller(NamedTuple):
    """Who is asking: a user of the shop, a guest, or a service that has the scope carts:all."""

    user_id: str
    role: Literal["user", "guest", "service"]

    def may_access(self, user_id: str) -> bool:
        """May they read and change this user's cart?"""
        return self.role == "service" or user_id == self.user_id


def parse_bearer(header: str | None) -> str | None:
    """The token in an Authorization header; None when there is none, or another scheme (RFC 6750, section 2.1).

    Raises Unauthorized with ``invalid_request`` when there is not exactly one word after the scheme.
    """
    scheme, _, rest = (header or "").strip(" ").partition(" ")
    if scheme.lower() != "bearer":
        return None
    token = rest.strip(" ")
    if not token or " " in token:
        raise Unauthorized("The Authorization header must be 'Bearer <token>'.", error="invalid_request")
    return token


class Auth:
    """Decides who may touch which cart. ``guest_ttl_ms`` and ``clock`` are in milliseconds (since the epoch)."""

    def __init__(self, config: AuthConfig, *, keys: KeySource, guest_ttl_ms: int, clock: Callable[[], int]) -> None:
        self._config = config
        self._keys = keys
        self._guest_ttl_ms = guest_ttl_ms
        self._clock = clock

    def check(self, token: str | None, user_id: str) -> Caller:
        """Who is asking, when they may touch this user's cart. Raises Unauthorized, Forbidden, KeysUnavailable."""
        caller = self.identify(token)
        if not caller.may_access(user_id):
            raise Forbidden
        return caller

    def check_source(self, caller: Caller, user_id: str, token: str | None) -> None:
        """Return when a merge by this caller may consume this cart; ``token`` is its ``from_token``.

        Raises Forbidden, also for a token that is no good: the request itself has told who is asking. And
        KeysUnavailable.
        """
        if caller.may_access(user_id):
            return
        try:
            self.check(token, user_id)
        except Unauthorized:
            raise Forbidden from None

    def identify(self, token: str | None) -> Caller:
        """Who is asking. Raises Unauthorized, KeysUnavailable."""
        if token is None:
            raise Unauthorized("An access token is needed: Authorization: Bearer ...", error=None)
        parts = _TOKEN.fullmatch(token) if len(token) <= _MAX_TOKEN_LENGTH else None
        if parts is None:
            raise _invalid("Not a valid JWT.")
        header = _read_header(parts[1])
        return self._guest(token) if header.type == _GUEST_TYPE else self._user(token, header)

    def renewable_guest(self, token: str | None) -> str | None:
        """The guest whose token is to be renewed; None when the token is a user's, or none was sent.

        Raises Unauthorized, KeysUnavailable.
        """
        caller = None if token is None else self.identify(token)
        return caller.user_id if caller is not None and caller.role == "guest" else None

    def guest_token(self, user_id: str) -> str:
        """A token that opens this guest's cart and nothing else, good for as long as a cart that changes now."""
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
        # RFC 7519, section 4.1.3: who is not named in an audience must refuse. PyJWT lets an empty one pass.
        elsewhere = self._config.audience is None and "aud" in claims
        if elsewhere or _is_for_guests(claims):
            raise _invalid("This token was made for another service.")
        user_id = _subject(claims)
        if user_id.startswith(GUEST_PREFIX):
            raise _invalid("This token's subject cannot be a user_id.")
        return Caller(user_id, "service" if _has_all_carts_scope(claims) else "user")

    def _guest(self, token: str) -> Caller:
        keys = self._config.guest_keys
        claims = self._claims(token, keys, issuer=GUEST_ISSUER, audience=GUEST_AUDIENCE)
        user_id = _subject(claims)
        if not user_id.startswith(GUEST_PREFIX):
            raise _invalid("This token's subject cannot be a guest.")
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
                raise _invalid("This token was made for another service.") from None
            except jwt.MissingRequiredClaimError as error:
                raise _invalid(f"This token lacks the claim {error.claim}.") from None
            except InvalidSubjectError:
                raise _invalid("This token's sub must be a string, and not a number or anything else.") from None
            except jwt.PyJWTError:
                raise _invalid("This token is malformed.") from None
            _check_times(claims, now=self._clock() / 1000)
            return claims
        raise _invalid("This token is not signed with a key and an algorithm that are trusted here.")


class _Header(NamedTuple):
    algorithm: str
    kid: str | None
    type: str | None


@lru_cache(maxsize=64)  # an issuer writes the same header until its key changes; reading it costs as much as an HMAC
def _read_header(segment: str) -> _Header:
    """What a token says of itself (RFC 7515, section 4): good for choosing among our keys, and for nothing else.

    Keys and addresses that it brings along (jwk, jku, x5c, x5u) are not looked at.
    """
    try:
        header = _JWS.get_unverified_header(f"{segment}..")
    except jwt.PyJWTError:
        raise _invalid("Not a valid JWT.") from None
    algorithm, type_ = header.get("alg"), header.get("typ")
    # No extension is understood here, and b64 is none that a JWT may have (RFC 7515, section 4.1.11; RFC 7797).
    if not isinstance(algorithm, str) or not isinstance(type_, str | None) or {"crit", "b64"} & header.keys():
        raise _invalid("This token's header is malformed, or asks for what is not supported.")
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
            # RFC 7519, section 2: a NumericDate is a number. NaN fails each comparison.
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
        raise _invalid("This token's subject cannot be a user_id.") from None
    return user_id


def _has_all_carts_scope(claims: dict[str, Any]) -> bool:
    """Only ``scope`` is read (RFC 9068, RFC 8693): what opens every cart has one name, and no vendor's ``scp`` besides.

    Words are parted by blanks alone (RFC 6749, section 3.3), not by all that Python takes for white space.
    """
    scope = claims.get("scope")
    return isinstance(scope, str) and _ALL_CARTS in scope.split(" ")


def _invalid(detail: str) -> Unauthorized:
    return Unauthorized(detail, error="invalid_token")
