"""Test which tokens are accepted and what they grant access to (RFC 7519, 6750 and 8725)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from cartsvc.auth import tokens as rooms
from cartsvc.auth.keys import HMAC_MIN_BYTES, PUBLIC_KEY_ALGORITHMS, JwtKey, StaticKeys
from cartsvc.auth.tokens import Auth, Caller, parse_bearer
from cartsvc.errors import Forbidden, KeysUnavailable, Unauthorized
from tests.support.clock import FakeClock
from tests.support.tokens import (
    AUDIENCE,
    GUEST_SECRET,
    ISSUER,
    KIND_OF,
    OTHER_SECRET,
    SECRET,
    pair,
    public_pem,
    settings,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

DAY = 86_400_000
NOW = FakeClock().now // 1000  # seconds

GUEST_CLAIMS = {"iss": "urn:cartsvc", "aud": "urn:cartsvc:guest", "sub": "guest-1", "iat": NOW, "exp": NOW + 60}
GUEST_HEADER = {"alg": "HS256", "typ": "cartsvc-guest+jwt"}

NAMES: list[dict[str, str]] = [{}, {"issuer": ISSUER, "audience": AUDIENCE}]

INVALID = "invalid_token"


def make_auth(clock: FakeClock | None = None, *, guest_ttl_ms: int = 7 * DAY, **changes: str | None) -> Auth:
    """Return an Auth with these settings."""
    config = settings(**changes)
    return Auth(config, keys=StaticKeys(config.keys), guest_ttl_ms=guest_ttl_ms, clock=clock or FakeClock())


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(claims: Any, secret: str | bytes = SECRET, **header: Any) -> str:
    """A token with whatever claims and header: signed by hand, since a library would refuse most of these."""
    head = {"alg": "HS256", "typ": "JWT"} | header
    body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    signed = f"{b64(json.dumps(head).encode())}.{b64(body)}"
    key = secret.encode() if isinstance(secret, str) else secret
    return f"{signed}.{b64(hmac.digest(key, signed.encode(), hashlib.sha256))}"


def claims(**changes: Any) -> dict[str, Any]:
    """Alice's, good for a minute; None takes a claim away."""
    every = {"sub": "alice", "exp": NOW + 60} | changes
    return {name: value for name, value in every.items() if value is not None}


def refused(auth: Auth, token: str | None) -> str | None:
    """RFC 6750's code of the refusal, which must not show the token."""
    with pytest.raises(Unauthorized) as error:
        auth.identify(token)
    assert token is None or len(token) < 10 or token not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None
    return error.value.error


# ---- the header ----


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("Basic YWxpY2U6eA==", None),
        ("Bearerx abc", None),
        ("Bearer\tabc", None),
        ("Bearer abc", "abc"),
        ("bearer abc", "abc"),
        ("BEARER   abc ", "abc"),
        ("Bearer \xe4", "\xe4"),
    ],
)
def test_a_bearer_token_is_read(header: str | None, expected: str | None) -> None:
    """The scheme's case is free (RFC 9110, 11.1); another scheme is as good as no token."""
    assert parse_bearer(header) == expected


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer a b", "Bearer a,Bearer b", "Bearer a, Bearer b"])
def test_a_malformed_header_is_an_invalid_request(header: str) -> None:
    """RFC 6750, section 3.1, knows a code of its own for that."""
    with pytest.raises(Unauthorized) as error:
        parse_bearer(header)
    assert error.value.error == "invalid_request"


# ---- verdicts ----


def test_without_a_token_nobody_is_told_a_code() -> None:
    """A request without a token gets no error code (RFC 6750, section 3.1)."""
    assert refused(make_auth(), None) is None


def test_a_user_opens_their_own_cart_and_no_other() -> None:
    """Another's is forbidden, with the same words whichever it is."""
    auth, token = make_auth(), forge(claims())
    assert auth.check(token, "alice") == Caller("alice", "user")
    messages = set()
    for other in ("bob", "Alice", "alice ", "alicee", "guest-1", "", "."):
        with pytest.raises(Forbidden) as error:
            auth.check(token, other)
        messages.add((str(error.value), error.value.error))
    assert messages == {("This token does not open this cart.", "insufficient_scope")}


