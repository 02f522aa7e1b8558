"""What a start reports of memory, open files and what it runs with: readings are handed in, so no server is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cartsvc.server.startup import (
    connections_within,
    container_memory,
    files_needed,
    files_warning,
    memory_warning,
    room_warning,
    start_line,
)
from cartsvc.stores import count_pools
from cartsvc.stores.urls import POOL_SIZE, LmdbConfig, MemoryConfig, ValkeyConfig, describe, parse_store_url
from cartsvc.version import __version__

if TYPE_CHECKING:
    from pathlib import Path


_MIB = 2**20
_LMDB = LmdbConfig("/var/lib/cartsvc")
_VALKEY = ValkeyConfig((("cache", 6379),))


# ---- memory ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [("134217728\n", 128 * _MIB), ("max\n", None), ("", None), ("much", None), ("9223372036854771712\n", None)],
)
@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_the_memory_of_a_container(tmp_path: Path, name: str, text: str, expected: int | None) -> None:
    """Both versions of control groups; no limit is a word in the one and a number near 2**63 in the other."""
    (tmp_path / "memory").mkdir()
    (tmp_path / name).write_text(text)
    assert container_memory(tmp_path) == expected


def test_the_memory_outside_a_container(tmp_path: Path) -> None:
    """Without control groups nothing is known of a limit."""
    assert container_memory(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("container", "memory", "workers", "warned"),
    [
        (None, 512 * _MIB, 1, False),
        (1024 * _MIB, 512 * _MIB, 1, False),
        (576 * _MIB, 512 * _MIB, 1, False),
        (576 * _MIB - 1, 512 * _MIB, 1, True),
        (608 * _MIB, 512 * _MIB, 2, False),
        (608 * _MIB - 1, 512 * _MIB, 2, True),
        (96 * _MIB, None, 2, False),
        (96 * _MIB - 1, None, 2, True),
        (1024 * _MIB, None, 64, True),
    ],
)
def test_too_little_memory_is_a_warning(
    container: int | None, memory: int | None, *, workers: int, warned: bool
) -> None:
    """The carts of memory:// and 32 MiB for each process have to fit into the container."""
    warning = memory_warning(container, memory=memory, workers=workers)
    assert (warning is not None) is warned


def test_the_warning_of_memory_names_figures_and_what_to_do() -> None:
    """It has to be understood without the documentation."""
    assert memory_warning(128 * _MIB, memory=512 * _MIB, workers=1) == (
        "the container has 128 MiB of memory, and the service may take 576 MiB: 512 MiB for carts, and 32 MiB for each "
        "of 2 processes. The kernel would kill processes, and the carts are lost when the server ends. Give the "
        "container more memory, or lower CARTSVC_MEMORY_LIMIT."
    )
    of_workers = memory_warning(1024 * _MIB, memory=None, workers=64)
    assert of_workers is not None
    assert "the service may take 2 GiB: 32 MiB for each of 65 processes" in of_workers
    assert "lower WEB_CONCURRENCY" in of_workers
    assert "CARTSVC_MEMORY_LIMIT" not in of_workers


@pytest.mark.parametrize(
    ("memory", "warned"),
    [(None, False), (512 * _MIB, False), (511 * _MIB + 1, False), (511 * _MIB, True), (63 * _MIB, True)],
)
def test_a_small_file_system_is_a_warning(*, memory: int | None, warned: bool) -> None:
    """The limit shrinks to the room there; a difference below 1 MiB is not worth a line."""
    warning = room_warning(memory, memory_limit=512 * _MIB)
    assert (warning is not None) is warned
    if warning is not None:
        assert "MiB, not to CARTSVC_MEMORY_LIMIT of 512 MiB, because its file system has no more room" in warning
        assert "shm_size" in warning


# ---- open files ----


@pytest.mark.parametrize("pools", [0, 1, 2, 8, 16])
@pytest.mark.parametrize("files", [40, 64, 100, 256, 1024, 4096, 20_000])
def test_connections_fit_into_open_files(files: int, pools: int) -> None:
    """As many as fit with a store's connection in each pool for each of them, and not one more."""
    found = connections_within(files, wanted=2000, pools=pools)
    assert 1 <= found <= 2000
    assert found == 1 or files_needed(found, pools) <= files
    assert found == 2000 or files_needed(found + 1, pools) > files


