"""Test the settings: defaults, ranges, all faults at once, and warnings about misspelt names."""

from __future__ import annotations

import re
import sys
import traceback

import msgspec
import pytest
from limits.storage import RedisStorage

from cartsvc.carts.cart import Limits
from cartsvc.carts.record import Policy
from cartsvc.errors import SettingsError
from cartsvc.settings import EnvReader, Settings
from cartsvc.stores.urls import LmdbConfig, MemoryConfig, ValkeyConfig

pytestmark = pytest.mark.usefixtures("nothing_set")

DAY = 86_400  # seconds

# Each whole number: variable, field, default, minimum and maximum. Lifetimes are in seconds in the environment, and in
# milliseconds in Settings.
WHOLE = [
    ("PORT", "port", 8080, 1, 65_535),
    ("WEB_CONCURRENCY", "workers", None, 1, 1024),
    ("CARTSVC_THREADS", "threads", 0, 0, 1024),
    ("CARTSVC_KEEP_ALIVE", "keep_alive", 5, 1, 3600),
    ("CARTSVC_TRUSTED_PROXIES", "trusted_proxies", 0, 0, 10),
    ("CARTSVC_MEMORY_LIMIT", "memory_limit", 536_870_912, 1_048_576, 2**50),
    ("CARTSVC_CART_TTL", "policy.cart_ttl_ms", 30 * DAY, 1, 3650 * DAY),
    ("CARTSVC_GUEST_TTL", "policy.guest_ttl_ms", 7 * DAY, 1, 3650 * DAY),
    ("CARTSVC_IDEMPOTENCY_KEYS", "policy.max_idempotency_keys", 32, 1, 1000),
    ("CARTSVC_IDEMPOTENCY_TTL", "policy.idempotency_ttl_ms", DAY, 1, 30 * DAY),
    ("CARTSVC_MAX_BODY", "max_body", 131_072, 1024, 16_777_216),
    ("CARTSVC_MAX_QUANTITY", "policy.limits.max_quantity", 999, 1, 10**9),
    ("CARTSVC_MAX_ITEMS", "policy.limits.max_items", 500, 1, 10_000),
    ("CARTSVC_MAX_CART_BYTES", "policy.limits.max_cart_bytes", 65_536, 1024, 4_194_304),
    ("CARTSVC_MAX_OPTIONS", "policy.limits.max_options", 10, 0, 100),
    ("CARTSVC_MAX_OPTION_NAME", "policy.limits.max_option_name", 64, 1, 1024),
    ("CARTSVC_MAX_OPTION_VALUE", "policy.limits.max_option_value", 256, 1, 4096),
    ("CARTSVC_MAX_UNIT_PRICE", "policy.limits.max_unit_price", 10**10, 1, 10**12),
    ("CARTSVC_MAX_METADATA", "policy.limits.max_metadata", 20, 0, 100),
    ("CARTSVC_MAX_METADATA_VALUE", "policy.limits.max_metadata_value", 500, 1, 4096),
]
OTHERS = [
    *("HOST", "CARTSVC_STORE_URL", "CARTSVC_STORE_TIMEOUT"),
    *("CARTSVC_CORS_ORIGINS", "CARTSVC_CORS_HEADERS", "CARTSVC_LOG_LEVEL"),
    *("CARTSVC_LOG_FORMAT", "CARTSVC_ACCESS_LOG", "CARTSVC_SLOW_REQUEST", "CARTSVC_METRICS_PORT"),
    *("CARTSVC_DRAIN", "OTEL_EXPORTER_OTLP_ENDPOINT"),
]
WRONG = "wr ong"  # every setting rejects it
SECRET = "a secret of 32 bytes or of more.."  # noqa: S105 - of no service


def field(settings: Settings, path: str) -> object:
    value: object = settings
    for name in path.split("."):
        value = getattr(value, name)
    if path.endswith("_ttl_ms"):
        assert isinstance(value, int)
        return value / 1000
    return value


