"""Holds the settings to what the README promises: defaults, ranges, all faults at once, and a word on slips."""

from __future__ import annotations

import os
import re

import msgspec
import pytest

from cartsvc.cart import Limits
from cartsvc.errors import SettingsError
from cartsvc.record import Policy
from cartsvc.settings import Settings

DAY = 86_400  # seconds

# Each whole number: its variable, its field, its default, its least and its most. What the environment says in seconds
# is kept in milliseconds where carts are stamped with it.
WHOLE = [
    ("PORT", "port", 8080, 1, 65_535),
    ("WEB_CONCURRENCY", "workers", None, 1, 1024),
    ("CARTSVC_THREADS", "threads", 0, 0, 1024),
    ("CARTSVC_KEEP_ALIVE", "keep_alive", 5, 1, 3600),
    ("CARTSVC_MEMORY_LIMIT", "memory_limit", 536_870_912, 1_048_576, 2**50),
    ("CARTSVC_CART_TTL", "policy.cart_ttl", 30 * DAY, 1, 3650 * DAY),
    ("CARTSVC_GUEST_TTL", "policy.guest_ttl", 7 * DAY, 1, 3650 * DAY),
    ("CARTSVC_IDEMPOTENCY_KEYS", "policy.max_keys", 32, 1, 1000),
    ("CARTSVC_IDEMPOTENCY_TTL", "policy.key_ttl", DAY, 1, 30 * DAY),
    ("CARTSVC_MAX_BODY", "max_body", 131_072, 1024, 16_777_216),
    ("CARTSVC_MAX_QUANTITY", "policy.limits.max_quantity", 999, 1, 10**9),
    ("CARTSVC_MAX_ITEMS", "policy.limits.max_items", 500, 1, 10_000),
    ("CARTSVC_MAX_CART_BYTES", "policy.limits.max_cart_bytes", 65_536, 1024, 4_194_304),
    ("CARTSVC_MAX_OPTIONS", "policy.limits.max_options", 10, 0, 100),
    ("CARTSVC_MAX_OPTION_NAME", "policy.limits.max_option_name", 64, 1, 1024),
    ("CARTSVC_MAX_OPTION_VALUE", "policy.limits.max_option_value", 256, 1, 4096),
    ("CARTSVC_MAX_UNIT_PRICE", "policy.limits.max_unit_price", 10**10, 1, 10**12),
]
OTHERS = ["CARTSVC_STORE_URL", "CARTSVC_CORS_ORIGINS", "CARTSVC_LOG_LEVEL"]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("CARTSVC_") or name in {"PORT", "WEB_CONCURRENCY"}:
            monkeypatch.delenv(name)


def field(settings: Settings, path: str) -> object:
    value: object = settings
    for name in path.split("."):
        value = getattr(value, name)
    if path.endswith("_ttl"):
        assert isinstance(value, int)
        return value / 1000
    return value


def faults(monkeypatch: pytest.MonkeyPatch, **environ: str) -> list[str]:
    """What is said of this environment."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        Settings.from_env()
    return list(error.value.faults)


def test_without_an_environment_all_is_as_the_contract_says() -> None:
    """Every setting has a default."""
    expected = Settings(
        port=8080,
        workers=None,
        threads=0,
        keep_alive=5,
        store_url="memory://",
        memory_limit=512 * 2**20,
        max_body=128 * 2**10,
        policy=Policy(
            limits=Limits(
                max_quantity=999,
                max_items=500,
                max_cart_bytes=64 * 2**10,
                max_options=10,
                max_option_name=64,
                max_option_value=256,
                max_unit_price=10**10,
            ),
            cart_ttl=30 * DAY * 1000,
            guest_ttl=7 * DAY * 1000,
            max_keys=32,
            key_ttl=DAY * 1000,
        ),
        cors_origins=(),
        log_level="info",
        warnings=(),
    )
    assert Settings.from_env() == expected


def test_the_tables_here_have_every_setting() -> None:
    """A setting that is added is tested here too."""
    fields = {each.name for each in msgspec.structs.fields(Settings)} - {"policy", "warnings"}
    fields |= {f"policy.{each.name}" for each in msgspec.structs.fields(Policy)} - {"policy.limits"}
    fields |= {f"policy.limits.{each.name}" for each in msgspec.structs.fields(Limits)}
    assert {path for _, path, *_ in WHOLE} | {"store_url", "cors_origins", "log_level"} == fields


@pytest.mark.parametrize(("name", "path", "default", "least", "most"), WHOLE, ids=[each[0] for each in WHOLE])
def test_a_whole_number_has_a_default_and_a_range(
    monkeypatch: pytest.MonkeyPatch, *, name: str, path: str, default: int | None, least: int, most: int
) -> None:
    """Both ends are taken; what is outside or no whole number is refused with the range."""
    assert field(Settings.from_env(), path) == default
    for value in (least, most):
        monkeypatch.setenv(name, str(value))
        assert field(Settings.from_env(), path) == value
    for wrong in (str(least - 1), str(most + 1), "", "x", "3.5", "1e3", "0x10", "5 MiB", "None"):
        (fault,) = faults(monkeypatch, **{name: wrong})
        assert fault == f"{name}={wrong!r}: must be a whole number from {least} to {most}"


def test_a_number_too_long_for_python_is_a_fault_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five thousand digits stop the start with a message that one can read."""
    (fault,) = faults(monkeypatch, PORT="9" * 5000)
    assert fault.startswith("PORT=")
    assert fault.endswith(": must be a whole number from 1 to 65535")


