"""Parse and check the URL of a store, before any driver is imported."""

from __future__ import annotations

import re
from typing import Literal, TypeVar, get_args
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from msgspec import Struct

POOL_SIZE = 64  # connections of one process to one server; when all are in use, a request waits for one

_KIB = 2**10
_UNITS = {"": 1, "KiB": _KIB, "MiB": _KIB**2, "GiB": _KIB**3, "TiB": _KIB**4}
_SIZE = re.compile(r"([1-9]\d{0,15})(KiB|MiB|GiB|TiB)?")
KEY_PREFIX = "cart:"  # begins each key in Valkey, unless CARTSVC_KEY_PREFIX is set
_COUNTERS = "LIMITS:"  # begins the keys of the rate counters; the library limits defines it
_PREFIX = re.compile(r"[!-~]{1,64}")
_NO_PREFIX = frozenset("*?[]\\{}'\"")
_MIN_MAP_SIZE = 4 * _KIB**2
_LABEL = "[A-Za-z0-9_-]{1,63}"  # of a host name
_DEFAULT_PORT = 6379
_NO_VALKEY = "valkey needs a host, and perhaps a port, as in valkey://cache.example:6379/0"
_NO_SENTINEL = "sentinels are hosts, perhaps with ports, as in valkey+sentinel://host1,host2:26379/service"
_NO_POSTGRESQL = "postgresql needs a host, and perhaps a port, as in postgresql://db.example:5432/shop"
_TLS_FILES = ("sslrootcert", "sslcert", "sslkey")
_POSTGRESQL_PORT = 5432
_SENTINEL_PORT = 26_379
_MAX_PORT = 65_535

_Value = TypeVar("_Value", bound=str)
Sync = Literal["on", "lazy", "off"]
_SYNC_MODES: dict[str, Sync] = {"on": "on", "lazy": "lazy", "off": "off"}


class MemoryConfig(Struct, frozen=True):
    """``memory://``, or ``memory:///path`` for the directory of a running server."""

    path: str | None = None


class LmdbConfig(Struct, frozen=True):
    """``lmdb:///path?sync=on&map_size=4GiB``: a directory, the durability of commits, and the maximum file size.

    Carts may fill half of the map; changing and removing them takes the rest.
    """

    path: str
    sync: Sync = "on"
    map_size: int = 4 * _KIB**3  # bytes


class ValkeyConfig(Struct, frozen=True):
    """``valkey://[user:password@]host[:port][/db]``, ``valkeys://`` with TLS, ``valkey+cluster://host[:port],...``.

    In ``valkey+sentinel://host[:port],.../service[/db]`` the hosts are sentinels.
    """

    hosts: tuple[tuple[str, int], ...]
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: bool = False
    ca_certs: str | None = None  # a file of certificates to trust instead of the system's
    ssl_cert: str | None = None  # files: the certificate of this client, and its key
    ssl_key: str | None = None
    cluster: bool = False
    service: str | None = None  # whose primary the sentinels name

    def __repr__(self) -> str:
        return f"ValkeyConfig(hosts={self.hosts!r}, ...)"  # without the password, because it may be logged


SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
SessionAttributes = Literal["any", "read-write", "primary"]


class PostgresqlConfig(Struct, frozen=True):
    """``postgresql://[user[:password]@]host[:port][,host[:port]...][/database][?sslmode=...]``."""

    hosts: tuple[tuple[str, int], ...]
    dbname: str | None = None  # libpq takes the name of the user
    username: str | None = None
    password: str | None = None
    sslmode: SslMode = "prefer"
    sslrootcert: str | None = None  # files
    sslcert: str | None = None
    sslkey: str | None = None
    target_session_attrs: SessionAttributes = "any"  # which of the servers is connected to

    def __repr__(self) -> str:
        return f"PostgresqlConfig(hosts={self.hosts!r}, ...)"  # without the password, because it may be logged


StoreConfig = MemoryConfig | LmdbConfig | ValkeyConfig | PostgresqlConfig


def check_key_prefix(text: str) -> None:
    r"""Raise ValueError unless this can begin the keys in Valkey.

    Blanks would split the rule of an access list. ``* ? [ ] \`` would make SCAN and that rule match other keys. Braces
    would put all carts into one slot of a cluster. Quotes are left over from a shell or a file of settings. A prefix
    that could also begin the key of a rate counter is rejected, because counters must not be read as carts.
    """
    if not _PREFIX.fullmatch(text) or not _NO_PREFIX.isdisjoint(text):
        raise ValueError("must be 1 to 64 printable ASCII characters without blanks, quotes and * ? [ ] { } \\")
    if text.startswith(_COUNTERS) or _COUNTERS.startswith(text):
        raise ValueError(f"must not begin as {_COUNTERS} does: CARTSVC_RATE_LIMIT counts under keys of that name")