@pytest.mark.parametrize("scope", ["carts:all", "openid carts:all", "carts:all profile", "a carts:all b"])
def test_the_scope_opens_every_cart(scope: str) -> None:
    """Checkout and support need that; guests' carts are among them."""
    auth, token = make_auth(), forge(claims(sub="checkout", scope=scope))
    for user_id in ("checkout", "alice", "guest-1"):
        assert auth.check(token, user_id) == Caller("checkout", "service")


@pytest.mark.parametrize(
    "scope",
    [
        "",
        "carts",
        "carts:all-not",
        "not-carts:all",
        "carts:all:read",
        "CARTS:ALL",
        "carts:all,openid",
        "openid\tcarts:all",
        "openid\ncarts:all",
        "openid\u00a0carts:all",
        "openid\u2003carts:all",
        "carts:all\x00",
        ["carts:all"],
        {"carts:all": True},
        True,
        1,
    ],
)
def test_what_is_not_quite_the_scope_opens_nothing(scope: object) -> None:
    """Whole words, parted by blanks, in a text (RFC 6749, 3.3): the user's own cart is all there is."""
    auth, token = make_auth(), forge(claims(scope=scope))
    assert auth.check(token, "alice") == Caller("alice", "user")
    with pytest.raises(Forbidden):
        auth.check(token, "bob")


@pytest.mark.parametrize("name", ["scp", "scopes", "permissions", "roles", "Scope"])
def test_the_scope_has_one_name(name: str) -> None:
    """Vendors' other claims open nothing: what opens every cart is in one place."""
    token = forge(claims(**{name: "carts:all"}))
    assert make_auth().identify(token) == Caller("alice", "user")


# ---- a merge's other cart ----


def test_a_merge_needs_the_right_to_both_carts() -> None:
    """A guest's token, another user's, or a caller that may access the cart anyway."""
    auth = make_auth()
    alice, service = Caller("alice", "user"), Caller("checkout", "service")
    auth.check_source(alice, "alice", None)
    auth.check_source(service, "guest-1", None)
    auth.check_source(service, "guest-1", "rubbish")
    auth.check_source(alice, "guest-1", auth.guest_token("guest-1"))
    auth.check_source(alice, "bob", forge(claims(sub="bob")))
    auth.check_source(Caller("guest-1", "guest"), "bob", forge(claims(sub="bob")))
    auth.check_source(alice, "bob", forge(claims(sub="checkout", scope="carts:all")))


@pytest.mark.parametrize(
    "token",
    [
        None,
        "",
        "rubbish",
        "\ud800",
        "a" * 100_000,
        forge(claims()),
        forge(claims(sub="guest-1")),
        forge(GUEST_CLAIMS | {"sub": "guest-2"}, GUEST_SECRET, **GUEST_HEADER),
        forge(GUEST_CLAIMS, OTHER_SECRET, **GUEST_HEADER),
        forge(GUEST_CLAIMS | {"exp": NOW - 60}, GUEST_SECRET, **GUEST_HEADER),
    ],
)
def test_a_merge_without_that_right_is_forbidden(token: str | None) -> None:
    """It is 403 and never 401: the request's own token was good."""
    with pytest.raises(Forbidden):
        make_auth().check_source(Caller("alice", "user"), "guest-1", token)


# ---- signatures ----


@pytest.mark.parametrize("algorithm", PUBLIC_KEY_ALGORITHMS)
def test_every_public_key_algorithm_is_verified(algorithm: str) -> None:
    """With the key that fits it; another key's signature, or a changed token, is rejected."""
    kind = KIND_OF[algorithm]
    auth = make_auth(key=public_pem(kind), algorithms=algorithm)
    token = jwt.encode(claims(), pair(kind), algorithm)
    assert auth.identify(token) == Caller("alice", "user")
    head, body, signature = token.split(".")
    forged = b64(json.dumps(claims(sub="bob")).encode())
    assert refused(auth, f"{head}.{forged}.{signature}") == INVALID
    assert refused(auth, f"{head}.{body}.{b64(bytes(64))}") == INVALID
    assert refused(auth, f"{head}.{body}.{b64(b'x')}") == INVALID
    other = jwt.encode(claims(), _another(kind), algorithm)
    assert refused(auth, other) == INVALID


def _another(kind: str) -> Any:
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(pair(kind).curve)


@pytest.mark.parametrize("algorithm", HMAC_MIN_BYTES)
def test_every_hmac_algorithm_is_verified(algorithm: str) -> None:
    """And none besides the one that is set, though the secret is the same."""
    secret = "k" * 64
    for signed in HMAC_MIN_BYTES:
        token = jwt.encode(claims(), secret, signed)
        auth = make_auth(key=secret, algorithms=algorithm)
        if signed == algorithm:
            assert auth.identify(token) == Caller("alice", "user")
        else:
            assert refused(auth, token) == INVALID