def faults(monkeypatch: pytest.MonkeyPatch, **environ: str) -> list[str]:
    """Return the faults of this environment."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        Settings.from_env()
    return list(error.value.faults)


def test_defaults() -> None:
    """Every setting has a default."""
    expected = Settings(
        host="0.0.0.0",  # noqa: S104 - the documented default
        port=8080,
        workers=None,
        threads=0,
        keep_alive=5,
        store=MemoryConfig(),
        store_timeout=2.0,
        key_prefix="cart:",
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
                max_metadata=20,
                max_metadata_value=500,
            ),
            cart_ttl_ms=30 * DAY * 1000,
            guest_ttl_ms=7 * DAY * 1000,
            max_idempotency_keys=32,
            idempotency_ttl_ms=DAY * 1000,
        ),
        auth=None,
        rate_limit=None,
        trusted_proxies=0,
        cors_origins=(),
        cors_headers=(),
        log_level="info",
        log_format=None,
        metrics_port=None,
        access_log="errors",
        slow_request=1.0,
        drain=0.0,
        otlp_endpoint=None,
        warnings=(),
    )
    assert Settings.from_env() == expected


def test_the_tables_here_have_every_setting() -> None:
    """A setting that is added is tested here too."""
    fields = {each.name for each in msgspec.structs.fields(Settings)} - {"policy", "warnings"}
    fields |= {f"policy.{each.name}" for each in msgspec.structs.fields(Policy)} - {"policy.limits"}
    fields |= {f"policy.limits.{each.name}" for each in msgspec.structs.fields(Limits)}
    others = {"host", "store", "store_timeout", "key_prefix", "auth", "rate_limit"}
    others |= {"cors_origins", "cors_headers", "log_level", "log_format", "access_log", "slow_request", "metrics_port"}
    others |= {"drain", "otlp_endpoint"}
    assert {path for _, path, *_ in WHOLE} | others == fields


@pytest.mark.parametrize(("name", "path", "default", "least", "most"), WHOLE, ids=[each[0] for each in WHOLE])
def test_a_whole_number_has_a_default_and_a_range(
    monkeypatch: pytest.MonkeyPatch, *, name: str, path: str, default: int | None, least: int, most: int
) -> None:
    """Both ends are accepted; any other value is rejected with the range."""
    assert field(Settings.from_env(), path) == default
    for value in (least, most):
        monkeypatch.setenv(name, str(value))
        assert field(Settings.from_env(), path) == value
    for wrong in (str(least - 1), str(most + 1), "", "x", "3.5", "1e3", "0x10", "5 MiB", "None"):
        (fault,) = faults(monkeypatch, **{name: wrong})
        assert fault == f"{name}={wrong!r}: must be a whole number from {least} to {most}"


def test_a_number_too_long_for_python_is_a_fault_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five thousand digits fail the start with a readable message."""
    (fault,) = faults(monkeypatch, PORT="9" * 5000)
    assert fault.startswith("PORT=")
    assert fault.endswith(": must be a whole number from 1 to 65535")


def test_the_environment_is_passed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is read, and the names of all settings are recorded, set or not."""
    monkeypatch.setenv("CARTSVC_THREADS", "wrong")
    reader = EnvReader({"PORT": "9000"})
    settings = Settings.read(reader)
    assert (settings.port, settings.threads) == (9000, 0)
    assert len(reader.names) == len(set(reader.names)) >= len(WHOLE) + len(OTHERS)
    assert {*OTHERS, *(name for name, *_ in WHOLE)} <= set(reader.names)


# ---- the store ----


@pytest.mark.parametrize(
    "prefix", ["cart:", "c", "shop-2/cart:", "!#$%&()+,-./~^_`|<=>;@", "x" * 64, "limits:", "LIMITER:"]
)
def test_a_key_prefix_is_taken(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    """Letters, digits and most signs."""
    monkeypatch.setenv("CARTSVC_KEY_PREFIX", prefix)
    assert Settings.from_env().key_prefix == prefix


@pytest.mark.parametrize("prefix", ["", " ", "a b", "a\t", "a\n", "\x7f", "\u00fc:", "x" * 65, *"*?[]{}\\'\""])
def test_a_key_prefix_that_would_match_other_keys_is_refused(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    """Blanks, quotes, what SCAN and access lists take for a pattern, and what decides about a cluster's slots."""
    fault = "must be 1 to 64 printable ASCII characters without blanks, quotes and * ? [ ] { } \\"
    assert faults(monkeypatch, CARTSVC_KEY_PREFIX=prefix) == [f"CARTSVC_KEY_PREFIX={prefix!r}: {fault}"]