def describe(config: StoreConfig) -> str:
    """Return the URL of this store for a log: without user, password and options."""
    match config:
        case MemoryConfig():
            return f"memory://{config.path or ''}"
        case LmdbConfig():
            return f"lmdb://{config.path}"
        case ValkeyConfig():
            kind = "+cluster" if config.cluster else "+sentinel" if config.service else ""
            path = "" if config.cluster else f"/{config.service}/{config.db}" if config.service else f"/{config.db}"
            return f"valkey{'s' if config.tls else ''}{kind}://{_shown(config.hosts)}{path}"
        case PostgresqlConfig():
            return f"postgresql://{_shown(config.hosts)}/{config.dbname or ''}"


def _shown(hosts: tuple[tuple[str, int], ...]) -> str:
    return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts)


def parse_store_url(url: str) -> StoreConfig:
    """Return the configuration in this URL. Raises ValueError, whose text has the expected form but no password."""
    try:
        parts = _split(url)
    except ValueError:
        raise ValueError("must be a URL such as lmdb:///var/lib/cartsvc or valkey://host:6379/0") from None
    scheme = parts.scheme
    if url == "memory://":
        return MemoryConfig()
    if scheme == "memory" and url == f"memory://{parts.path}" and parts.path.startswith("/") and parts.path.strip("/"):
        return MemoryConfig(parts.path)
    if scheme == "lmdb":
        return _lmdb(parts)
    if match := re.fullmatch(r"(valkey|redis|rediss|valkeys)(?:\+(cluster|sentinel))?", scheme):
        return _valkey(parts, tls=match[1].endswith("ss") or match[1] == "valkeys", kind=match[2])
    if scheme in {"postgresql", "postgres"}:
        return _postgresql(parts)
    raise ValueError(
        "must be memory://, lmdb:///path, valkey://host:6379/0, valkeys://host:6379/0, valkey+cluster://host,host, "
        "valkey+sentinel://host,host/service or postgresql://host:5432/database"
    )


def _split(url: str) -> SplitResult:
    """Return the parts of a URL, whose authority may list several hosts. Raises ValueError.

    Each host is checked alone, because newer patch releases of Python reject a list with an IPv6 address.
    """
    scheme, slashes, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    login, at, hosts = authority.rpartition("@")
    first, *others = [urlsplit(f"//{login}{at}{host}").netloc for host in hosts.split(",")]
    netloc = ",".join([first, *[other.rpartition("@")[2] for other in others]])
    return urlsplit(scheme + slashes + rest[len(authority) :])._replace(netloc=netloc)


def _lmdb(parts: SplitResult) -> LmdbConfig:
    if (
        parts.netloc
        or not parts.path.startswith("/")
        or not unquote(parts.path).strip("/")
        or "%00" in parts.path
        or parts.fragment
    ):
        raise ValueError("lmdb needs the absolute path of a directory, as in lmdb:///var/lib/cartsvc")
    options = _options(parts, {"sync", "map_size"})
    config = LmdbConfig(unquote(parts.path))
    sync: Sync | None = _SYNC_MODES.get(options.get("sync", config.sync))
    if sync is None:
        raise ValueError("lmdb's sync is on, lazy or off")
    size = _SIZE.fullmatch(options.get("map_size", str(config.map_size)))
    if size is None or not _MIN_MAP_SIZE <= (map_size := int(size[1]) * _UNITS[size[2] or ""]) <= _KIB**5:
        raise ValueError("lmdb's map_size is 4MiB to 1024TiB: a number of bytes, or one with KiB, MiB, GiB or TiB")
    return LmdbConfig(config.path, sync, map_size)


