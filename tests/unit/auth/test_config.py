"""Test keys and the settings of authentication: which are accepted (RFC 7517, 7518 and 8725)."""

from __future__ import annotations

from itertools import product

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, PublicFormat

from cartsvc.auth.keys import HMAC_MIN_BYTES, PUBLIC_KEY_ALGORITHMS, JwtKey
from cartsvc.errors import SettingsError
from tests.support.tokens import (
    AUDIENCE,
    GUEST_SECRET,
    ISSUER,
    KIND_OF,
    SECRET,
    pair,
    private_pem,
    public_pem,
    settings,
)

# ---- keys ----


@pytest.mark.parametrize(("algorithm", "kind"), [*product(PUBLIC_KEY_ALGORITHMS, ("rsa", "p256", "p384", "ed25519"))])
def test_a_key_is_made_for_the_algorithms_that_it_fits(algorithm: str, kind: str) -> None:
    """A curve is for one algorithm, and so is each kind of key."""
    public = pair(kind).public_key()
    if KIND_OF[algorithm] == kind:
        assert JwtKey(algorithm, public).material is public
    else:
        with pytest.raises(ValueError, match="wrong kind"):
            JwtKey(algorithm, public)


@pytest.mark.parametrize(
    ("algorithm", "material"),
    [
        ("HS256", pair("rsa").public_key()),
        ("HS256", pair("rsa")),
        ("HS256", SECRET),
        ("HS256", public_pem("rsa").encode()),
        ("HS256", b'{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}'),
        ("HS256", b""),
        ("HS256", b"s" * 31),
        ("HS384", b"s" * 47),
        ("HS512", b"s" * 63),
        ("RS256", SECRET.encode()),
        ("RS256", public_pem("rsa")),
        ("RS256", public_pem("rsa").encode()),
        ("RS256", pair("rsa")),
        ("ES256", pair("p256")),
        ("EdDSA", pair("ed25519")),
        ("RS256", pair("weak rsa").public_key()),
        ("RS256", None),
        ("none", b""),
        ("none", None),
        ("ES521", pair("p521").public_key()),
        ("", SECRET.encode()),
    ],
)
def test_an_unfit_key_cannot_be_made(algorithm: str, material: object) -> None:
    """Of the wrong kind, too short, private: so that nothing later can confuse them."""
    with pytest.raises(ValueError, match=r"wrong kind|too short|no such"):
        JwtKey(algorithm, material)


# ---- the settings ----


def faults(**changes: str | None) -> list[str]:
    """Return the faults of these settings, which contain no value."""
    with pytest.raises(SettingsError) as error:
        settings(**changes)
    for value in changes.values():
        assert value is None or len(value) < 10 or value not in str(error.value)
    return list(error.value.faults)


def test_settings_that_are_right_are_taken() -> None:
    """Keys are made for each algorithm that they fit."""
    config = settings(key=f"{public_pem('rsa')},{public_pem('p256')}", algorithms="RS256, PS256,ES256,RS256")
    assert [key.algorithm for key in config.keys] == ["RS256", "PS256", "ES256"]
    assert config.algorithms == ("RS256", "PS256", "ES256")
    remote = settings(key=None, jwks_url="https://issuer.example/keys?a=b", issuer=ISSUER, audience=AUDIENCE)
    assert (remote.keys, remote.jwks_url) == ((), "https://issuer.example/keys?a=b")
    assert remote.algorithms == ("RS256", "ES256", "EdDSA")
    assert (remote.issuer, remote.audience) == (ISSUER, AUDIENCE)
    assert settings().algorithms == ("HS256",)


def test_no_secret_is_shown_by_chance() -> None:
    """Neither by the settings nor by a key, wherever they are printed."""
    config = settings(key=SECRET, guest_key=GUEST_SECRET)
    for text in (repr(config), str(config), repr(config.keys[0]), f"{config.guest_keys}"):
        assert SECRET not in text
        assert GUEST_SECRET not in text
    assert repr(config.keys[0]) == "JwtKey(algorithm='HS256', kid=None)"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (public_pem("rsa").replace("\n", "\\n"), "RS256"),
        (public_pem("rsa").replace("\n", "\r\n"), "RS256"),
        ("\n " + public_pem("rsa") + " \n", "RS256"),
        (
            pair("rsa").public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode(),
            "RS256",
        ),
        (public_pem("p256"), "ES256"),
        (public_pem("ed25519"), "EdDSA"),
        ("s" * 32, "HS256"),
        (" " + "s" * 32 + "\n", "HS256"),
        ("ä" * 16, "HS256"),
        ("\udcff" * 32, "HS256"),
    ],
)
def test_a_key_may_be_written_so(text: str, kind: str) -> None:
    """Several lines, one line, blanks around it, bytes that are no UTF-8."""
    assert [key.algorithm for key in settings(key=text).keys] == [kind]


