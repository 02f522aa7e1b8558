"""Tests of rate limits: which requests count for which caller, the response to a rejected one, and the cost."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from limits import RateLimitItemPerDay
from limits.strategies import SlidingWindowCounterRateLimiter

from cartsvc.api import rate_limit
from cartsvc.errors import SettingsError
from cartsvc.settings import Settings
from tests.support.api_client import RaisingStore, make_client, problem
from tests.support.services import FakeSeconds, racing

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

    from tests.support.api_client import Client

KEY, GUEST_KEY = "a-secret-of-the-shop's-issuer-0123456789", "a-secret-of-this-service-9876543210abcdef"
JWT = {"CARTSVC_AUTH": "jwt", "CARTSVC_JWT_KEY": KEY, "CARTSVC_GUEST_KEY": GUEST_KEY}
SHOP = "https://shop.example"
SKU = {"product_id": "sku-1", "quantity": 1}
HERS = "/cart/alice"


@pytest.fixture(autouse=True)
def seconds(monkeypatch: pytest.MonkeyPatch) -> FakeSeconds:
    """The clock of the counters: no window ends during a test, unless the test advances it."""
    return _turn_by_hand(monkeypatch)


def _turn_by_hand(monkeypatch: pytest.MonkeyPatch) -> FakeSeconds:
    fake = FakeSeconds()
    monkeypatch.setattr(rate_limit, "time", SimpleNamespace(monotonic=fake, time=time.time))
    return fake


def limited(rate: str = "2/minute", *, environ: dict[str, str] | None = None, **settings: Any) -> Client:
    """A client of an app with this limit."""
    return make_client(environ={"CARTSVC_RATE_LIMIT": rate} | (environ or {}), **settings)


def ask(client: Client, *, address: str = "192.0.2.1", **headers: str) -> int:
    """The status of one GET from this address."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(HERS, environ_overrides={"REMOTE_ADDR": address}, headers=named).status_code


def bearing(sub: str, **claims: Any) -> str:
    """An Authorization header with this user's token."""
    return f"Bearer {jwt.encode({'sub': sub, 'exp': int(time.time()) + 300} | claims, claims.pop('key', KEY))}"


def refused(client: Client) -> TestResponse:
    """Return the response to the first rejected request."""
    for _ in range(1000):
        response = client.get(HERS)
        if response.status_code == 429:
            return response
    pytest.fail("no request is rejected")


# ---- off ----


def test_there_is_no_limit_by_default(client: Client) -> None:
    """Nothing counts: no function of a limiter runs at a request."""
    assert [ask(client) for _ in range(50)] == [200] * 50
    app = client.application
    assert app.before_request_funcs.get(None, []) == []
    assert "cartsvc.rate_limiter" not in app.extensions


def test_without_a_limit_nothing_of_it_is_imported() -> None:
    """Neither the time nor the memory is spent."""
    code = "import sys, cartsvc; cartsvc.create_app(); print({'cartsvc.api.rate_limit', 'limits'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], env={}, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("rate", ["100/minute", "100 per minute", "10/second;100/minute", "5/2hours", "1/year"])
def test_rates_that_are_taken(rate: str) -> None:
    """One or several, in the notation of limits."""
    assert ask(limited(rate)) == 200