def test_a_key_that_is_for_several_algorithms_is_tried_with_the_one_that_the_token_names() -> None:
    """RS256 and PS256 share their keys."""
    auth = make_auth(key=public_pem("rsa"), algorithms="RS256,PS256,ES256")
    for algorithm in ("RS256", "PS256"):
        assert auth.identify(jwt.encode(claims(), pair("rsa"), algorithm)) == Caller("alice", "user")
    assert refused(auth, jwt.encode(claims(), pair("rsa"), "RS512")) == INVALID


def test_without_algorithms_the_key_decides() -> None:
    """One for each kind of key (RFC 8725, section 3.1)."""
    for kind, algorithm in (("rsa", "RS256"), ("p256", "ES256"), ("ed25519", "EdDSA")):
        auth = make_auth(key=public_pem(kind))
        assert auth.identify(jwt.encode(claims(), pair(kind), algorithm)) == Caller("alice", "user")
    assert refused(make_auth(key=public_pem("rsa")), jwt.encode(claims(), pair("rsa"), "PS256")) == INVALID


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, "HS1", "XX", ["HS256"], {}, 256, True])
@pytest.mark.parametrize("key", ["secret", "public"])
def test_an_algorithm_that_is_not_set_is_refused(key: str, algorithm: object) -> None:
    """Above all none, however it is written, with a signature and without."""
    auth = make_auth(key=SECRET if key == "secret" else public_pem("rsa"))
    token = forge(claims(), alg=algorithm)
    assert refused(auth, token) == INVALID
    assert refused(auth, token.rpartition(".")[0] + ".") == INVALID
    assert refused(auth, forge(claims(), secret=b"", alg=algorithm)) == INVALID


def test_a_token_without_an_algorithm_is_refused() -> None:
    """The header must name one."""
    head, body = b64(b'{"typ":"JWT"}'), b64(json.dumps(claims()).encode())
    signature = b64(hmac.digest(SECRET.encode(), f"{head}.{body}".encode(), hashlib.sha256))
    assert refused(make_auth(), f"{head}.{body}.{signature}") == INVALID


@pytest.mark.parametrize("kind", ["rsa", "p256", "ed25519"])
def test_the_public_key_is_no_secret(kind: str) -> None:
    """HS256 with the public key's text: the oldest trick (RFC 8725, section 2.1)."""
    pem = public_pem(kind)
    public = pair(kind).public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    auth = make_auth(key=pem)
    for secret in (pem, pem.strip(), pem.strip() + "\n", der):
        assert refused(auth, forge(claims(), secret)) == INVALID


def test_a_wrong_signature_is_refused() -> None:
    """Of another key; of other claims; one bit off; none at all."""
    auth, good = make_auth(), forge(claims())
    head, body, signature = good.split(".")
    other = forge(claims(sub="bob")).split(".")
    assert refused(auth, forge(claims(), OTHER_SECRET)) == INVALID
    assert refused(auth, forge(claims(), GUEST_SECRET)) == INVALID
    assert refused(auth, f"{head}.{other[1]}.{signature}") == INVALID
    assert refused(auth, f"{head}.{body}.{other[2]}") == INVALID
    raw = bytearray(base64.urlsafe_b64decode(signature + "="))
    raw[0] ^= 1
    assert refused(auth, f"{head}.{body}.{b64(bytes(raw))}") == INVALID
    assert refused(auth, f"{head}.{body}.") == INVALID
    assert refused(auth, f"{head}.{body}") == INVALID


def test_keys_rotate() -> None:
    """A token is good when any key of the list has signed it; a key that was removed no longer counts."""
    auth = make_auth(key=f"{SECRET}, {OTHER_SECRET}")
    for secret in (SECRET, OTHER_SECRET):
        assert auth.identify(forge(claims(), secret)) == Caller("alice", "user")
    assert refused(make_auth(key=OTHER_SECRET), forge(claims())) == INVALID
    pems = make_auth(key=f"{public_pem('rsa')},{public_pem('p256')}")
    for kind, algorithm in (("rsa", "RS256"), ("p256", "ES256")):
        assert pems.identify(jwt.encode(claims(), pair(kind), algorithm)) == Caller("alice", "user")


