"""Holds stores/urls.py to what a store's URL may say, and to never repeating a password."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cartsvc.stores.urls import LmdbConfig, MemoryConfig, PostgresqlConfig, ValkeyConfig, describe, parse_store_url

PLAIN = ["valkey", "redis", "valkeys", "rediss"]
CLUSTERS = [f"{scheme}+cluster" for scheme in PLAIN]
ALL = [*PLAIN, *CLUSTERS]
TLS = [scheme for scheme in ALL if scheme.startswith(("valkeys", "rediss"))]

GIB = 2**30
NEITHER = (
    "must be memory://, lmdb:///path, valkey://host:6379/0, valkeys://host:6379/0, valkey+cluster://host,host, "
    "valkey+sentinel://host,host/service or postgresql://host:5432/database"
)
NO_URL = "must be a URL such as lmdb:///var/lib/cartsvc or valkey://host:6379/0"
NO_PATH = "lmdb needs the absolute path of a directory, as in lmdb:///var/lib/cartsvc"
NO_SIZE = "lmdb's map_size is 4MiB to 1024TiB: a number of bytes, or one with KiB, MiB, GiB or TiB"
NO_DB = "the path of a valkey URL is the number of a database, as in /0; a cluster has only that one"
NO_HOST = "valkey needs a host, and perhaps a port, as in valkey://cache.example:6379/0"


def refusal(url: str) -> str:
    """What is said of this URL."""
    with pytest.raises(ValueError, match=r".") as error:
        parse_store_url(url)
    return str(error.value)


# ---- memory ----


def test_memory() -> None:
    """Or the directory of a running server."""
    assert parse_store_url("memory://") == MemoryConfig()
    assert parse_store_url("memory:///dev/shm/cartsvc-memory-1") == MemoryConfig("/dev/shm/cartsvc-memory-1")  # noqa: S108 - only a name


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory",
        "memory:",
        "memory:/",
        "memory:///",
        "memory://x",
        "memory://?x=1",
        "memory://#",
        "memory:///a?x=1",
        "memory:////",
        "memory:///a#b",
        "Memory://",
    ],
)
def test_what_only_looks_like_memory(url: str) -> None:
    """Whoever writes more than memory:// means something that it cannot do."""
    assert refusal(url) == NEITHER


@pytest.mark.parametrize("url", ["/var/lib/cartsvc", "http://host", "redis+tls://host", "unix:///run/valkey", "x"])
def test_what_is_none_of_ours(url: str) -> None:
    """The message says which there are."""
    assert refusal(url) == NEITHER


# ---- lmdb ----


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("lmdb:///var/lib/cartsvc", LmdbConfig("/var/lib/cartsvc", "on", 4 * GIB)),
        ("lmdb:///x?sync=on", LmdbConfig("/x", "on", 4 * GIB)),
        ("lmdb:///x?sync=lazy", LmdbConfig("/x", "lazy", 4 * GIB)),
        ("lmdb:///x?sync=off&map_size=1GiB", LmdbConfig("/x", "off", GIB)),
        ("lmdb:///x?map_size=4194304", LmdbConfig("/x", "on", 4_194_304)),
        ("lmdb:///x?map_size=4096KiB", LmdbConfig("/x", "on", 4_194_304)),
        ("lmdb:///x?map_size=4MiB", LmdbConfig("/x", "on", 4_194_304)),
        ("lmdb:///x?map_size=1024TiB", LmdbConfig("/x", "on", 2**50)),
        ("lmdb:///with%20blank%3F/%C3%A9", LmdbConfig("/with blank?/é")),
        ("LMDB:///Case/Counts", LmdbConfig("/Case/Counts")),
    ],
)
def test_lmdb(url: str, expected: LmdbConfig) -> None:
    """A directory; what a commit waits for; how large the file may become."""
    assert parse_store_url(url) == expected


@pytest.mark.parametrize(
    "url", ["lmdb:", "lmdb://", "lmdb:///", "lmdb:relative", "lmdb://relative/path", "lmdb://host/path", "lmdb:///x#y"]
)
def test_lmdb_needs_an_absolute_path(url: str) -> None:
    """Two slashes would make the first part of the path a host; the root is nobody's directory of carts."""
    assert refusal(url) == NO_PATH


def test_lmdb_paths_hold_no_nul() -> None:
    """No directory has one in its name: that would end the start with a traceback."""
    assert refusal("lmdb:///var/lib%00/cartsvc") == NO_PATH


@pytest.mark.parametrize("sync", ["", "yes", "ON", "true", "1", "meta"])
def test_lmdb_sync_is_one_of_three(sync: str) -> None:
    """A slip must not end as a store that is less durable than was meant."""
    assert refusal(f"lmdb:///x?sync={sync}") == "lmdb's sync is on, lazy or off"