@pytest.mark.parametrize(
    "rate", ["", "100", "0/minute", "10/second;0/minute", "-1/minute", "1/fortnight", "1/minute;", f"1/{10**9}hours"]
)
def test_rates_that_fail_the_start(rate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a rate of zero, and a rate that no counter can keep."""
    monkeypatch.setenv("CARTSVC_RATE_LIMIT", rate)
    with pytest.raises(SettingsError, match=r"CARTSVC_RATE_LIMIT=.*must be a rate such as 100/minute"):
        Settings.from_env()


# ---- the response ----


def test_a_request_too_many() -> None:
    """429 as a problem that contains the limit, with Retry-After in whole seconds."""
    client = limited()
    assert [ask(client), ask(client)] == [200, 200]
    response = refused(client)
    assert problem(response) == (429, "too-many-requests")
    assert response.json["detail"] == "Rate limit exceeded: 2/minute."
    assert response.headers.getlist("Retry-After") == [str(int(response.headers["Retry-After"]))]
    assert 1 <= int(response.headers["Retry-After"]) <= 61


def test_a_head_is_refused_too() -> None:
    """It costs as much as a GET."""
    client = limited("1/minute")
    assert [client.head(HERS).status_code for _ in range(2)] == [200, 429]


def test_a_page_of_an_allowed_origin_reads_it() -> None:
    """The status and Retry-After: a refusal without CORS headers looks like a broken network."""
    client = limited("1/minute", cors_origins=(SHOP,))
    responses = [client.get(HERS, headers={"Origin": SHOP}) for _ in range(2)]
    assert [response.status_code for response in responses] == [200, 429]
    assert [response.headers["Access-Control-Allow-Origin"] for response in responses] == [SHOP] * 2
    assert "Retry-After" in responses[1].headers["Access-Control-Expose-Headers"].split(", ")


_RATES = st.lists(
    st.sampled_from(["1/second", "3/second", "7/5second", "10/minute", "60/minute", "4/hour"]), min_size=1, unique=True
)
_PAUSES = st.lists(st.sampled_from([0, 0, 0, 0.01, 0.3, 1, 2.5, 7, 61]), min_size=1, max_size=60)


@given(_RATES, _PAUSES, st.integers(1, 9).map(lambda each: each / 1000))  # so that no request is at a turn itself
def test_who_waits_for_retry_after_is_served(limits: list[str], pauses: list[float], start: float) -> None:
    """Whatever came before, and whichever of several rates has refused; and a second and a bit earlier they are not."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        seconds = _turn_by_hand(monkeypatch)
        seconds.advance(start)
        client = limited(";".join(limits))
        for pause in pauses:
            seconds.advance(pause)
            response = client.get(HERS)
            if response.status_code == 429:
                after = int(response.headers["Retry-After"])
                assert after >= 1
                if after > 1:
                    seconds.advance(after - 1.001)
                    assert client.get(HERS).status_code == 429
                    seconds.advance(1.001)
                else:
                    seconds.advance(after)
                assert client.get(HERS).status_code == 200


def test_several_rates() -> None:
    """Each holds: here the first one for a while, and then the second one."""
    client = limited("2/second;3/minute")
    assert [ask(client) for _ in range(3)] == [200, 200, 429]


def test_the_second_of_several_rates(seconds: FakeSeconds) -> None:
    """A request that the first rate allows again may exceed the second."""
    client = limited("2/second;3/minute")
    found = []
    for _ in range(4):
        found.append(ask(client))
        seconds.advance(2)
    assert found == [200, 200, 200, 429]


def test_what_was_refused_is_not_counted(seconds: FakeSeconds) -> None:
    """A caller that keeps sending requests does not wait longer for it."""
    client = limited("2/minute")
    assert [ask(client) for _ in range(20)].count(200) == 2
    seconds.advance(120)
    assert [ask(client) for _ in range(3)] == [200, 200, 429]


def test_no_burst_at_the_turn_of_a_window(seconds: FakeSeconds) -> None:
    """Trap: with fixed windows twice as many come through around it."""
    client = limited("10/minute")
    seconds.advance(60 - seconds.now % 60 - 0.1)
    before = [ask(client) for _ in range(20)].count(200)
    seconds.advance(0.2)
    assert (before, [ask(client) for _ in range(20)].count(200)) == (10, 1)


# ---- documented ----


def _documented(client: Client) -> set[str]:
    paths = client.get("/openapi.json").json["paths"]
    return {
        f"{method} {path}"
        for path, operations in paths.items()
        for method, operation in operations.items()
        if "429" in operation["responses"]
    }


def test_the_document_says_so() -> None:
    """Every operation for carts and no other; without a limit only the one that has a 429 of its own."""
    client = limited()
    paths = client.get("/openapi.json").json["paths"]
    expected = {
        f"{method} {path}" for path, operations in paths.items() if path.startswith("/cart") for method in operations
    }
    assert len(expected) == 12
    assert _documented(client) == expected
    assert _documented(make_client()) == {"post /cart/{user_id}/merge"}


# ---- what is not counted ----

FREE = [
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/openapi.json"),
    ("GET", "/"),
    ("GET", "/swagger-ui"),
    ("GET", "/swagger-ui/start.js"),
    ("GET", "/swagger-ui/swagger-ui.css"),
    ("GET", "/nope"),
    ("OPTIONS", HERS),
    ("OPTIONS", "/cart"),
]


@pytest.mark.parametrize(("method", "path"), FREE)
def test_what_is_not_counted(method: str, path: str) -> None:
    """Health checks, pages and preflights do not count, and are served when the limit is reached."""
    client = limited("1/minute", cors_origins=(SHOP,))
    headers = {"Origin": SHOP, "Access-Control-Request-Method": "POST"}
    for _ in range(3):
        assert client.open(path, method=method, headers=headers).status_code != 429
    assert [client.get(HERS).status_code for _ in range(2)] == [200, 429]
    assert client.open(path, method=method, headers=headers).status_code != 429


COUNTED = [
    ("GET", HERS),
    ("POST", HERS),
    ("PUT", HERS),
    ("DELETE", HERS),
    ("PATCH", HERS),
    ("POST", f"{HERS}/items"),
    ("PATCH", f"{HERS}/items"),
    ("GET", f"{HERS}/items/sku-1"),
    ("PATCH", f"{HERS}/items/sku-1"),
    ("DELETE", f"{HERS}/items/sku-1"),
    ("POST", f"{HERS}/merge"),
    ("POST", "/cart"),
]


@pytest.mark.parametrize(("method", "path"), COUNTED)
def test_what_is_counted(method: str, path: str) -> None:
    """Every request for a cart, all of them together, also one that fails."""
    client = limited("1/minute")
    assert client.open(path, method=method).status_code != 429
    assert client.get(HERS).status_code == 429
    assert client.open(path, method=method).status_code == 429


def test_every_route_for_carts_was_tried() -> None:
    """A new route without an entry fails here."""
    client = limited()
    assert len(COUNTED) == len(_documented(client))


# ---- what a refused request does ----


def test_a_refused_request_does_nothing() -> None:
    """Neither is its body looked at, nor its token's rights, nor the store."""
    client = limited("1/minute", environ=JWT, store=RaisingStore(AssertionError("the store was queried")))
    bob = {"Authorization": bearing("bob")}
    assert client.get(HERS, headers=bob).status_code == 403
    for body, kind in ((b"{", "application/json"), (b"x", "text/plain"), (b" " * 200_000, "application/json")):
        response = client.post(HERS, data=body, content_type=kind, headers=bob | {"If-Match": "nonsense"})
        assert problem(response) == (429, "too-many-requests")
    assert client.post("/cart/bob", json=SKU, headers=bob).status_code == 429


def test_a_refused_write_changes_nothing(seconds: FakeSeconds) -> None:
    """Also with a key: it is done when it comes again, and once."""
    client = limited("2/minute")
    headers = {"Idempotency-Key": "k"}
    client.post(HERS, json=SKU)
    client.get(HERS)
    assert client.post(HERS, json=SKU, headers=headers).status_code == 429
    seconds.advance(200)
    assert client.post(HERS, json=SKU, headers=headers).json["version"] == 2


def test_who_is_refused_is_not_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Neither user nor address."""
    caplog.set_level(logging.INFO)
    refused(limited("1/minute"))
    assert caplog.messages == []


def test_a_fault_of_the_counter_rejects_no_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it raises is logged with its traceback, and the request is let through."""
    client = limited("1/minute")
    monkeypatch.setattr(_limiter(client).storage, "acquire_sliding_window_entry", Mock(side_effect=TypeError("bug")))
    assert [ask(client) for _ in range(3)] == [200] * 3
    assert caplog.messages == ["CARTSVC_RATE_LIMIT: counting failed, and the request was let through"] * 3
    assert all(entry.exc_info for entry in caplog.records)


# ---- the caller: addresses ----


def test_each_address_has_its_own_count() -> None:
    """Without authentication the address is all that is known."""
    client = limited("1/minute")
    assert [ask(client, address=each) for each in ("192.0.2.1", "192.0.2.2", "192.0.2.1")] == [200, 200, 429]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:0:0:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("2001:DB8:0::1", "2001:db8::1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.1:4711", True),
        ("192.0.2.1:4711", "192.0.2.2:4711", False),
        ("2001:db8::1", "[2001:db8::1]:4711", True),
        ("2001:db8::1", "[2001:db8::1]", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "unknown", True),
        ("unknown", "_hidden", True),
        ("unknown", "192.0.2.1", False),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:  # noqa: FBT001 - a parameter of a test
    """One of IPv4, however it is written; a subscriber's /64 of IPv6; all that are no addresses together."""
    client = limited("1/minute")
    assert [ask(client, address=one), ask(client, address=other)] == [200, 429 if same else 200]


@pytest.mark.parametrize(
    ("hops", "header", "counted_for"),
    [
        (0, "198.51.100.7", "192.0.2.1"),
        (0, "198.51.100.7, 203.0.113.9", "192.0.2.1"),
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "198.51.100.7, 203.0.113.9", "203.0.113.9"),
        (1, "198.51.100.7,203.0.113.9", "203.0.113.9"),
        (1, '"198.51.100.7, 203.0.113.9', "203.0.113.9"),
        (1, 'x", 203.0.113.9', "203.0.113.9"),
        (1, '"\\, 203.0.113.9', "203.0.113.9"),
        (1, ",,, 203.0.113.9", "203.0.113.9"),
        (1, "203.0.113.9:4711", "203.0.113.9"),
        (1, "2001:db8::9", "2001:db8::9"),
        (1, None, "192.0.2.1"),
        (1, "", "192.0.2.1"),
        (2, "203.0.113.9, 10.0.0.1", "203.0.113.9"),
        (2, "198.51.100.7, 203.0.113.9, 10.0.0.1", "203.0.113.9"),
        (2, '"198.51.100.7, "x, 203.0.113.9, 10.0.0.1', "203.0.113.9"),
        (2, "198.51.100.7,, 203.0.113.9, 10.0.0.1", "203.0.113.9"),
        (2, "10.0.0.1", "192.0.2.1"),
        (10, "198.51.100.7, 203.0.113.9", "192.0.2.1"),
    ],
)
def test_proxies_are_believed_one_by_one(hops: int, header: str | None, counted_for: str) -> None:
    """As many proxies as CARTSVC_TRUSTED_PROXIES, from the right; what a client sends itself is left of them."""
    plain = limited("1/minute", environ={"CARTSVC_TRUSTED_PROXIES": str(hops)})
    first = {} if header is None else {"X_Forwarded_For": header}
    assert ask(plain, **first) == 200
    # The request with the header again counts for the same caller, whatever is left of the trusted part.
    assert ask(plain, **first) == 429
    chain = f"{counted_for}{', 10.0.0.1' * (hops - 1)}" if hops else ""
    believed = counted_for != "192.0.2.1"
    assert ask(plain, **({"X_Forwarded_For": chain} if believed else {})) == 429
    other = f"203.0.113.77{', 10.0.0.1' * (hops - 1)}"
    assert ask(plain, address="192.0.2.2", **({"X_Forwarded_For": other} if believed else {})) == 200


