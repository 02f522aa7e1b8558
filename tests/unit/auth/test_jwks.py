"""Holds jwks.py to its promises: which keys are taken, how often they are fetched, and what a bad server can do."""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from cartsvc.auth.config import load_auth_config
from cartsvc.auth.jwks import JwksKeys, jwks_fetcher, read_key_set
from cartsvc.auth.tokens import Auth, Caller
from cartsvc.errors import KeysUnavailable, Unauthorized
from tests.support.clock import FakeClock
from tests.support.http_server import Quiet, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ALGORITHMS = ("RS256", "ES256", "EdDSA")
NOW = FakeClock().now // 1000
_SECONDS = 20  # to wait for what is to come; never waited in full when the code is right


@cache
def pair(name: str) -> Any:
    """A private key; its name begins with its kind."""
    if name.startswith("rsa"):
        return rsa.generate_private_key(65537, 1024 if name == "rsa-weak" else 2048)
    return ec.generate_private_key(ec.SECP256R1()) if name.startswith("ec") else ed25519.Ed25519PrivateKey.generate()


ALGORITHM = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"}


def algorithm(name: str) -> str:
    return ALGORITHM[name.partition("-")[0]]


def jwk(name: str, *, private: bool = False, **members: Any) -> dict[str, Any]:
    """The JWK of this pair; its kid is its name. None takes a member away."""
    key = pair(name) if private else pair(name).public_key()
    made = jwt.get_algorithm_by_name(algorithm(name)).to_jwk(key, as_dict=True)
    every = {"kid": name, "use": "sig", "alg": algorithm(name)} | made | members
    return {member: value for member, value in every.items() if value is not None}