@pytest.mark.parametrize("name", ["key", "guest_key"])
@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", [1]), ("s" * 31, [1]), (" " + "s" * 31 + " ", [1]), (f"{SECRET},", [2]), (f"{SECRET},,short", [2, 3])],
)
def test_a_short_secret_is_named_by_its_place(name: str, text: str, numbers: list[int]) -> None:
    """32 bytes is the least (RFC 7518, section 3.2)."""
    setting = {"key": "CARTSVC_JWT_KEY", "guest_key": "CARTSVC_GUEST_KEY"}[name]
    assert faults(**{name: text}) == [f"{setting}: key {n} is shorter than the 32 bytes that are safe" for n in numbers]


def test_a_longer_hash_needs_a_longer_secret() -> None:
    """As long as its result (RFC 7518, section 3.2)."""
    for algorithms, least in (("HS384", 48), ("HS512", 64), ("HS256,HS512", 64)):
        expected = [f"CARTSVC_JWT_KEY: key 1 is shorter than the {least} bytes that are safe"]
        assert faults(key="s" * (least - 1), algorithms=algorithms) == expected
        assert settings(key="s" * least, algorithms=algorithms).keys


@pytest.mark.parametrize("name", ["key", "guest_key"])
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_private_key_is_refused(name: str, form: PrivateFormat) -> None:
    """Whatever its form, and also behind a good key."""
    for text in (private_pem("rsa", form), private_pem("rsa", form).replace("\n", "\\n"), private_pem("p256", form)):
        (fault,) = faults(**{name: text})
        assert "key 1 is a private key" in fault
    assert "key 2 is a private key" in faults(key=f"{public_pem('rsa')},{private_pem('rsa', form)}")[0]


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        public_pem("rsa")[:-60],
        public_pem("rsa").replace("PUBLIC KEY", "CERTIFICATE"),
    ],
)
def test_a_pem_key_that_cannot_be_read_is_named(text: str) -> None:
    """Cut off, in one line, of another sort."""
    assert faults(key=text) == ["CARTSVC_JWT_KEY: key 1 is not a PEM public key that can be read"]


def test_keys_of_the_wrong_kind_are_named() -> None:
    """For their algorithms, and together with another kind."""
    rsa_key = public_pem("rsa")
    short = "or is an RSA key of fewer than 2048 bits"
    for changes, expected in [
        ({"key": rsa_key, "algorithms": "HS256"}, "key 1 is a PEM key, and HS256 needs a secret"),
        ({"key": SECRET, "algorithms": "RS256"}, "key 1 is not a PEM public key, which RS256 needs"),
        ({"key": f"{rsa_key},{SECRET}"}, "key 2 is not a PEM public key, which RS256 needs"),
        ({"key": rsa_key, "algorithms": "ES256,EdDSA"}, f"key 1 fits none of ES256, EdDSA, {short}"),
        ({"key": public_pem("p384")}, f"key 1 fits none of RS256, ES256, EdDSA, {short}"),
        ({"key": public_pem("weak rsa")}, f"key 1 fits none of RS256, ES256, EdDSA, {short}"),
        ({"key": rsa_key + public_pem("p256")}, "key 1 has several PEM blocks; a comma belongs between two keys"),
    ]:
        assert faults(**changes) == [f"CARTSVC_JWT_KEY: {expected}"]
    ssh = pair("rsa").public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    jwk = '{"kty":"oct"' + " " * 30 + "}"  # without a comma, which would part it
    plain = "is a public key or a JSON Web Key in some form, not a secret"
    assert faults(key=ssh) == [f"CARTSVC_JWT_KEY: key 1 {plain}"]
    assert faults(key=f"{SECRET},{jwk}") == [f"CARTSVC_JWT_KEY: key 2 {plain}"]
    assert faults(guest_key=ssh) == [f"CARTSVC_GUEST_KEY: key 1 {plain}"]
    assert faults(guest_key=rsa_key) == ["CARTSVC_GUEST_KEY: key 1 is a PEM key, and HS256 needs a secret"]


@pytest.mark.parametrize("text", ["none", "None", "HS256,none", "RS256, NONE "])
def test_none_is_never_an_algorithm(text: str) -> None:
    """Also not with others."""
    expected = "CARTSVC_JWT_ALGORITHMS: 'none' is not allowed: anyone could forge tokens"
    assert expected in faults(algorithms=text)


@pytest.mark.parametrize("text", ["", ",", "HS256,", "hs256", "HS1", "RS256 ES256", "ES521", "A256GCM"])
def test_an_unknown_algorithm_is_refused(text: str) -> None:
    """The message lists the known ones."""
    names = ", ".join((*HMAC_MIN_BYTES, *PUBLIC_KEY_ALGORITHMS))
    expected = f"CARTSVC_JWT_ALGORITHMS: must be some of {names}, separated by commas"
    assert faults(algorithms=text) == [expected]