@pytest.mark.parametrize(
    "size", ["", "0", "4194303", "4095KiB", "1025TiB", "1GB", "1gib", "1.5GiB", "-1GiB", "1 GiB", "1e9", "x", "9" * 99]
)
def test_lmdb_map_size_has_a_range(size: str) -> None:
    """Too small for anything, larger than any disk, or no size at all."""
    assert refusal(f"lmdb:///x?map_size={size}") == NO_SIZE


# ---- valkey ----


@pytest.mark.parametrize("scheme", ALL)
@pytest.mark.parametrize(
    ("rest", "host", "login"),
    [
        ("cache", ("cache", 6379), (None, None)),
        ("cache/", ("cache", 6379), (None, None)),
        ("cache.example:7000", ("cache.example", 7000), (None, None)),
        ("cache_1:1/0", ("cache_1", 1), (None, None)),
        ("10.0.0.7:65535", ("10.0.0.7", 65_535), (None, None)),
        ("[::1]", ("::1", 6379), (None, None)),
        ("[fd00::7]:7000/0", ("fd00::7", 7000), (None, None)),
        ("user@cache", ("cache", 6379), ("user", None)),
        (":pass@cache", ("cache", 6379), (None, "pass")),
        ("user:pass@cache:7000", ("cache", 7000), ("user", "pass")),
        ("u%3A:p%40%2F%3F%23@cache", ("cache", 6379), ("u:", "p@/?#")),
        ("user:p:a@ss@cache", ("cache", 6379), ("user", "p:a@ss")),
        (":@cache", ("cache", 6379), (None, None)),
    ],
)
def test_valkey(scheme: str, rest: str, host: tuple[str, int], login: tuple[str | None, str | None]) -> None:
    """The host, the port and who we are; the scheme says whether it is TLS, and whether a cluster."""
    config = ValkeyConfig((host,), 0, *login, tls=scheme in TLS, ca_certs=None, cluster=scheme in CLUSTERS)
    assert parse_store_url(f"{scheme}://{rest}") == config


@pytest.mark.parametrize("scheme", PLAIN)
def test_one_server_has_databases(scheme: str) -> None:
    """By their numbers."""
    assert parse_store_url(f"{scheme}://cache/15") == ValkeyConfig(hosts=(("cache", 6379),), db=15, tls=scheme in TLS)


@pytest.mark.parametrize("scheme", ALL)
@pytest.mark.parametrize("path", ["x", "-1", "0/1", "99999", "0#x", "1.0"])
def test_a_database_is_a_number(scheme: str, path: str) -> None:
    """Whoever writes a name is told."""
    assert refusal(f"{scheme}://cache/{path}") == NO_DB


@pytest.mark.parametrize("scheme", CLUSTERS)
def test_a_cluster_has_several_hosts_and_one_database(scheme: str) -> None:
    """Any node will do to begin with; database 0 is the only one that clusters have."""
    config = parse_store_url(f"{scheme}://user:p,w@h1,h2:7000,[::1]:7001/0")
    hosts = (("h1", 6379), ("h2", 7000), ("::1", 7001))
    assert config == ValkeyConfig(hosts, 0, "user", "p,w", tls=scheme in TLS, cluster=True)
    assert refusal(f"{scheme}://h1,h2/1") == NO_DB


@pytest.mark.parametrize("scheme", PLAIN)
def test_several_hosts_are_a_cluster(scheme: str) -> None:
    """A list would otherwise be read as one server, and the others forgotten."""
    assert refusal(f"{scheme}://h1,h2") == "several hosts are those of a cluster: valkey+cluster://host,host"


@pytest.mark.parametrize("scheme", ALL)
@pytest.mark.parametrize(
    "hosts", ["", ":6379", "cache:", "cache:0", "cache:65536", "cache:x", "cache:-1", "a b", "a%2Fb", "h1,", "h1,,h2"]
)
def test_valkey_needs_a_host(scheme: str, hosts: str) -> None:
    """What is no host, and what is no port."""
    assert refusal(f"{scheme}://{hosts}/0") == NO_HOST


@pytest.mark.parametrize("scheme", TLS)
def test_tls_may_trust_certificates_of_its_own(scheme: str) -> None:
    """A file of them; without it, the system's."""
    config = parse_store_url(f"{scheme}://cache/0?ca_certs=/etc/ssl/shop.pem")
    assert isinstance(config, ValkeyConfig)
    assert config.ca_certs == "/etc/ssl/shop.pem"


@pytest.mark.parametrize("url", ["valkey://[::1", "redis://::1]", "lmdb://[x", "valkey://user:pass@cache℀"])
def test_what_is_no_url_at_all(url: str) -> None:
    """Brackets that do not match; characters that look like others."""
    assert refusal(url) == NO_URL