# ---- headers that must not be trusted ----


@pytest.mark.parametrize(
    "header",
    [
        {"kid": "unknown"},
        {"kid": "../../../dev/null"},
        {"kid": ""},
        {"jku": "http://127.0.0.1:1/keys"},
        {"x5u": "http://127.0.0.1:1/cert"},
        {"x5c": ["MIIB"]},
        {"jwk": {"kty": "oct", "k": b64(OTHER_SECRET.encode())}},
        {"x5t": "x", "cty": "JWT", "zip": "DEF", "extra": {"a": [1]}},
    ],
)
def test_keys_and_addresses_in_a_header_are_ignored(header: dict[str, Any]) -> None:
    """The token is judged by our keys: with theirs good, with the one it brings along not."""
    assert make_auth().identify(forge(claims(), **header)) == Caller("alice", "user")
    assert refused(make_auth(), forge(claims(), OTHER_SECRET, **header)) == INVALID


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"], "exp": 1},
        {"crit": ["b64"], "b64": True},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"crit": None},
        {"crit": "exp"},
        {"b64": False},
        {"b64": True},
        {"kid": 1},
        {"kid": None},
        {"kid": ["a"]},
        {"typ": 1},
        {"typ": ["JWT"]},
    ],
)
def test_a_header_that_asks_for_more_is_refused(header: dict[str, Any]) -> None:
    """What is critical and not understood must refuse the token (RFC 7515, section 4.1.11)."""
    assert refused(make_auth(), forge(claims(), **header)) == INVALID