@pytest.mark.parametrize("text", ["HS256,RS256", "RS256,HS256", "EdDSA,ES256,HS512"])
def test_kinds_of_algorithms_are_not_mixed(text: str) -> None:
    """A public key must never come near an HMAC."""
    expected = "CARTSVC_JWT_ALGORITHMS: HMAC (HS...) and public-key algorithms must not be mixed"
    assert faults(algorithms=text) == [expected]
    assert faults(key=public_pem("rsa"), algorithms=text) == [expected]
    assert faults(key=None, jwks_url="https://issuer.example/", algorithms=text) == [expected]


def test_a_key_set_is_for_public_keys() -> None:
    """A secret that is published is none."""
    expected = "CARTSVC_JWT_ALGORITHMS: a key set (CARTSVC_JWT_JWKS_URL) is for public keys, not for HMAC"
    assert faults(key=None, jwks_url="https://issuer.example/", algorithms="HS256") == [expected]


def test_the_keys_come_from_one_place() -> None:
    """Neither is a fault, and both are."""
    expected = "CARTSVC_JWT_KEY: either this or CARTSVC_JWT_JWKS_URL must be set, and not both"
    assert faults(key=None) == [expected]
    assert faults(key=public_pem("rsa"), jwks_url="https://issuer.example/") == [expected]


def test_guests_need_a_key() -> None:
    """A default one would be known to all."""
    expected = "CARTSVC_GUEST_KEY: must be set, since guests' tokens are signed with it"
    assert faults(guest_key=None) == [expected]


@pytest.mark.parametrize(
    "url",
    [
        "https://issuer.example/keys",
        "https://issuer.example:8443",
        "https://[2001:db8::1]/keys",
        "HTTPS://issuer.example/keys",
        "http://localhost:9000/keys",
        "http://127.0.0.1/keys",
        "http://127.1.2.3/keys",
        "http://[::1]:9000/keys",
    ],
)
def test_a_key_set_is_got_safely(url: str) -> None:
    """By TLS, or without leaving the machine."""
    assert settings(key=None, jwks_url=url).jwks_url == url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "must be a URL such as"),
        ("issuer.example/keys", "must be a URL such as"),
        ("https://", "must be a URL such as"),
        ("https:///keys", "must be a URL such as"),
        ("file:///etc/passwd", "must be a URL such as"),
        ("ftp://issuer.example/keys", "must be a URL such as"),
        ("data:application/json,{}", "must be a URL such as"),
        ("https://issuer.example:99999/", "must be a URL such as"),
        ("https://issuer.example:x/", "must be a URL such as"),
        ("https://[::1/", "must be a URL such as"),
        ("https://issuer.example/a b", "must be a URL such as"),
        ("https://issuer.example/a\r\nX: y", "must be a URL such as"),
        ("https://issuer.ex\u00e4mple/", "must be a URL such as"),
        ("https://user:word@issuer.example/", "must have no user"),
        ("https://user@issuer.example/", "must have no user"),
        ("https://issuer.example/#keys", "must have no user"),
        ("http://issuer.example/keys", "must begin with https://"),
        ("http://10.0.0.1/keys", "must begin with https://"),
        ("http://0.0.0.0/keys", "must begin with https://"),
        ("http://localhost.example/keys", "must begin with https://"),
        ("http://127.0.0.1.example/keys", "must begin with https://"),
        ("http://[::ffff:10.0.0.1]/keys", "must begin with https://"),
    ],
)
def test_a_key_set_is_not_got_otherwise(url: str, expected: str) -> None:
    """Anyone who can change it on its way could sign tokens."""
    (fault,) = faults(key=None, jwks_url=url)
    assert fault.startswith(f"CARTSVC_JWT_JWKS_URL: {expected}")


@pytest.mark.parametrize("name", ["issuer", "audience"])
def test_names_that_are_empty_or_the_guests_own_are_refused(name: str) -> None:
    """A template that was not filled in must not mean: anybody's tokens."""
    setting = f"CARTSVC_JWT_{name.upper()}"
    for empty in ("", " "):
        assert faults(**{name: empty}) == [f"{setting}: must not be empty; leave it out when tokens have none"]
    for own in ("urn:cartsvc", "urn:cartsvc:guest"):
        with pytest.raises(SettingsError) as error:
            settings(**{name: own})
        assert error.value.faults == (f"{setting}: urn:cartsvc and urn:cartsvc:guest are for guests' tokens alone",)


def test_every_fault_is_named_at_once() -> None:
    """One start reports all faults."""
    found = faults(key="short", jwks_url="ftp://x", algorithms="none", issuer="", audience="", guest_key="short")
    assert {each.partition(":")[0] for each in found} == {
        "CARTSVC_JWT_KEY",
        "CARTSVC_JWT_JWKS_URL",
        "CARTSVC_JWT_ALGORITHMS",
        "CARTSVC_JWT_ISSUER",
        "CARTSVC_JWT_AUDIENCE",
        "CARTSVC_GUEST_KEY",
    }