@pytest.mark.parametrize("prefix", ["L", "LIMIT", "LIMITS", "LIMITS:", "LIMITS:cart:"])
def test_a_key_prefix_of_the_counters_is_refused(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    """Or `carts stats` would take the counters of CARTSVC_RATE_LIMIT for damaged carts."""
    assert f"{RedisStorage.PREFIX}:".startswith(prefix) or prefix.startswith(f"{RedisStorage.PREFIX}:")
    (fault,) = faults(monkeypatch, CARTSVC_KEY_PREFIX=prefix)
    assert "must not begin as LIMITS: does" in fault


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("memory://", MemoryConfig()),
        ("lmdb:///var/lib/cartsvc?sync=lazy", LmdbConfig("/var/lib/cartsvc", "lazy")),
        ("valkeys://user:s3cret@cache/1", ValkeyConfig((("cache", 6379),), 1, "user", "s3cret", tls=True)),
    ],
)
def test_a_store_url_names_a_place(monkeypatch: pytest.MonkeyPatch, url: str, place: object) -> None:
    """It is read at the start, with all other settings; tests/unit/stores/test_urls.py has what it may say."""
    monkeypatch.setenv("CARTSVC_STORE_URL", url)
    assert Settings.from_env().store == place


_NO_STORE = (
    "must be memory://, lmdb:///path, valkey://host:6379/0, valkeys://host:6379/0, valkey+cluster://host,host, "
    "valkey+sentinel://host,host/service or postgresql://host:5432/database"
)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", _NO_STORE),
        ("memory", _NO_STORE),
        ("lmdb://relative", "lmdb needs the absolute path of a directory, as in lmdb:///var/lib/cartsvc"),
        ("lmdb:///x?sync=yes", "lmdb's sync is on, lazy or off"),
    ],
)
def test_a_store_url_that_is_wrong_is_refused(monkeypatch: pytest.MonkeyPatch, url: str, fault: str) -> None:
    """The message contains what is expected and nothing of the URL, because any part may be a password."""
    assert faults(monkeypatch, CARTSVC_STORE_URL=url) == [f"CARTSVC_STORE_URL=...: {fault}"]