@pytest.mark.parametrize("kind", [None, "JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
def test_an_access_token_may_say_so(kind: str | None) -> None:
    """RFC 9068's type, the plain one, or none."""
    assert make_auth().identify(forge(claims(), typ=kind)) == Caller("alice", "user")


@pytest.mark.parametrize("kind", ["logout+jwt", "dpop+jwt", "secevent+jwt", "JOSE", "", "jwt ", "cartsvc-guest+JWT"])
def test_another_type_of_token_is_none(kind: str) -> None:
    """The same issuer signs logout tokens too (RFC 8725, section 3.11)."""
    assert refused(make_auth(), forge(claims(), typ=kind)) == INVALID


# ---- claims ----


@pytest.mark.parametrize("exp", [NOW - 9, NOW, NOW + 1, NOW + 0.5, NOW + 1e9, 253_402_300_799])
def test_a_token_is_good_until_it_expires(exp: float) -> None:
    """Whole or broken numbers (RFC 7519, section 2), with ten seconds for clocks that differ."""
    assert make_auth().identify(forge(claims(exp=exp))) == Caller("alice", "user")


@pytest.mark.parametrize(
    "exp",
    [
        *(NOW - 11, NOW - 10, 0, -1, -(10**30), 1.5, False, True, str(NOW + 60), "", [NOW + 60], {}),
        *(10**30, 1e300, float("nan"), float("inf"), -float("inf"), 253_402_300_800, (NOW + 60) * 1000),
    ],
)
def test_a_token_whose_exp_is_over_or_no_time_is_refused(exp: object) -> None:
    """Milliseconds taken for seconds would make a token that never ends."""
    assert refused(make_auth(), forge(claims(exp=exp))) == INVALID


def test_a_token_must_end() -> None:
    """Without exp, or with a null one, it would be valid forever."""
    assert refused(make_auth(), forge(claims(exp=None))) == INVALID
    assert refused(make_auth(), forge({"sub": "alice", "exp": None})) == INVALID


def test_a_token_expires_while_the_clock_runs() -> None:
    """The clock is the one handed in."""
    clock = FakeClock(NOW * 1000)
    auth, token = make_auth(clock), forge(claims(exp=NOW + 60))
    clock.advance(69_999)
    assert auth.identify(token) == Caller("alice", "user")
    clock.advance(1)
    assert refused(auth, token) == INVALID


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_token_is_not_good_before_its_time(name: str) -> None:
    """nbf, and an issue in the future; again with ten seconds, and numbers only."""
    for good in (NOW - 10**6, NOW, NOW + 10, NOW + 0.5, 0, -1):
        assert make_auth().identify(forge(claims(**{name: good}))) == Caller("alice", "user")
    for bad in (NOW + 12, 10**11, 10**30, True, str(NOW), "", [], float("nan"), float("inf")):
        assert refused(make_auth(), forge(claims(**{name: bad}))) == INVALID
    assert refused(make_auth(), forge(claims() | {name: None})) == INVALID


@pytest.mark.parametrize(
    "sub", ["alice", "auth0|5f7c", "a@b.example", "urn:user:1", "0", "a" * 255, "guest", "Guest-1"]
)
def test_a_subject_is_a_user_id(sub: str) -> None:
    """Whatever can be in the path."""
    assert make_auth().check(forge(claims(sub=sub)), sub) == Caller(sub, "user")


@pytest.mark.parametrize(
    "sub",
    [
        *("", " ", ".", "..", "a/b", "a b", "a\n", "a\x00", "ä", "\ud800", "a" * 256, "guest-", "guest-1"),
        *(1, 1.5, True, [], ["alice"], {"alice": 1}, 10**30),
    ],
)
@pytest.mark.parametrize("scope", [None, "carts:all"])
def test_a_subject_that_is_no_user_is_refused(sub: object, scope: str | None) -> None:
    """An access token does not make a guest; a service must have a name too."""
    assert refused(make_auth(), forge(claims(sub=sub, scope=scope))) == INVALID


@pytest.mark.parametrize("sub", [42, 4.2, True, ["alice"], {}])
def test_a_subject_that_is_no_string_is_named(sub: object) -> None:
    """Issuers often write a numeric id, so the message names the claim."""
    with pytest.raises(Unauthorized) as error:
        make_auth().identify(forge(claims(sub=sub)))
    assert str(error.value) == "The sub claim must be a string."


@pytest.mark.parametrize("without", [{"exp": NOW + 60}, {"sub": None, "exp": NOW + 60}])
def test_a_subject_is_needed(without: dict[str, Any]) -> None:
    """Also when it opens every cart."""
    assert refused(make_auth(), forge(without | {"scope": "carts:all"})) == INVALID


def test_the_issuer_is_compared_when_it_is_set() -> None:
    """To the letter (RFC 8725, section 3.8)."""
    auth = make_auth(issuer=ISSUER)
    assert auth.identify(forge(claims(iss=ISSUER))) == Caller("alice", "user")
    for wrong in (None, "", ISSUER[:-1], ISSUER.upper(), "https://other.example/", [ISSUER], 1, {ISSUER: 1}):
        assert refused(auth, forge(claims(iss=wrong))) == INVALID
    assert make_auth().identify(forge(claims(iss="anybody"))) == Caller("alice", "user")


def test_the_audience_is_compared_when_it_is_set() -> None:
    """It is one of those that the token names (RFC 7519, section 4.1.3)."""
    auth = make_auth(audience=AUDIENCE)
    for good in (AUDIENCE, [AUDIENCE], ["other", AUDIENCE]):
        assert auth.identify(forge(claims(aud=good))) == Caller("alice", "user")
    for wrong in (None, "", [], "other", ["other"], AUDIENCE + "/x", AUDIENCE[:-1], 1, True, {AUDIENCE: 1}):
        assert refused(auth, forge(claims(aud=wrong))) == INVALID
    assert refused(auth, forge(claims(aud=[AUDIENCE, 1]))) == INVALID


@pytest.mark.parametrize("aud", ["other", ["other"], "", [], 0, 1, True, {"a": 1}])
def test_a_token_for_an_audience_is_refused_when_none_is_set(aud: object) -> None:
    """It was issued for another service, because this one has no configured audience."""
    assert refused(make_auth(), forge(claims(aud=aud))) == INVALID
    assert refused(make_auth(), forge(claims() | {"aud": None})) == INVALID


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"[]", b'"x"', b"1", b"{", b"\xff\xfe", b"{}", b"[" * 5000, b'{"a":' * 1000),
        b'{"sub": "alice", "exp": ' + b"9" * 5000 + b"}",
    ],
)
def test_claims_that_are_no_object_are_refused(body: bytes) -> None:
    """Though the signature is right: an issuer can err as well."""
    assert refused(make_auth(), forge(body)) == INVALID