def test_so_few_files_that_none_are_left_allow_one_connection() -> None:
    """A server that takes 0 connections would never answer."""
    assert connections_within(16, wanted=2000, pools=1) == 1


def test_valkey_counts_with_few_files() -> None:
    """With ulimit -n 64 there were 32 connections and 32 files for up to 64 of Valkey's: requests failed."""
    assert connections_within(64, wanted=2000, pools=0) == 32
    assert connections_within(64, wanted=2000, pools=1) == 16
    assert connections_within(1024, wanted=2000, pools=2) == 1024 - 32 - 2 * POOL_SIZE


@pytest.mark.parametrize(
    ("url", "pools"),
    [
        ("memory://", 0),
        ("lmdb:///x", 0),
        ("valkey://cache", 1),
        ("postgresql://a,b/shop", 1),
        ("valkey+sentinel://a,b/shop", 1),
        ("valkey+cluster://a", 8),
        (f"valkey+cluster://{','.join(f'h{number}' for number in range(20))}", 20),
    ],
)
def test_a_store_has_a_pool_for_each_server(url: str, pools: int) -> None:
    """How many a cluster has is known only later: room for eight primaries is kept, or for all that are named."""
    assert count_pools(parse_store_url(url)) == pools


def test_few_files_are_a_warning() -> None:
    """It names how many connections there are and which limit to raise; with enough files there is none."""
    assert files_warning(2000, wanted=2000, files=5000) is None
    assert files_warning(32, wanted=2000, files=64) == (
        "each worker has room for 32 connections only, and not for 2000: ulimit -n is 64. "
        "Further clients wait until a connection ends. Raise the limit of open files."
    )


# ---- the line ----


def test_the_line_of_the_default() -> None:
    """As compose starts it."""
    line = start_line(
        MemoryConfig("/dev/shm/cartsvc-memory-1"),  # noqa: S108 - only a name
        memory=512 * _MIB,
        container=1024 * _MIB,
        workers=1,
        worker_class="gevent",
        threads=1,
        parser="C",
        connections=2000,
        auth="none",
    )
    store = "memory:///dev/shm/cartsvc-memory-1 (512 MiB, container 1 GiB)"
    assert line == f"cartsvc {__version__}: store {store}, 1 gevent worker (C parser), 2000 connections, auth none"


@pytest.mark.parametrize(
    ("url", "container", "told"),
    [
        ("lmdb:///var/lib/x?sync=lazy&map_size=1536MiB", None, "lmdb:///var/lib/x (sync lazy, map 1.5 GiB)"),
        ("valkey://cache/3", None, "valkey://cache:6379/3"),
        ("valkey://cache", 1000, "valkey://cache:6379/0 (container 1000 bytes)"),
    ],
)
def test_the_line_names_the_store_and_its_limits(url: str, container: int | None, told: str) -> None:
    """Those that there are; the worker's threads and parser too."""
    line = start_line(
        parse_store_url(url),
        memory=None,
        container=container,
        workers=3,
        worker_class="gthread",
        threads=8,
        parser="Python",
        connections=864,
        auth="jwt",
    )
    rest = "3 gthread workers of 8 threads (Python parser), 864 connections each, auth jwt"
    assert line == f"cartsvc {__version__}: store {told}, {rest}"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("valkey://us3r:s3cret@cache:7000/1", "valkey://cache:7000/1"),
        ("redis://:s3cret@[::1]", "valkey://[::1]:6379/0"),
        ("rediss+sentinel://us3r:s3cret@a,b:7000/shop", "valkeys+sentinel://a:26379,b:7000/shop/0"),
        ("postgres://us3r:s3cret@a,b:7000/shop?sslmode=require", "postgresql://a:5432,b:7000/shop"),
        ("valkeys://us3r:s3cret@cache?ca_certs=/etc/s3cret", "valkeys://cache:6379/0"),
        ("rediss+cluster://us3r:s3cret@a,b:7000", "valkeys+cluster://a:6379,b:7000"),
        ("lmdb:///a%20b", "lmdb:///a b"),
    ],
)
def test_a_store_is_described_without_a_password(url: str, told: str) -> None:
    """The line goes into logs."""
    assert describe(parse_store_url(url)) == told