def test_spoofing_does_not_help() -> None:
    """A caller that writes another address into each request is still one caller."""
    client = limited("3/minute", environ={"CARTSVC_TRUSTED_PROXIES": "1"})
    spoofs = [f"198.51.100.{number}, 203.0.113.9" for number in range(10)]
    assert [ask(client, X_Forwarded_For=spoof) for spoof in spoofs].count(200) == 3


@pytest.mark.parametrize("header", ["Forwarded", "X_Real_IP", "X_Client_IP", "True_Client_IP", "CF_Connecting_IP"])
def test_no_other_header_is_believed(header: str) -> None:
    """A service that trusts several headers trusts one that the proxy does not set."""
    client = limited("1/minute", environ={"CARTSVC_TRUSTED_PROXIES": "1"})
    found = [ask(client, **{header: f"{prefix}198.51.100.{prefix and 1}"}) for prefix in ("", "for=")]
    assert found == [200, 429]


def test_proxies_say_nothing_but_the_address(client: Client) -> None:
    """Neither host nor scheme nor prefix is taken from them, because no response depends on those."""
    client = limited("9/minute", environ={"CARTSVC_TRUSTED_PROXIES": "1"})
    headers = {
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "gopher",
        "X-Forwarded-Prefix": "/evil",
    }
    response = client.post("/cart", headers=headers)
    assert response.headers["Location"] == f"cart/{response.json['user_id']}"
    assert client.get("/", headers=headers).headers["Location"] == "swagger-ui"