def _valkey(parts: SplitResult, *, tls: bool, kind: str | None) -> ValkeyConfig:
    options = _options(parts, {"ca_certs", "ssl_cert", "ssl_key"} if tls else set())
    login, _, hosts = parts.netloc.rpartition("@")
    if "@" in login and "," in login:
        raise ValueError("a valkey URL has one user and password, before all hosts; an @ in a password is written %40")
    for name, path in options.items():
        if not path:
            raise ValueError(f"{name} is the path of a file")
    if ("ssl_cert" in options) is not ("ssl_key" in options):
        raise ValueError("ssl_cert and ssl_key belong together: the certificate of this client, and its key")
    service, db = _valkey_path(parts, kind)
    username, _, password = login.partition(":")
    port, fault = (_SENTINEL_PORT, _NO_SENTINEL) if kind == "sentinel" else (_DEFAULT_PORT, _NO_VALKEY)
    found = tuple(_host(each, port, fault) for each in hosts.split(","))
    if len(found) > 1 and kind is None:
        raise ValueError("several hosts are those of a cluster: valkey+cluster://host,host")
    return ValkeyConfig(
        hosts=found,
        db=db,
        username=unquote(username) or None,
        password=unquote(password) or None,
        tls=tls,
        ca_certs=options.get("ca_certs"),
        ssl_cert=options.get("ssl_cert"),
        ssl_key=options.get("ssl_key"),
        cluster=kind == "cluster",
        service=service,
    )


def _valkey_path(parts: SplitResult, kind: str | None) -> tuple[str | None, int]:
    """Return the service, which only sentinels have, and the number of the database."""
    if kind == "sentinel":
        match = re.fullmatch(r"/([\w.-]{1,200})(?:/(\d{0,4}))?", unquote(parts.path), re.ASCII)
        if match is None or parts.fragment:
            raise ValueError("a sentinel URL has the name of the service, as in valkey+sentinel://host,host/service/0")
        return match[1], int(match[2] or 0)
    db = parts.path.removeprefix("/") or "0"
    if not re.fullmatch(r"\d{1,4}", db) or parts.fragment or (kind == "cluster" and db != "0"):
        raise ValueError("the path of a valkey URL is the number of a database, as in /0; a cluster has only that one")
    return None, int(db)


def _postgresql(parts: SplitResult) -> PostgresqlConfig:
    options = _options(parts, {*_TLS_FILES, "sslmode", "target_session_attrs"})
    login, _, hosts = parts.netloc.rpartition("@")
    dbname = unquote(parts.path.removeprefix("/"))
    if "@" in login and "," in login:
        raise ValueError("a postgresql URL has one user and password, before all hosts; an @ in a password is %40")
    if "/" in parts.path[1:] or "\0" in unquote(parts.netloc + parts.path) or parts.fragment:
        raise ValueError("the path of a postgresql URL is the name of a database, as in postgresql://host:5432/shop")
    sslmode = _chosen("sslmode", get_args(SslMode), options.get("sslmode", "prefer"))
    if any(not options[name] or "\0" in options[name] for name in _TLS_FILES if name in options):
        raise ValueError("sslrootcert, sslcert and sslkey are paths of files")
    if sslmode.startswith("verify") and "sslrootcert" not in options:
        raise ValueError(f"sslmode={sslmode} needs sslrootcert=/path/ca.pem, the certificates to trust")
    if ("sslcert" in options) is not ("sslkey" in options):
        raise ValueError("sslcert and sslkey belong together: the certificate of this client, and its key")
    username, _, password = login.partition(":")
    found = tuple(_host(each, _POSTGRESQL_PORT, _NO_POSTGRESQL) for each in hosts.split(","))
    return PostgresqlConfig(
        hosts=found,
        dbname=dbname or None,
        username=unquote(username) or None,
        password=unquote(password) or None,
        sslmode=sslmode,
        sslrootcert=options.get("sslrootcert"),
        sslcert=options.get("sslcert"),
        sslkey=options.get("sslkey"),
        target_session_attrs=_chosen(
            "target_session_attrs",
            get_args(SessionAttributes),
            options.get("target_session_attrs", "any" if len(found) == 1 else "read-write"),
        ),
    )


def _chosen(name: str, known: tuple[_Value, ...], text: str) -> _Value:
    for each in known:
        if each == text:
            return each
    raise ValueError(f"{name} is one of {', '.join(map(str, known))}")


def _host(text: str, default_port: int, fault: str) -> tuple[str, int]:
    match = re.fullmatch(rf"(\[[0-9A-Fa-f:.]+\]|{_LABEL}(?:\.{_LABEL})*\.?)(?::(\d{{1,5}}))?", text)
    if match is None or not 0 < (port := int(match[2] or default_port)) <= _MAX_PORT:
        raise ValueError(fault)
    return match[1].strip("[]"), port


def _options(parts: SplitResult, known: set[str]) -> dict[str, str]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(pairs)
    if not options.keys() <= known:
        # The unknown option is not named, because after an unquoted ? in a password it would be a part of the password.
        takes = f"takes the options {', '.join(sorted(known))}" if known else "takes no options"
        raise ValueError(f"a {parts.scheme} URL {takes}")
    if len(options) != len(pairs):
        raise ValueError("an option of the URL is given twice")
    return options