# ---- what is no token at all ----


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a",
        "a.b",
        "a.b.c",
        "a.b.c.d.e",
        "null",
        "undefined",
        "ä.ö.ü",
        "\ud800.a.b",
        "a\x00.b.c",
        "a.b.c\n",
        " a.b.c",
        "e30.e30.e30",
        "bnVsbA.e30.AA",
        "W10.e30.AA",
        "MQ.e30.AA",
        b64(b"[" * 3000) + ".e30.AA",
        b64(b'{"alg": ' + b"9" * 5000 + b"}") + ".e30.AA",
        "A" * 100_000,
        "." * 100_000,
        forge(claims(filler="x" * 100_000)),
        forge(claims(filler="x" * 9000)),
        forge(claims()) + "=",
        forge(claims()) + " ",
        forge(claims()) + "\n",
        forge(claims()) + "." + forge(claims()),
    ],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    """Whatever the length, the alphabet and the number of its parts."""
    assert refused(make_auth(), token) == INVALID


def test_a_long_token_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 8192 characters is read; a longer one is not, though it is signed well."""
    fitting = [each for n in range(5900, 6100) if len(each := forge(claims(filler="x" * n))) <= 8192]
    assert len(fitting[-1]) > 8188
    assert make_auth().identify(fitting[-1]) == Caller("alice", "user")

    def read(*_: object) -> None:
        pytest.fail("it was read")

    monkeypatch.setattr("cartsvc.auth.tokens._read_header", read)
    assert refused(make_auth(), forge(claims(filler="x" * 6200))) == INVALID


def test_the_header_that_is_remembered_is_bounded() -> None:
    """The cache of headers is bounded, whatever headers clients invent."""
    for n in range(200):
        assert refused(make_auth(), forge(claims(), OTHER_SECRET, kid=str(n))) == INVALID
    assert rooms._read_header.cache_info().currsize == 64  # noqa: SLF001 - its cache is what is measured


@given(st.text() | st.lists(st.text(), min_size=3, max_size=3).map(".".join))
def test_no_text_is_a_token(text: str) -> None:
    """No text gets in, and none breaks anything."""
    assert refused(make_auth(), text) == INVALID


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_HEADERS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("alg", "typ", "kid", "crit", "b64", "jwk"),
        _JSON | st.sampled_from(["HS256", "RS256", "none", "JWT", "cartsvc-guest+jwt"]),
    ),
)
_NUMBERS = st.integers() | st.floats() | st.integers(NOW - 60, NOW + 60)
_CLAIMS = st.fixed_dictionaries(
    {},
    optional={
        "sub": _JSON | st.sampled_from(["alice", "guest-1"]),
        "exp": _JSON | _NUMBERS,
        "nbf": _JSON | _NUMBERS,
        "iat": _JSON | _NUMBERS,
        "jti": _JSON,
        "scope": _JSON,
        "iss": _JSON | st.sampled_from([ISSUER, "urn:cartsvc"]),
        "aud": _JSON | st.sampled_from([AUDIENCE, "urn:cartsvc:guest", ["urn:cartsvc:guest"]]),
    },
)


@given(_HEADERS, _CLAIMS, st.sampled_from([SECRET, GUEST_SECRET]), st.sampled_from(NAMES))
def test_whatever_is_signed_is_a_caller_or_refused(
    header: dict[str, Any], body: dict[str, Any], secret: str, names: dict[str, str]
) -> None:
    """The issuer's own mistakes break nothing, and only the guests' key makes a guest."""
    auth = make_auth(**names)
    try:
        caller = auth.identify(forge(body, secret, **header))
    except Unauthorized:
        return
    assert (caller.role == "guest") == (secret == GUEST_SECRET)
    assert caller.user_id.startswith("guest-") == (caller.role == "guest")


# ---- guests ----


def test_a_guest_opens_their_own_cart_and_nothing_else() -> None:
    """Neither a user's, nor another guest's, nor one whose id only begins the same."""
    auth = make_auth()
    token = auth.guest_token("guest-1")
    assert auth.check(token, "guest-1") == Caller("guest-1", "guest")
    for other in ("guest-2", "guest-", "guest-11", "Guest-1", "alice", "urn:cartsvc", ""):
        with pytest.raises(Forbidden):
            auth.check(token, other)


def test_a_guest_token_lives_as_long_as_a_guest_cart() -> None:
    """And the same leeway longer as any token; a broken second counts for it."""
    clock = FakeClock()
    auth = make_auth(clock, guest_ttl_ms=90_500)
    token = auth.guest_token("guest-1")
    made = jwt.decode(token, options={"verify_signature": False})
    assert made == {
        "iss": "urn:cartsvc",
        "aud": "urn:cartsvc:guest",
        "sub": "guest-1",
        "iat": clock.now // 1000,
        "exp": (clock.now + 90_500) // 1000 + 1,
    }
    clock.advance(90_500)
    assert auth.check(token, "guest-1") == Caller("guest-1", "guest")
    clock.advance(11_000)
    assert refused(auth, token) == INVALID


def test_a_guest_token_is_renewed() -> None:
    """The same guest gets a fresh token, which lives on when the old one is over."""
    clock = FakeClock()
    auth = make_auth(clock, guest_ttl_ms=DAY)
    old = auth.guest_token("guest-1")
    clock.advance(DAY // 2)
    guest = auth.renewable_guest(old)
    assert guest == "guest-1"
    fresh = auth.guest_token(guest)
    clock.advance(DAY // 2 + 20_000)
    assert refused(auth, old) == INVALID
    assert auth.check(fresh, "guest-1") == Caller("guest-1", "guest")
    with pytest.raises(Unauthorized):
        auth.renewable_guest(old)


def test_who_is_no_guest_has_nothing_to_renew() -> None:
    """Without a token, or with a user's or a service's, there is nothing to renew. An invalid token is rejected."""
    auth = make_auth()
    assert auth.renewable_guest(None) is None
    assert auth.renewable_guest(forge(claims())) is None
    assert auth.renewable_guest(forge(claims(scope="carts:all"))) is None
    with pytest.raises(Unauthorized):
        auth.renewable_guest("rubbish")


def test_guest_keys_rotate() -> None:
    """The first signs; all verify, so that no guest loses a cart by it."""
    old, new = make_auth(guest_key=GUEST_SECRET), make_auth(guest_key=f"{OTHER_SECRET},{GUEST_SECRET}")
    assert new.check(old.guest_token("guest-1"), "guest-1") == Caller("guest-1", "guest")
    assert refused(old, new.guest_token("guest-1")) == INVALID
    assert make_auth(guest_key=OTHER_SECRET).identify(new.guest_token("guest-1")) == Caller("guest-1", "guest")


def test_a_guest_token_with_the_wrong_claims_is_refused() -> None:
    """Each of them, one at a time; the right ones pass, so that this test can fail."""
    auth = make_auth()
    assert auth.identify(forge(GUEST_CLAIMS, GUEST_SECRET, **GUEST_HEADER)) == Caller("guest-1", "guest")
    for name, wrong in [
        ("iss", ["https://issuer.example/", "urn:cartsvc:guest", "", 1]),
        ("aud", [AUDIENCE, "urn:cartsvc", "", [], 1]),
        ("sub", ["alice", "", "guest-/", "guest-ä", "Guest-1", 1, ["guest-1"], "guest-" + "a" * 255]),
        ("exp", [NOW - 11, True, "9999999999", 10**30]),
        ("iat", [NOW + 60, True, ""]),
        ("nbf", [NOW + 60]),
    ]:
        for value in wrong:
            assert refused(auth, forge(GUEST_CLAIMS | {name: value}, GUEST_SECRET, **GUEST_HEADER)) == INVALID
        if name not in {"nbf", "iat"}:
            less = {each: value for each, value in GUEST_CLAIMS.items() if each != name}
            assert refused(auth, forge(less, GUEST_SECRET, **GUEST_HEADER)) == INVALID


def test_a_forged_guest_token_is_refused() -> None:
    """By another key, the shop's key, another algorithm, or without a type."""
    auth = make_auth()
    assert refused(auth, forge(GUEST_CLAIMS, OTHER_SECRET, **GUEST_HEADER)) == INVALID
    assert refused(auth, forge(GUEST_CLAIMS, SECRET, **GUEST_HEADER)) == INVALID
    assert refused(auth, forge(GUEST_CLAIMS, GUEST_SECRET, alg="none", typ=GUEST_HEADER["typ"])) == INVALID
    assert refused(auth, forge(GUEST_CLAIMS, GUEST_SECRET, alg="HS512", typ=GUEST_HEADER["typ"])) == INVALID
    assert refused(auth, forge(GUEST_CLAIMS, GUEST_SECRET)) == INVALID
    assert refused(auth, forge(GUEST_CLAIMS, GUEST_SECRET, typ=None)) == INVALID