def key_set(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def names(data: bytes, *algorithms: str) -> list[tuple[str | None, str]]:
    return [(key.kid, key.algorithm) for key in read_key_set(data, algorithms or ALGORITHMS)]


# ---- reading ----


def test_every_kind_of_key_is_read() -> None:
    """And it verifies what its private half has signed."""
    keys = read_key_set(key_set(jwk("rsa"), jwk("ec"), jwk("ed")), ALGORITHMS)
    for key in keys:
        assert key.kid is not None
        token = jwt.encode({"a": 1}, pair(key.kid), key.algorithm)
        assert jwt.decode(token, key.material, [key.algorithm]) == {"a": 1}
    assert [(key.kid, key.algorithm) for key in keys] == [("rsa", "RS256"), ("ec", "ES256"), ("ed", "EdDSA")]


def test_a_key_without_an_algorithm_is_for_those_that_it_fits() -> None:
    """``alg``, ``use``, ``key_ops`` and ``kid`` may all be left out (RFC 7517, section 4)."""
    bare = jwk("rsa", alg=None, use=None, kid=None, key_ops=None)
    assert set(bare) == {"kty", "n", "e"}
    assert names(key_set(bare), "RS256", "ES256", "PS512") == [(None, "RS256"), (None, "PS512")]
    assert names(key_set(jwk("ec", alg=None)), "RS256", "ES256", "ES384") == [("ec", "ES256")]


@pytest.mark.parametrize(
    "other",
    [
        jwk("rsa", use="enc"),
        jwk("rsa", use="SIG"),
        jwk("rsa", use=["sig"]),
        jwk("rsa", key_ops=["sign"]),
        jwk("rsa", key_ops=[]),
        jwk("rsa", key_ops="verify"),
        jwk("rsa", alg="RS512"),
        jwk("rsa", alg="PS256"),
        jwk("rsa", alg="ES256"),
        jwk("rsa", alg="HS256"),
        jwk("rsa", alg="RSA-OAEP"),
        jwk("rsa", alg="none"),
        jwk("rsa", alg=["RS256"]),
        jwk("rsa", kty="EC"),
        jwk("rsa", kty="oct"),
        jwk("rsa", kty="new"),
        jwk("rsa", kty=None),
        jwk("rsa", kty=1),
        jwk("rsa", kid=1),
        jwk("rsa", n=None),
        jwk("rsa", n=1),
        jwk("rsa", n=""),
        jwk("rsa", n="!"),
        jwk("rsa", e="AA"),
        jwk("rsa", e="AQ"),
        jwk("rsa-weak"),
        jwk("rsa", private=True, key_ops=["verify"]),
        jwk("ec", private=True),
        jwk("ed", private=True),
        jwk("ec", crv="P-384"),
        jwk("ec", crv="secp256k1"),
        jwk("ec", crv=None),
        jwk("ec", crv=[]),
        jwk("ec", x="AA"),
        jwk("ec", y=jwk("ec")["x"]),
        jwk("ec", alg="ES384"),
        jwk("ed", crv="X25519"),
        jwk("ed", x="AA"),
        {"kty": "oct", "k": "c2VjcmV0" * 8, "alg": "HS256", "kid": "oct"},
        {"kty": "oct", "k": "c2VjcmV0" * 8, "kid": "oct"},
        {},
        [],
        None,
        "rsa",
        1,
    ],
)
def test_a_key_that_is_of_no_use_is_passed_over(other: object) -> None:
    """For encryption, private, weak, malformed, of another algorithm: the rest of the set is still good."""
    expected = [("ec-good", "ES256")]
    assert names(key_set(other, jwk("ec-good")), "RS256", "ES256", "EdDSA", "HS256") == expected


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"x", b"null", b"[]", b"1", b'"keys"', b"{}", b'{"keys": null}', b'{"keys": {}}', b'{"keys": "x"}'),
        *(b"\xff", b"\x00", b"[" * 100_000, b'{"keys": [' + b"9" * 5000 + b"]}", b"<html>", b'{"keys": []'),
        key_set(jwk("ec")).replace(b'"keys"', b'"Keys"'),
        key_set(*[jwk("ec")] * 101),
    ],
)
def test_what_is_no_key_set_is_refused(data: bytes) -> None:
    """With an error that does not show what came."""
    with pytest.raises(ValueError, match=r"the response is not JSON|not a JSON Web Key Set|more than 100 keys"):
        read_key_set(data, ALGORITHMS)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["RSA", "EC", "OKP", "sig"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_MEMBERS = st.sampled_from([*jwk("rsa"), *jwk("ec"), *jwk("rsa", private=True), "key_ops", "oth"])


@given(st.sampled_from(["rsa", "ec", "ed"]), st.dictionaries(_MEMBERS, _JSON, max_size=4), st.booleans())
def test_no_key_spoils_the_set(name: str, members: dict[str, Any], private: bool) -> None:  # noqa: FBT001 - hypothesis hands it in
    """Whatever a key's members are, the others are read."""
    changed = jwk(name, private=private) | members
    assert names(key_set(changed, jwk("ec-good")))[-1] == ("ec-good", "ES256")


# ---- fetching at the right time ----


class Issuer:
    """A replacement for the URL: returns ``response``, counts the calls, and can be blocked."""

    def __init__(self, *keys: object) -> None:
        self.response: bytes | Exception = key_set(*keys)
        self.calls = 0
        self.go = threading.Event()
        self.go.set()
        self.asked = threading.Event()

    def __call__(self) -> bytes:
        """Return the response of the URL."""
        self.calls += 1
        self.asked.set()
        assert self.go.wait(_SECONDS)
        if isinstance(self.response, Exception):
            raise self.response
        return self.response


class Seconds:
    """A monotonic clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time it is."""
        return self.now


def keys_of(issuer: Callable[[], bytes], clock: Callable[[], float], *, max_wait_s: float = _SECONDS) -> JwksKeys:
    return JwksKeys(issuer, algorithms=ALGORITHMS, monotonic=clock, max_wait_s=max_wait_s)


def found(keys: JwksKeys, name: str, *, kid: str | None = "") -> list[str | None]:
    return [key.kid for key in keys.find(algorithm=algorithm(name), kid=name if kid == "" else kid)]


def settled(keys: JwksKeys) -> None:
    """Return when no fetch is under way."""
    done = keys._fetch_done  # noqa: SLF001 - nothing else shows when the thread has ended
    assert done is None or done.wait(_SECONDS)


def test_nothing_is_fetched_before_the_first_token() -> None:
    """Starting a server needs no issuer; then one fetch is enough for all keys."""
    issuer, clock = Issuer(jwk("rsa"), jwk("ec")), Seconds()
    keys = keys_of(issuer, clock)
    assert issuer.calls == 0
    assert found(keys, "rsa") == ["rsa"]
    assert found(keys, "ec") == ["ec"]
    assert issuer.calls == 1


def test_a_token_without_a_key_id_may_be_signed_with_any_key_for_its_algorithm() -> None:
    """The id is optional (RFC 7515, section 4.1.4); a key without one is for such tokens only."""
    issuer = Issuer(jwk("rsa"), jwk("ec"), jwk("rsa-2"), jwk("rsa-3", kid=None))
    keys = keys_of(issuer, Seconds())
    assert found(keys, "rsa", kid=None) == ["rsa", "rsa-2", None]
    assert found(keys, "ec", kid="rsa") == []
    assert found(keys, "rsa-3", kid="") == []


def test_an_algorithm_that_is_not_set_fetches_nothing() -> None:
    """Forged headers do not make us call anybody."""
    issuer = Issuer(jwk("rsa"))
    keys = keys_of(issuer, Seconds())
    for name in ("none", "HS256", "RS512", ""):
        assert list(keys.find(algorithm=name, kid="rsa")) == []
    assert issuer.calls == 0


def test_an_unknown_key_id_fetches_at_most_once_in_30_seconds() -> None:
    """However many of them come; the known ones are not held up."""
    issuer, clock = Issuer(jwk("rsa")), Seconds()
    keys = keys_of(issuer, clock)
    assert found(keys, "rsa") == ["rsa"]
    issuer.response = key_set(jwk("rsa"), jwk("ec"))
    for moment in (0.0, 1.0, 29.9):
        clock.now = 1000 + moment
        for n in range(20):
            assert found(keys, "ec", kid=f"made up {n}") == []
        assert found(keys, "ec") == []
    assert issuer.calls == 1
    clock.now = 1030
    assert found(keys, "ec") == ["ec"]
    assert issuer.calls == 2
    for n in range(20):
        assert found(keys, "ec", kid=f"made up {n}") == []
    assert issuer.calls == 2


def test_keys_are_fetched_again_after_ten_minutes(caplog: pytest.LogCaptureFixture) -> None:
    """So that a withdrawn key is dropped. No request waits for it, and it is not fetched earlier."""
    issuer, clock = Issuer(jwk("rsa"), jwk("rsa-stolen")), Seconds()
    keys = keys_of(issuer, clock)
    assert found(keys, "rsa-stolen") == ["rsa-stolen"]
    issuer.response = key_set(jwk("rsa"))
    clock.now += 599
    assert found(keys, "rsa-stolen") == ["rsa-stolen"]
    assert issuer.calls == 1
    clock.now += 1
    issuer.go.clear()
    held_up = threading.Thread(target=found, args=(keys, "rsa-stolen"), daemon=True)
    held_up.start()
    held_up.join(_SECONDS / 2)
    assert not held_up.is_alive()
    assert found(keys, "rsa") == ["rsa"]
    issuer.go.set()
    settled(keys)
    assert found(keys, "rsa-stolen") == []
    assert found(keys, "rsa") == ["rsa"]
    assert issuer.calls == 2
    assert caplog.messages == []


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionRefusedError("refused"),
        TimeoutError("slow"),
        socket.gaierror(-2, "unknown"),
        ValueError("the response has status 500"),
        b"<html>",
        b"{}",
    ],
)
def test_the_last_good_keys_stay_when_the_url_is_away(
    failure: Exception | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed fetch keeps the keys, is logged, and is retried after 30 seconds."""
    issuer, clock = Issuer(jwk("rsa")), Seconds()
    keys = keys_of(issuer, clock)
    assert found(keys, "rsa") == ["rsa"]
    good, issuer.response = issuer.response, failure
    clock.now += 10_000
    for _ in range(5):
        assert found(keys, "rsa") == ["rsa"]
        settled(keys)
        assert found(keys, "ec") == []
    assert issuer.calls == 2
    assert len(caplog.records) == 1
    assert "the previous keys stay in use" in caplog.messages[0]
    assert "html" not in caplog.text
    clock.now += 30
    issuer.response = good
    assert found(keys, "rsa") == ["rsa"]
    settled(keys)
    assert issuer.calls == 3
    clock.now += 599
    assert found(keys, "rsa") == ["rsa"]
    assert issuer.calls == 3


def test_without_any_keys_nobody_is_judged(caplog: pytest.LogCaptureFixture) -> None:
    """That is neither a yes nor a no; it is tried again a second later, since nothing works before."""
    issuer, clock = Issuer(), Seconds()
    good, issuer.response = key_set(jwk("rsa")), OSError("away")
    keys = keys_of(issuer, clock)
    for _ in range(5):
        with pytest.raises(KeysUnavailable):
            keys.find(algorithm="RS256", kid="rsa")
    assert issuer.calls == 1
    assert "no token can be verified" in caplog.messages[0]
    clock.now += 1
    issuer.response = good
    assert found(keys, "rsa") == ["rsa"]


def test_a_set_that_has_become_empty_takes_every_key_away(caplog: pytest.LogCaptureFixture) -> None:
    """The issuer has no keys, which differs from being unavailable. It is logged."""
    issuer, clock = Issuer(jwk("rsa")), Seconds()
    keys = keys_of(issuer, clock)
    assert found(keys, "rsa") == ["rsa"]
    issuer.response = key_set()
    clock.now += 600
    assert found(keys, "rsa") == ["rsa"]
    settled(keys)
    assert found(keys, "rsa") == []
    assert caplog.messages == ["no key for RS256, ES256, EdDSA from CARTSVC_JWT_JWKS_URL"]


def test_many_threads_fetch_once() -> None:
    """All that find no key wait for the same fetch, and all get what it brought."""
    issuer = Issuer(jwk("rsa"))
    issuer.go.clear()
    keys = keys_of(issuer, Seconds())
    got: list[list[str | None]] = []
    start = threading.Barrier(17)

    def ask() -> None:
        start.wait(_SECONDS)
        got.append(found(keys, "rsa"))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    start.wait(_SECONDS)
    assert issuer.asked.wait(_SECONDS)
    issuer.go.set()
    for thread in threads:
        thread.join(_SECONDS)
    assert got == [["rsa"]] * 16
    assert issuer.calls == 1


def test_nobody_waits_longer_than_their_patience() -> None:
    """While a fetch hangs, tokens with a known key are verified, and other tokens get a response too."""
    issuer, clock = Issuer(jwk("rsa")), Seconds()
    keys = keys_of(issuer, clock, max_wait_s=0.01)
    issuer.go.clear()
    with pytest.raises(KeysUnavailable):
        keys.find(algorithm="RS256", kid="rsa")
    clock.now += 1000
    with pytest.raises(KeysUnavailable):
        keys.find(algorithm="RS256", kid="rsa")
    assert issuer.calls == 1, "a second fetch was started while one hangs"
    issuer.go.set()
    settled(keys)
    assert found(keys, "rsa") == ["rsa"]
    issuer.go.clear()
    clock.now += 30
    assert found(keys, "ec") == []
    assert found(keys, "rsa") == ["rsa"]
    issuer.go.set()
    settled(keys)


# ---- the network ----


@contextmanager
def server(reply: Callable[[BaseHTTPRequestHandler], None], certificate: Path | None = None) -> Iterator[str]:
    """Run a server on this machine that handles every GET so, by TLS with a certificate; yield its URL."""

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reply(self)

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    made.block_on_close = False
    made.handle_error = lambda *_: None  # type: ignore[method-assign]
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        made.socket = context.wrap_socket(made.socket, server_side=True)
    with serving(made):
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{made.server_port}"


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in ({"Content-Length": str(len(body))} | headers).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def test_a_key_set_is_fetched() -> None:
    """With its path and query, asking for JSON, and as often as it is called."""
    seen = []

    def reply(handler: BaseHTTPRequestHandler) -> None:
        seen.append((handler.path, handler.headers["Accept"], handler.headers["Authorization"]))
        send(handler, b"body")

    with server(reply) as url:
        for path in ("", "/", "/keys?a=b&c=%20"):
            assert jwks_fetcher(url + path)() == b"body"
    accept = "application/jwk-set+json, application/json"
    assert seen == [("/", accept, None), ("/", accept, None), ("/keys?a=b&c=%20", accept, None)]


@pytest.mark.parametrize("status", [201, 204, 304, 400, 401, 404, 500, 503])
def test_only_a_200_counts(status: int) -> None:
    """Whatever the response contains."""
    refused = pytest.raises(ValueError, match=f"^the response has status {status}$")
    with server(lambda handler: send(handler, b"", status)) as url, refused:
        jwks_fetcher(url)()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["/other", "http://localhost:1/", "https://localhost:1/", "file:///etc/passwd"])
def test_no_redirect_is_followed(status: int, target: str) -> None:
    """No redirect leads to another place or scheme."""
    seen = []

    def reply(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.path)
        send(handler, b"", status, Location=target)

    with server(reply) as url, pytest.raises(ValueError, match="status"):
        jwks_fetcher(url + "/keys")()
    assert seen == ["/keys"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_large_answer_is_refused(announced: bool) -> None:  # noqa: FBT001 - pytest hands it in
    """One that has just the size is taken; of a larger one no more is read than shows it."""
    sent = 0

    def reply(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        handler.send_response(200)
        if announced:
            handler.send_header("Content-Length", str(10**9))
        handler.end_headers()
        try:
            while sent < 10**9:
                sent += handler.wfile.write(b" " * 65_536)
        except OSError:
            pass

    with server(reply) as url, pytest.raises(ValueError, match="more than 1000 bytes"):
        jwks_fetcher(url, max_bytes=1000)()
    assert sent < 10**8
    with server(lambda handler: send(handler, b"x" * 1000)) as url:
        assert jwks_fetcher(url, max_bytes=1000)() == b"x" * 1000


def test_a_server_that_is_not_there_is_an_os_error() -> None:
    """Plain or by TLS."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/", f"https://127.0.0.1:{port}/"):
        with pytest.raises(OSError):  # noqa: PT011 - any of its kinds
            jwks_fetcher(url, timeout=5)()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a certificate for 127.0.0.1 that no authority has signed, and its key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, pair("ec").public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(pair("ec"), hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "issuer.pem"
    key = pair("ec").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(made.public_bytes(Encoding.PEM) + key)
    return path


def test_tls_is_checked(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server gives keys only when its certificate is trusted and is for its name."""
    with server(lambda handler: send(handler, b"body"), certificate) as url:
        with pytest.raises(ssl.SSLCertVerificationError, match=r"self-signed|self signed"):
            jwks_fetcher(url, timeout=5)()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert jwks_fetcher(url, timeout=5)() == b"body"
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            jwks_fetcher(url.replace("127.0.0.1", "localhost"), timeout=5)()
    with server(lambda handler: send(handler, b"body")) as url, pytest.raises(ssl.SSLError):
        jwks_fetcher(url.replace("http:", "https:"), timeout=5)()


def _nothing(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.recv(1)  # until the other side hangs up


def _drip(text: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(text)
            while True:
                handler.wfile.write(b"x")
                time.sleep(0.02)  # what is tested is a server that is slow
        except OSError:
            pass

    return reply


@pytest.mark.parametrize(
    "reply",
    [_nothing, _drip(b"HTTP/1.1 200 OK\r\n"), _drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"), _drip(b"")],
    ids=["silent", "head", "body", "line"],
)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_slow_server_is_given_up(
    reply: Callable[[BaseHTTPRequestHandler], None],
    tls: bool,  # noqa: FBT001 - pytest hands it in
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also one that sends a byte now and then: what came until then is no key set."""
    ended: list[object] = []

    def fetch(url: str) -> None:
        keys = keys_of(jwks_fetcher(url, timeout=0.3), time.monotonic)
        try:
            ended.append(keys.find(algorithm="RS256", kid=None))
        except KeysUnavailable:
            ended.append("away")

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with server(reply, certificate if tls else None) as url:
        thread = threading.Thread(target=fetch, args=(url,), daemon=True)
        thread.start()
        thread.join(_SECONDS / 2)  # less than find's own patience: the fetch itself must have ended
    assert ended == ["away"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"x\r\n\r\n",
        b"HTTP/1.1 x\r\n\r\n",
        b"HTTP/1.1 " + b"9" * 5000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000,
    ],
)
def test_what_is_no_http_is_told_and_no_more(line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """No thread dies of it."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(line)

    with server(reply) as url, pytest.raises(KeysUnavailable):
        keys_of(jwks_fetcher(url, timeout=5), time.monotonic).find(algorithm="RS256", kid=None)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert not {"\r", "\n"} & set(record.getMessage())
    assert len(record.getMessage()) < 300


def test_from_the_url_to_the_verdict() -> None:
    """A user's token is judged by the keys behind the URL, and a rotation is followed."""
    served = [jwk("rsa"), jwk("ec")]
    clock = Seconds()
    with server(lambda handler: send(handler, key_set(*served))) as url:
        config = load_auth_config(
            key=None, jwks_url=url, algorithms=None, issuer=None, audience=None, guest_key="guest-key-" * 4
        )
        assert config.jwks_url is not None
        keys = JwksKeys(jwks_fetcher(config.jwks_url), algorithms=config.algorithms, monotonic=clock)
        auth = Auth(config, keys=keys, guest_ttl_ms=1000, clock=FakeClock())
        for name in ("rsa", "ec"):
            assert auth.check(_token(name), "alice") == Caller("alice", "user")
        with pytest.raises(Unauthorized):
            auth.identify(_token("ed"))
        with pytest.raises(Unauthorized):
            auth.identify(_token("rsa-2", kid="rsa"))
        served[:] = [jwk("ed")]
        clock.now += 30
        assert auth.check(_token("ed"), "alice") == Caller("alice", "user")
        with pytest.raises(Unauthorized):
            auth.identify(_token("rsa"))


def _token(name: str, *, kid: str | None = None) -> str:
    claims = {"sub": "alice", "exp": NOW + 60}
    return jwt.encode(claims, pair(name), algorithm(name), headers={"kid": kid or name})


_UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys, time, gevent
from cartsvc.errors import KeysUnavailable
from cartsvc.auth.jwks import JwksKeys, jwks_fetcher

keys = JwksKeys(jwks_fetcher(sys.argv[1], timeout=20), algorithms=("RS256",), monotonic=time.monotonic, max_wait_s=20)
ticks = []
def others():
    while len(ticks) < 10**6:
        ticks.append(1)
        gevent.sleep(0.005)
ticker = gevent.spawn(others)
asking = [gevent.spawn(lambda: [key.kid for key in keys.find(algorithm="RS256", kid="rsa")]) for _ in range(50)]
gevent.joinall(asking, timeout=20)
ticker.kill()
print([each.value for each in asking] == [["rsa"]] * 50, len(ticks) > 5)
"""


def test_under_gevent_a_fetch_holds_up_nobody() -> None:
    """Fifty coroutines wait for one fetch, and others run meanwhile."""
    calls = []

    def reply(handler: BaseHTTPRequestHandler) -> None:
        calls.append(1)
        time.sleep(0.2)  # what is tested is a server that is slow
        send(handler, key_set(jwk("rsa")))

    with server(reply) as url:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", _UNDER_GEVENT, url],
            cwd=Path(__file__).parents[3],
            env=os.environ | {"PYTHONPATH": "."},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.stdout, done.returncode) == ("True True\n", 0), done.stderr
    assert len(calls) == 1