# ---- the caller: tokens ----


def test_a_user_is_counted_wherever_they_are() -> None:
    """By the token's subject, whatever the address; other users at that address have counts of their own."""
    client = limited("2/minute", environ=JWT)
    alice, bob = bearing("alice"), bearing("bob", scope="carts:all")
    assert [ask(client, address=f"192.0.2.{each}", Authorization=alice) for each in range(3)] == [200, 200, 429]
    assert ask(client, address="192.0.2.1", Authorization=bob) == 200
    assert ask(client, address="192.0.2.1", Authorization=bearing("alice", jti="another token")) == 429


def test_a_guest_is_counted_by_their_token() -> None:
    """As a user is; making guests is counted for the address."""
    client = limited("3/minute", environ=JWT)
    guests = [client.post("/cart").json for _ in range(3)]
    assert client.post("/cart").status_code == 429
    for guest in guests:
        path, headers = f"/cart/{guest['user_id']}", {"Authorization": f"Bearer {guest['token']}"}
        assert [client.get(path, headers=headers).status_code for _ in range(4)] == [200, 200, 200, 429]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "Bearer abc",
        "Bearer a b",
        "Basic YTpi",
        bearing("alice", key="another-secret-of-another-issuer-0123456789"),
        bearing("alice", exp=1),
        bearing("guest-1"),
        bearing("a/b"),
    ],
    ids=["none", "no token", "malformed", "another scheme", "forged", "expired", "a guest who is none", "no user_id"],
)
def test_a_token_that_is_no_good_counts_for_the_address(header: str | None) -> None:
    """Otherwise each would have its own count; and naming a user does not use up the limit of that user."""
    client = limited("2/minute", environ=JWT)
    sent = {} if header is None else {"Authorization": header}
    first = ask(client, **sent)
    assert first in {400, 401}
    assert ask(client, Authorization="Bearer x.y.z") == 401
    assert ask(client, **sent) == 429
    assert ask(client, address="192.0.2.2", **sent) == first
    assert ask(client, Authorization=bearing("alice")) == 200