def test_a_scope_opens_nothing_for_a_guest() -> None:
    """A guest token has one use, whatever it contains."""
    token = forge(GUEST_CLAIMS | {"scope": "carts:all"}, GUEST_SECRET, **GUEST_HEADER)
    assert make_auth().identify(token) == Caller("guest-1", "guest")
    with pytest.raises(Forbidden):
        make_auth().check(token, "guest-2")


@pytest.mark.parametrize("names", NAMES)
def test_the_same_secret_does_not_make_the_tokens_one(names: dict[str, str]) -> None:
    """With one secret for both, a user's token is no guest's, and a guest's no user's, whichever part is changed."""
    auth = make_auth(key=SECRET, guest_key=SECRET, **names)
    shop = {"iss": ISSUER, "aud": AUDIENCE} if names else {}
    assert auth.identify(forge(claims(**shop))) == Caller("alice", "user")
    assert auth.identify(auth.guest_token("guest-1")) == Caller("guest-1", "guest")
    for header in ({}, {"typ": "at+jwt"}, {"typ": None}):  # a guest's claims, dressed as a user's
        assert refused(auth, forge(GUEST_CLAIMS, **header)) == INVALID
        assert refused(auth, forge(GUEST_CLAIMS | {"sub": "alice"}, **header)) == INVALID
        for name in ("iss", "aud"):
            both = {"sub": "alice", "exp": NOW + 60} | shop | {name: GUEST_CLAIMS[name]}
            assert refused(auth, forge(both, **header)) == INVALID
    listed = claims(**shop) | {"aud": [AUDIENCE, "urn:cartsvc:guest"]}
    assert refused(auth, forge(listed)) == INVALID
    for sub in ("alice", "guest-1"):  # a user's claims, dressed as a guest's
        assert refused(auth, forge(claims(**shop, sub=sub), **GUEST_HEADER)) == INVALID
    assert refused(auth, forge(claims(**shop, sub="guest-1"))) == INVALID