# ---- sentinels ----

SENTINELS = [f"{scheme}+sentinel" for scheme in PLAIN]
NO_SERVICE = "a sentinel URL has the name of the service, as in valkey+sentinel://host,host/service/0"


@pytest.mark.parametrize("scheme", SENTINELS)
@pytest.mark.parametrize(
    ("rest", "hosts", "service", "db"),
    [
        ("a/shop", (("a", 26_379),), "shop", 0),
        ("a,b:1/shop/", (("a", 26_379), ("b", 1)), "shop", 0),
        ("[::1]/my-shop.1/15", (("::1", 26_379),), "my-shop.1", 15),
    ],
)
def test_sentinels(scheme: str, rest: str, hosts: tuple[tuple[str, int], ...], service: str, db: int) -> None:
    """Some of them, the service that they watch, and perhaps a database; the login is that of the servers."""
    config = ValkeyConfig(hosts, db, "user", "p", tls=not scheme.startswith(("valkey+", "redis+")), service=service)
    assert parse_store_url(f"{scheme}://user:p@{rest}") == config
    assert describe(config).endswith(f"/{service}/{db}")


@pytest.mark.parametrize("path", ["", "/", "/0/1/2", "/shop/x", "/shop/99999", "/a b", "/shop#x"])
def test_sentinels_need_a_service(path: str) -> None:
    """Without its name they cannot be queried."""
    assert refusal(f"valkey+sentinel://host{path}") == NO_SERVICE


@pytest.mark.parametrize("scheme", TLS)
def test_a_client_certificate_has_a_key(scheme: str) -> None:
    """Neither is of use without the other."""
    config = parse_store_url(f"{scheme}://cache?ssl_cert=/c.pem&ssl_key=/k.pem")
    assert isinstance(config, ValkeyConfig)
    assert (config.ssl_cert, config.ssl_key) == ("/c.pem", "/k.pem")
    told = "ssl_cert and ssl_key belong together: the certificate of this client, and its key"
    assert [refusal(f"{scheme}://cache?{name}=/x") for name in ("ssl_cert", "ssl_key")] == [told, told]
    assert refusal(f"{scheme}://cache?ca_certs=") == "ca_certs is the path of a file"


# ---- postgresql ----

NO_DATABASE = "the path of a postgresql URL is the name of a database, as in postgresql://host:5432/shop"
NO_POSTGRESQL = "postgresql needs a host, and perhaps a port, as in postgresql://db.example:5432/shop"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("db", PostgresqlConfig((("db", 5432),))),
        ("db/", PostgresqlConfig((("db", 5432),))),
        ("db/shop", PostgresqlConfig((("db", 5432),), "shop")),
        ("db.example:6543/shop", PostgresqlConfig((("db.example", 6543),), "shop")),
        ("[fd00::7]:1/a%20b", PostgresqlConfig((("fd00::7", 1),), "a b")),
        ("user@db/shop", PostgresqlConfig((("db", 5432),), "shop", "user")),
        ("user:p:a%40%2Fss@db/shop", PostgresqlConfig((("db", 5432),), "shop", "user", "p:a@/ss")),
        (
            "a,b:1/shop",
            PostgresqlConfig((("a", 5432), ("b", 1)), "shop", target_session_attrs="read-write"),
        ),
        (
            "a,b/shop?target_session_attrs=any",
            PostgresqlConfig((("a", 5432), ("b", 5432)), "shop", target_session_attrs="any"),
        ),
        (
            "db/shop?sslmode=verify-full&sslrootcert=/ca.pem&sslcert=/c.pem&sslkey=/k.pem",
            PostgresqlConfig(
                (("db", 5432),), "shop", sslmode="verify-full", sslrootcert="/ca.pem", sslcert="/c.pem", sslkey="/k.pem"
            ),
        ),
    ],
)
def test_postgresql(scheme: str, rest: str, expected: PostgresqlConfig) -> None:
    """Hosts, database, login and TLS; of several servers, the one that takes writes."""
    assert parse_store_url(f"{scheme}://{rest}") == expected


@pytest.mark.parametrize("path", ["/a/b", "/a#b", "/a%00"])
def test_the_path_is_a_database(path: str) -> None:
    """And nothing else; without one it is that of the user's name."""
    assert refusal(f"postgresql://db{path}") == NO_DATABASE