def test_without_keys_the_address_counts() -> None:
    """While the issuer's keys are unavailable, no caller can be identified."""
    environ = {"CARTSVC_AUTH": "jwt", "CARTSVC_JWT_JWKS_URL": "http://127.0.0.1:1/keys", "CARTSVC_GUEST_KEY": GUEST_KEY}
    client = limited("2/minute", environ=environ)
    token = jwt.encode(
        {"sub": "alice", "exp": int(time.time()) + 300}, ec.generate_private_key(ec.SECP256R1()), "ES256"
    )
    assert [ask(client, Authorization=f"Bearer {token}") for _ in range(3)] == [503, 503, 429]


def test_without_authentication_a_token_is_nothing() -> None:
    """It was not checked: anybody could write one for each request."""
    client = limited("1/minute")
    assert [ask(client, Authorization=bearing(each)) for each in ("alice", "bob")] == [200, 429]


def test_a_user_who_is_called_as_an_address_is() -> None:
    """Their counts are not mixed up."""
    client = limited("1/minute", environ=JWT)
    assert ask(client) == 401
    assert client.get("/cart/192.0.2.1", headers={"Authorization": bearing("192.0.2.1")}).status_code == 200


# ---- counted in memory ----


@pytest.mark.parametrize("url", ["memory://", "lmdb://{}"])
def test_each_process_counts_for_itself(url: str, tmp_path: Any) -> None:
    """Where no server is there to share: two apps are as two processes."""
    one, other = (limited("1/minute", environ={"CARTSVC_STORE_URL": url.format(tmp_path / each)}) for each in "ab")
    assert [ask(one), ask(one), ask(other), ask(other)] == [200, 429, 200, 429]


def test_threads_lose_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap: the library's own counter in memory lets 48 to 90 of 50 through, when threads race."""
    storage = _limiter(limited("1/day")).storage
    look, limiter, rate = storage.get_sliding_window, SlidingWindowCounterRateLimiter(storage), RateLimitItemPerDay(50)
    accepted: list[bool] = []

    def look_and_wait(key: str, expiry: int) -> Any:
        found = look(key, expiry)
        time.sleep(0.0001)  # a counter without a lock would read a stale count meanwhile
        return found

    def work(_: int) -> None:
        accepted.extend(limiter.hit(rate, "caller") for _ in range(10))

    monkeypatch.setattr(storage, "get_sliding_window", look_and_wait)
    racing(16, work)
    assert (accepted.count(True), accepted.count(False)) == (50, 110)


def _limiter(client: Client) -> rate_limit.RateLimiter:
    limiter: rate_limit.RateLimiter = client.application.extensions["cartsvc.rate_limiter"]
    return limiter


def _counts(client: Client) -> int:
    storage = _limiter(client).storage
    assert isinstance(storage, rate_limit._LocalStorage)  # noqa: SLF001 - its memory is what is tested
    return sum(len(current) + len(previous) for _, current, previous in storage._windows.values())  # noqa: SLF001 - as above


def test_callers_of_old_windows_are_forgotten(seconds: FakeSeconds) -> None:
    """Trap: the library's own counter keeps each caller forever."""
    client = limited("5/second;10/minute")
    for number in range(200):
        assert ask(client, address=f"192.0.2.{number}") == 200
    assert _counts(client) == 400
    seconds.advance(120)
    assert ask(client) == 200
    assert _counts(client) == 2


def test_callers_are_not_more_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the counts are cleared: some requests exceed the limit, and the process survives."""
    monkeypatch.setattr(rate_limit, "_MAX_CALLERS", 10)
    client = limited("1/minute")
    for number in range(35):
        assert ask(client, address=f"192.0.2.{number}") == 200
        assert _counts(client) <= 10
    assert ask(client, address="192.0.2.34") == 429