# ---- keys that are unavailable ----


class _NoKeys:
    def find(self, **_: object) -> Iterable[JwtKey]:
        raise KeysUnavailable


def test_without_the_issuers_keys_guests_go_on() -> None:
    """A user's token cannot be decided, which is neither yes nor no; a guest's can."""
    config = settings(key=None, jwks_url="https://issuer.example/keys")
    auth = Auth(config, keys=_NoKeys(), guest_ttl_ms=DAY, clock=FakeClock())
    assert auth.identify(auth.guest_token("guest-1")) == Caller("guest-1", "guest")
    with pytest.raises(KeysUnavailable):
        auth.check(jwt.encode(claims(), pair("rsa"), "RS256"), "alice")
    with pytest.raises(KeysUnavailable):
        auth.check_source(Caller("alice", "user"), "bob", jwt.encode(claims(), pair("rsa"), "RS256"))


def test_the_key_source_is_asked_with_the_tokens_algorithm_and_key_id() -> None:
    """And not at all for what is no access token."""
    asked = []

    class Source:
        def find(self, *, algorithm: str, kid: str | None) -> Iterable[JwtKey]:
            asked.append((algorithm, kid))
            return ()

    config = settings(key=None, jwks_url="https://issuer.example/keys")
    auth = Auth(config, keys=Source(), guest_ttl_ms=DAY, clock=FakeClock())
    for token in (
        forge(claims(), alg="RS256", kid="one"),
        forge(claims(), alg="ES256"),
        forge(claims(), alg=["RS256"], kid="two"),
        forge(claims(), alg="RS256", kid="two", typ="logout+jwt"),
        forge(claims(), alg="RS256", kid="two", crit=["x"], x=1),
        forge(GUEST_CLAIMS, kid="two", **GUEST_HEADER),
        "a.b.c",
        "A" * 9000,
    ):
        assert refused(auth, token) == INVALID
    assert asked == [("RS256", "one"), ("ES256", None)]


def test_a_key_of_another_algorithm_verifies_nothing() -> None:
    """Even if the key source returns keys that do not match."""

    class Source:
        def find(self, **_: object) -> Iterable[JwtKey]:
            return [JwtKey("HS256", b"k" * 64), JwtKey("RS256", pair("rsa").public_key())]

    auth = Auth(settings(), keys=Source(), guest_ttl_ms=DAY, clock=FakeClock())
    assert auth.identify(jwt.encode(claims(), "k" * 64, "HS256")) == Caller("alice", "user")
    assert refused(auth, jwt.encode(claims(), "k" * 64, "HS384")) == INVALID
    assert refused(auth, jwt.encode(claims(), pair("rsa"), "PS256")) == INVALID