@pytest.mark.parametrize("url", ["", "memory", "memory:", "memory://x", "Memory://", "lmdb:///tmp/x", "http://x"])
def test_a_store_that_is_not_built_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """The message says which can be had."""
    assert faults(monkeypatch, CARTSVC_STORE_URL=url) == [f"CARTSVC_STORE_URL={url!r}: must be memory://"]


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_a_log_level_may_be(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """The names that gunicorn and logging share."""
    monkeypatch.setenv("CARTSVC_LOG_LEVEL", level)
    assert Settings.from_env().log_level == level


@pytest.mark.parametrize("level", ["", "INFO", "warn", "10"])
def test_a_log_level_may_not_be(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """The message lists the right ones."""
    expected = f"CARTSVC_LOG_LEVEL={level!r}: must be one of debug, info, warning, error, critical"
    assert faults(monkeypatch, CARTSVC_LOG_LEVEL=level) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("*", ("*",)),
        ("https://shop.example", ("https://shop.example",)),
        ("https://a.example, http://localhost:3000", ("https://a.example", "http://localhost:3000")),
        ("http://127.0.0.1:8080,http://[::1]:8080", ("http://127.0.0.1:8080", "http://[::1]:8080")),
    ],
)
def test_origins_are_listed(monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, ...]) -> None:
    """Separated by commas, with blanks or without."""
    monkeypatch.setenv("CARTSVC_CORS_ORIGINS", text)
    assert Settings.from_env().cors_origins == expected


@pytest.mark.parametrize(
    "text",
    [
        "shop.example",
        "https://shop.example/",
        "https://shop.example/path",
        "ftp://shop.example",
        "https://",
        "https://a.example https://b.example",
        "https://*.example",
        "null",
        "https://a.example,nonsense",
        ".*",
    ],
)
def test_what_is_no_origin_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """An origin is scheme, host and port: nothing else would ever equal what a browser sends."""
    (fault,) = faults(monkeypatch, CARTSVC_CORS_ORIGINS=text)
    expected = "must be * or origins such as https://shop.example, separated by commas"
    assert fault == f"CARTSVC_CORS_ORIGINS={text!r}: {expected}"


def test_every_fault_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One start tells all that is wrong, and what would be right."""
    wrong = {name: "wrong" for name, *_ in WHOLE} | dict.fromkeys(OTHERS, "wrong")
    found = faults(monkeypatch, **wrong)
    assert sorted(fault.partition("=")[0] for fault in found) == sorted(wrong)
    assert all(re.fullmatch(r"\w+='wrong': must be .+", fault) for fault in found)
    with pytest.raises(SettingsError) as error:
        Settings.from_env()
    assert str(error.value).splitlines() == ["cartsvc cannot start:", *(f"  - {fault}" for fault in found)]


def test_a_slip_is_a_warning_that_names_the_nearest_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that begins as ours and is none of ours does not stop the start, and does not pass unseen."""
    slips = {
        "CARTSVC_CARTTTL": "CARTSVC_CART_TTL",
        "CARTSVC_CORS_ORIGIN": "CARTSVC_CORS_ORIGINS",
        "CARTSVC_MAX_QUANTITIES": "CARTSVC_MAX_QUANTITY",
        "CARTSVC_MEMORY_LIMT": "CARTSVC_MEMORY_LIMIT",
        "CARTSVC_STOREURL": "CARTSVC_STORE_URL",
    }
    for name in slips:
        monkeypatch.setenv(name, "1")
    assert list(Settings.from_env().warnings) == [
        f"{name} is not a setting of cartsvc and has no effect; the nearest one is {nearest}"
        for name, nearest in slips.items()
    ]


def test_what_kubernetes_sets_is_no_slip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a Service called cartsvc, or cartsvc-something, every pod gets these."""
    for service in ("CARTSVC", "CARTSVC_API"):
        monkeypatch.setenv(f"{service}_SERVICE_HOST", "10.0.0.7")
        monkeypatch.setenv(f"{service}_SERVICE_PORT", "8080")
        monkeypatch.setenv(f"{service}_SERVICE_PORT_HTTP", "8080")
        monkeypatch.setenv(f"{service}_PORT", "tcp://10.0.0.7:8080")
        monkeypatch.setenv(f"{service}_PORT_8080_TCP", "tcp://10.0.0.7:8080")
        for end, value in (("PROTO", "tcp"), ("PORT", "8080"), ("ADDR", "10.0.0.7")):
            monkeypatch.setenv(f"{service}_PORT_8080_TCP_{end}", value)
    assert Settings.from_env().warnings == ()


def test_what_only_looks_like_kubernetes_is_a_slip(monkeypatch: pytest.MonkeyPatch) -> None:
    """CARTSVC_PORT=9000 was meant for PORT: Kubernetes writes an address there."""
    monkeypatch.setenv("CARTSVC_PORT", "9000")
    assert len(Settings.from_env().warnings) == 1


def test_other_programs_variables_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only names that begin as ours do are looked at."""
    monkeypatch.setenv("CART_TTL", "x")
    monkeypatch.setenv("SERVER_PORT", "x")
    assert Settings.from_env().warnings == ()


@pytest.mark.parametrize("name", ["port", "policy", "warnings"])
def test_settings_are_frozen(name: str) -> None:
    """What was checked at the start stays so."""
    with pytest.raises(AttributeError):
        setattr(Settings.from_env(), name, None)
    with pytest.raises(AttributeError):
        Settings.from_env().policy.limits.max_items = 1  # type: ignore[misc]