@pytest.mark.parametrize(
    "url",
    [
        "valkey://:s3cret@",
        "valkey://:s3cret@host:x",
        "valkey://user:s3cret@host/name",
        "valkey://user:s3cret@host?db=1",
        "valkey://user:a?s3cret@host/0",
        "valkey://user:a?b&s3cret=c@host/0",
        "valkey://user:a#s3cret@host/0",
        "valkey://user:a/s3cret@host/0",
        "valkey://user:[s3cret@host/0",
        "valkey://user:s3cret@h1,h2",
        "postgresql://user:a?s3cret@host/shop",
        "postgresql://user:a#s3cret@host/shop",
        "postgresql://user:s3cret@host:x",
        "postgresql://host/shop?password=s3cret",
        "valkey://user:s3cret@host℀",
        "valkey+cluster://user:s3cret@h1,h2/1",
        "valkey+sentinel://user:s3cret@host",
        "valkeyss://user:s3cret@host",
        "user:s3cret@host",
        "http://user:s3cret@host",
        "memory://user:s3cret@host",
        "lmdb://user:s3cret@host/path",
        # Without an @: it was escaped, is a parameter as other clients take it, stands where a port should.
        "valkey://user:s3cret%40host/0",
        "valkey://host/0?password=s3cret",
        "vlakey://host/0?password=s3cret",
        "redis://user:s3cret",
        "redis:user:s3cret",
    ],
)
def test_no_password_is_repeated(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """The faults of a failed start and its traceback are logged, so neither contains the password."""
    monkeypatch.setenv("CARTSVC_STORE_URL", url)
    with pytest.raises(SettingsError) as error:
        Settings.from_env()
    (fault,) = error.value.faults
    assert fault.startswith("CARTSVC_STORE_URL=")
    assert "s3cret" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("name", ["PORT", *OTHERS])
def test_no_password_is_repeated_from_another_setting(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The URL may be in the wrong variable."""
    (fault,) = faults(monkeypatch, **{name: "valkey://user:s3cret@host/name"})
    assert fault.startswith(f"{name}=")
    assert "s3cret" not in fault


def test_a_slip_repeats_no_password_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is no setting may hold one all the same."""
    monkeypatch.setenv("CARTSVC_STOREURL", "valkey://:s3cret@host")
    assert "s3cret" not in "".join(Settings.from_env().warnings)


@pytest.mark.parametrize(("text", "seconds"), [("2", 2.0), ("0.1", 0.1), ("60", 60.0), ("1.25", 1.25), ("5e-1", 0.5)])
def test_the_stores_time_may_be_a_fraction(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    """Both ends are taken."""
    monkeypatch.setenv("CARTSVC_STORE_TIMEOUT", text)
    assert Settings.from_env().store_timeout == seconds


@pytest.mark.parametrize("text", ["", "0", "0.099", "60.001", "-1", "nan", "inf", "-inf", "2s", "1,5", "x", "9" * 5000])
def test_the_stores_time_has_a_range(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Values outside and values that are not numbers are rejected, so that no request waits forever."""
    (fault,) = faults(monkeypatch, CARTSVC_STORE_TIMEOUT=text)
    assert fault == f"CARTSVC_STORE_TIMEOUT={text!r}: must be a number from 0.1 to 60"


# ---- tracing ----


@pytest.mark.parametrize("url", ["http://collector:4318", "https://collector.example/otlp", "http://[::1]:4318/"])
def test_a_collector_is_a_url(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """OpenTelemetry completes the path."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    assert Settings.from_env().otlp_endpoint == url


def test_an_empty_collector_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the specification of OpenTelemetry has it, because orchestrators set empty variables."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    assert Settings.from_env().otlp_endpoint is None


@pytest.mark.parametrize("url", ["collector:4318", "grpc://collector:4317", "http://", "http:///v1/traces", " "])
def test_another_collector_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Spans would be lost in silence."""
    fault = f"OTEL_EXPORTER_OTLP_ENDPOINT={url!r}: must be a URL such as http://collector:4318"
    assert faults(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=url) == [fault]


@pytest.mark.parametrize("package", ["opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"])
def test_tracing_without_its_packages_is_refused(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Each of them is optional; the fault has the command that installs all."""
    monkeypatch.setitem(sys.modules, package, None)
    (fault,) = faults(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318")
    assert fault.endswith(": needs packages that are not installed: pip install -r requirements-otel.txt")


# ---- processes and threads ----


@pytest.mark.parametrize(
    ("url", "concurrency", "processes"),
    [
        ("memory://", None, 6),
        ("lmdb:///x", "3", 3),
        ("valkey+cluster://host", "1", 1),
    ],
)
def test_a_process_a_core(monkeypatch: pytest.MonkeyPatch, url: str, concurrency: str | None, processes: int) -> None:
    """On every store; WEB_CONCURRENCY decides otherwise."""
    monkeypatch.setattr("cartsvc.settings.available_cpus", lambda: 6)
    monkeypatch.setenv("CARTSVC_STORE_URL", url)
    if concurrency is not None:
        monkeypatch.setenv("WEB_CONCURRENCY", concurrency)
    settings = Settings.from_env()
    assert settings.worker_count == processes
    assert settings.workers == (None if concurrency is None else int(concurrency))


@pytest.mark.parametrize(("threads", "least"), [(None, 4), ("0", 4), ("8", 32)])
def test_readers_are_more_than_all_threads(monkeypatch: pytest.MonkeyPatch, threads: str | None, least: int) -> None:
    """Workers being replaced overlap with new ones, and commands run too, so there is room for a hundred more."""
    monkeypatch.setenv("CARTSVC_STORE_URL", "lmdb:///x")
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    if threads is not None:
        monkeypatch.setenv("CARTSVC_THREADS", threads)
    assert Settings.from_env().max_readers >= 2 * least + 100


# ---- the rest ----


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical", "INFO", "Warning"])
def test_a_log_level_may_be(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """The names that gunicorn and logging share, in any case."""
    monkeypatch.setenv("CARTSVC_LOG_LEVEL", level)
    assert Settings.from_env().log_level == level.lower()


@pytest.mark.parametrize("level", ["", "warn", "10"])
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
        ("https://shop.example:443,http://shop.example:80", ("https://shop.example", "http://shop.example")),
        ("https://shop.example:80,http://shop.example:443", ("https://shop.example:80", "http://shop.example:443")),
        ("https://shop.example:0443,http://x:03000", ("https://shop.example", "http://x:3000")),
        ("https://Shop.Example", ("https://shop.example",)),
        ("http://[0:0:0:0:0:0:0:1]:80,http://[2001:DB8::0:1]", ("http://[::1]", "http://[2001:db8::1]")),
        (
            "https://*.preview.example,https://*.Preview.example:443,http://*.localhost:3000",
            ("https://*.preview.example", "https://*.preview.example", "http://*.localhost:3000"),
        ),
    ],
)
def test_origins_are_listed(monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, ...]) -> None:
    """Separated by commas, with blanks or without, and in the form in which a browser sends them."""
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
        "https://*",
        "https://*:443",
        "https://*.",
        "https://*shop.example",
        "https://shop.*.example",
        "https://*.*.example",
        "*.shop.example",
        "*://shop.example",
        "https://*.[::1]",
        "https://shop.example:*",
        "https://shop.example:0",
        "https://shop.example:65536",
        "https://[::1",
        "https://[1:2]",
        "null",
        "https://a.example,nonsense",
        ".*",
    ],
)
def test_what_is_no_origin_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """An origin is scheme, host and port: nothing else would ever equal what a browser sends."""
    (fault,) = faults(monkeypatch, CARTSVC_CORS_ORIGINS=text)
    expected = "must be * or origins such as https://shop.example or https://*.shop.example, separated by commas"
    assert fault == f"CARTSVC_CORS_ORIGINS={text!r}: {expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ()), ("X-Session", ("X-Session",)), ("X-Session, X_App.Version", ("X-Session", "X_App.Version"))],
)
def test_headers_are_listed(monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, ...]) -> None:
    """Separated by commas, with blanks or without."""
    monkeypatch.setenv("CARTSVC_CORS_HEADERS", text)
    assert Settings.from_env().cors_headers == expected