@pytest.mark.parametrize("hosts", ["", ":5432", "db:", "db:0", "db:65536", "db:x", "a b", "a,", "a,,b", "%2Frun"])
def test_postgresql_needs_a_host(hosts: str) -> None:
    """What is no host, and what is no port."""
    assert refusal(f"postgresql://{hosts}/shop") == NO_POSTGRESQL


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("sslmode=on", "sslmode is one of disable, allow, prefer, require, verify-ca, verify-full"),
        ("target_session_attrs=standby", "target_session_attrs is one of any, read-write, primary"),
        ("sslmode=verify-full", "sslmode=verify-full needs sslrootcert=/path/ca.pem, the certificates to trust"),
        ("sslrootcert=", "sslrootcert, sslcert and sslkey are paths of files"),
        ("sslcert=/c.pem", "sslcert and sslkey belong together: the certificate of this client, and its key"),
        (
            "options=-c%20x",
            "a postgresql URL takes the options sslcert, sslkey, sslmode, sslrootcert, target_session_attrs",
        ),
    ],
)
def test_postgresql_options(options: str, told: str) -> None:
    """A slip must not end as a connection that is less safe than was meant."""
    assert refusal(f"postgresql://db/shop?{options}") == told


def test_postgresql_has_one_login() -> None:
    """For all of its servers."""
    told = "a postgresql URL has one user and password, before all hosts; an @ in a password is %40"
    assert refusal("postgresql://u:p@a,u:p@b/shop") == told


def test_a_log_shows_hosts_and_database() -> None:
    """And neither user nor password."""
    config = parse_store_url("postgresql://user:geheim@a,[::1]:1/shop?sslmode=require")
    assert describe(config) == "postgresql://a:5432,[::1]:1/shop"
    assert repr(config) == "PostgresqlConfig(hosts=(('a', 5432), ('::1', 1)), ...)"


# ---- options ----


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("lmdb:///x?maps_size=1GiB", ["map_size", "sync"]),
        ("lmdb:///x?sync=on&readonly=1", ["map_size", "sync"]),
        ("lmdb:///x?ca_certs=/y", ["map_size", "sync"]),
        ("valkeys://h?sync=on", ["ca_certs", "ssl_cert", "ssl_key"]),
        ("rediss+cluster://h?ssl_ca_certs=/y", ["ca_certs", "ssl_cert", "ssl_key"]),
        ("valkey://h?ca_certs=/y", []),
        ("redis://h?db=3", []),
        ("valkey+cluster://h?x", []),
    ],
)
def test_an_option_that_there_is_not(url: str, told: list[str]) -> None:
    """A slip is refused, not ignored; the message says which options there are."""
    said = refusal(url)
    assert [
        name for name in ("ca_certs", "map_size", "ssl_cert", "ssl_key", "sync") if name in said.rpartition(":")[2]
    ] == told


@pytest.mark.parametrize("url", ["lmdb:///x?sync=on&sync=off", "valkeys://h?ca_certs=/a&ca_certs=/a"])
def test_an_option_stands_once(url: str) -> None:
    """Of two values nobody knows which one was meant."""
    assert refusal(url) == "an option of the URL is given twice"


# ---- passwords ----

_AROUND = st.text(st.sampled_from(string.punctuation + " %09éA"), max_size=4)


@given(
    scheme=st.sampled_from([*ALL, "memory", "lmdb", "http", "postgresql", "valkey+sentinel", ""]),
    before=_AROUND,
    after=_AROUND,
    template=st.sampled_from(
        [
            "{}://user:{}@host/0",
            "{}://:{}@h1,h2",
            "{}://{}@host/x",
            "{}://host?password={}",
            "{}://user:{}%40host",
            "{}:{}",
        ]
    ),
)
@example(scheme="valkey", before="a?", after="", template="{}://user:{}@host/0")
@example(scheme="valkey", before="a?b&", after="=c", template="{}://user:{}@host/0")
@example(scheme="valkeys", before="a#", after="", template="{}://user:{}@host/0")
@example(scheme="redis", before="a/", after="", template="{}://user:{}@host/0")
@example(scheme="redis", before="[", after="]", template="{}://user:{}@host/0")
def test_a_refusal_repeats_no_password(scheme: str, before: str, after: str, template: str) -> None:
    """However it was written: characters in it that end the login of a URL are the usual slip."""
    said = _said(template.format(scheme, f"{before}s3cret{after}"))
    assert "s3cret" not in (said or "")


@given(st.text() | st.builds("{}://{}".format, st.sampled_from([*ALL, "lmdb", "memory", "postgresql"]), st.text()))
def test_any_text_is_a_place_or_a_refusal(url: str) -> None:
    """Nothing else is raised, whatever stands in the environment."""
    said = _said(url)
    assert said is None or len(said) > 20


def _said(url: str) -> str | None:
    """What is said of this URL if it is refused."""
    try:
        parse_store_url(url)
    except ValueError as error:
        return str(error)
    return None