@pytest.mark.parametrize("text", ["*", "X-Session: 1", "X Session", "X-Session,", "X-Sessiön", "(x)", '"X-Session"'])
def test_what_is_no_header_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A name is a token (RFC 9110, section 5.6.2); ``*`` is no wildcard in a list of allowed headers."""
    expected = f"CARTSVC_CORS_HEADERS={text!r}: must be names of headers such as X-Session, separated by commas"
    assert faults(monkeypatch, CARTSVC_CORS_HEADERS=text) == [expected]


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "::", "::1", "2001:db8::7"])  # noqa: S104 - one of them
def test_a_host_may_be(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """An address of either family, without brackets."""
    monkeypatch.setenv("HOST", host)
    assert Settings.from_env().host == host


@pytest.mark.parametrize(
    "host", ["", "localhost", "*", "[::1]", "127.0.0.1:80", "256.0.0.1", "fe80::1%eth0", "unix:/x", " ::1"]
)
def test_a_host_may_not_be(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """A name could be several addresses, and some shells set HOST to the name of the machine."""
    assert faults(monkeypatch, HOST=host) == [f"HOST={host!r}: must be an IP address such as 127.0.0.1 or ::"]


# ---- authentication that was meant ----


@pytest.mark.parametrize(
    "name",
    [
        *("CARTSVC_JWT_KEY", "CARTSVC_JWT_JWKS_URL", "CARTSVC_JWT_ALGORITHMS", "CARTSVC_JWT_ISSUER"),
        *("CARTSVC_JWT_AUDIENCE", "CARTSVC_GUEST_KEY", "CARTSVC_JWT_KEYS", "CARTSVC_GUEST_KEYS"),
    ],
)
@pytest.mark.parametrize("value", ["s3cret", ""])
def test_keys_without_authentication_stop_the_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """CARTSVC_AUTH=jwt was forgotten: without it every cart would be open. Misspelt and empty keys count as well."""
    (fault,) = faults(monkeypatch, **{name: value})
    assert fault == (
        f"CARTSVC_AUTH: must be set together with {name}: to jwt, or to none if every client may read and "
        "change every cart"
    )


def test_all_keys_without_authentication_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one fault, without a value."""
    (fault,) = faults(monkeypatch, CARTSVC_JWT_KEY=SECRET, CARTSVC_GUEST_KEY=SECRET)
    assert "CARTSVC_GUEST_KEY, CARTSVC_JWT_KEY" in fault
    assert SECRET not in fault


def test_a_wrong_authentication_is_one_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """CARTSVC_AUTH is set, so there is no fault about its absence."""
    (fault,) = faults(monkeypatch, CARTSVC_AUTH="JWT", CARTSVC_JWT_KEY=SECRET)
    assert fault == "CARTSVC_AUTH='JWT': must be one of none, jwt"


def test_open_on_purpose_starts_and_names_what_it_ignores(monkeypatch: pytest.MonkeyPatch) -> None:
    """CARTSVC_AUTH=none with keys is a choice, so it is a warning; the keys need not be valid."""
    for name, value in {"CARTSVC_AUTH": "none", "CARTSVC_JWT_KEY": "weak", "CARTSVC_GUEST_KEY": SECRET}.items():
        monkeypatch.setenv(name, value)
    settings = Settings.from_env()
    assert settings.auth is None
    assert settings.warnings == (
        "CARTSVC_AUTH=none ignores CARTSVC_GUEST_KEY, CARTSVC_JWT_KEY: no token is checked or issued",
    )


# ---- what is around a URL ----

_QUOTED = "must have no quotation marks around it"
_BLANKS = "must have no blanks or line breaks around it"


@pytest.mark.parametrize(
    ("wrapped", "fault"),
    [
        ('"{}"', _QUOTED),
        ("'{}'", _QUOTED),
        ('"{}', _QUOTED),
        ("{}'", _QUOTED),
        (" {}", _BLANKS),
        ("{} ", _BLANKS),
        ("{}\n", _BLANKS),
        ('"{}" ', _BLANKS),
    ],
)
def test_quotes_and_blanks_around_a_url_are_named(monkeypatch: pytest.MonkeyPatch, wrapped: str, fault: str) -> None:
    """The value is not shown, so the fault names the invisible characters; the rest of the URL is valid."""
    store = faults(monkeypatch, CARTSVC_STORE_URL=wrapped.format("valkey://:s3cret@cache"))
    assert store == [f"CARTSVC_STORE_URL=...: {fault}"]
    monkeypatch.delenv("CARTSVC_STORE_URL")
    keys = faults(
        monkeypatch,
        CARTSVC_AUTH="jwt",
        CARTSVC_GUEST_KEY=SECRET,
        CARTSVC_JWT_JWKS_URL=wrapped.format("https://issuer.example/s3cret"),
    )
    assert keys == [f"CARTSVC_JWT_JWKS_URL: {fault}"]


# ---- faults and slips ----


def test_every_fault_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One start reports all faults, each with what is expected."""
    wrong = {name: WRONG for name, *_ in WHOLE} | dict.fromkeys(OTHERS, WRONG)
    found = faults(monkeypatch, **wrong)
    assert sorted(fault.partition("=")[0] for fault in found) == sorted(wrong)
    assert all(re.fullmatch(r"\w+=('wr ong'|\.\.\.): must be .+", fault) for fault in found)
    with pytest.raises(SettingsError) as error:
        Settings.from_env()
    assert str(error.value).splitlines() == ["cartsvc cannot start:", *(f"  - {fault}" for fault in found)]


def test_a_slip_is_a_warning_that_names_the_nearest_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown variable with our prefix does not fail the start, and causes a warning."""
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
    """With a Service called cartsvc, or cartsvc-something, every pod has these variables."""
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
    slips = {"CARTSVC_HOST": "HOST", "CARTSVC_PORT": "PORT", "CARTSVC_WEB_CONCURRENCY": "WEB_CONCURRENCY"}
    for name in slips:
        monkeypatch.setenv(name, "9000")
    assert list(Settings.from_env().warnings) == [
        f"{name} is not a setting of cartsvc and has no effect; the nearest one is {meant}"
        for name, meant in slips.items()
    ]


def test_other_programs_variables_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only names that begin as ours do are looked at."""
    monkeypatch.setenv("CART_TTL", "x")
    monkeypatch.setenv("SERVER_PORT", "x")
    assert Settings.from_env().warnings == ()


@pytest.mark.parametrize("name", ["port", "store", "policy", "warnings"])
def test_settings_are_frozen(name: str) -> None:
    """What was checked at the start stays so."""
    with pytest.raises(AttributeError):
        setattr(Settings.from_env(), name, None)
    with pytest.raises(AttributeError):
        Settings.from_env().policy.limits.max_items = 1  # type: ignore[misc]


def test_metrics_have_a_port_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the port of the carts, every client could read them."""
    expected = "CARTSVC_METRICS_PORT=9000: must differ from PORT"
    assert faults(monkeypatch, CARTSVC_METRICS_PORT="9000", PORT="9000") == [expected]
