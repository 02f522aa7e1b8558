"""Where the container keeps carts: in memory, on its volume, in Valkey or PostgreSQL; and how many share them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cartsvc.server.cpus import available_cpus
from tests.support.compose import SECONDS, docker, inspect

if TYPE_CHECKING:
    from tests.support.compose import Project

pytestmark = pytest.mark.container

_ROOT = Path(__file__).parents[2]
_DIRECTORY = "/var/lib/cartsvc"
_LMDB = f"lmdb://{_DIRECTORY}"
_VALKEY = "valkey://valkey"
_POSTGRESQL = "postgresql://postgresql"
_PASSWORD = "only for a test"  # noqa: S105 - of a server that runs only during a test
_MIB = 2**20


@pytest.fixture
def on_lmdb(project: Project) -> Project:
    """The project with two workers on the volume, healthy."""
    chosen = project.given(CARTSVC_STORE_URL=_LMDB, WEB_CONCURRENCY="2")
    chosen.up()
    return chosen


@pytest.fixture
def on_valkey(project: Project) -> Project:
    """The project with its profile valkey, healthy."""
    chosen = project.given(COMPOSE_PROFILES="valkey")
    chosen.up()
    return chosen


@pytest.fixture
def on_postgresql(project: Project) -> Project:
    """The project with its profile postgresql, healthy."""
    chosen = project.given(COMPOSE_PROFILES="postgresql", POSTGRES_PASSWORD=_PASSWORD)
    chosen.up()
    return chosen


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "memory://"),
        ({"COMPOSE_PROFILES": "valkey"}, _VALKEY),
        ({"COMPOSE_PROFILES": "postgresql"}, _POSTGRESQL),
        ({"CARTSVC_STORE_URL": _LMDB}, _LMDB),
        ({"CARTSVC_STORE_URL": _LMDB, "COMPOSE_PROFILES": "valkey"}, _LMDB),
    ],
)
def test_what_decides_where_carts_live(project: Project, settings: dict[str, str], url: str) -> None:
    """CARTSVC_STORE_URL where it is set; else the profile; else they are in memory."""
    config = json.loads(project.compose("config", "--format", "json", **settings).stdout)
    assert config["services"][project.service]["environment"]["CARTSVC_STORE_URL"] == url


def test_a_plain_up_keeps_carts_in_memory(project: Project) -> None:
    """No other container, a worker for each CPU, nothing on the volume; the carts are gone with the container."""
    project.given(COMPOSE_PROFILES="valkey").compose("down", "--volumes", "--timeout", "1")
    project.up()
    ours = f"label=com.docker.compose.project={project.name}"
    assert docker("ps", "--all", "--quiet", "--no-trunc", "--filter", ours).stdout.split() == project.containers()
    assert _workers(project) == available_cpus()
    _add(project, "forgotten")
    carts = json.loads(project.execute("flask", "--app", "wsgi", "carts", "stats").stdout)["carts"]
    assert carts == 1
    assert project.execute("ls", "-A", _DIRECTORY).stdout == ""
    project.compose("restart", "--timeout", "1")
    project.up()
    assert _quantity(project, "forgotten") == 0


def test_the_volume_is_the_services_alone(project: Project) -> None:
    """A new volume belongs to the user that the service runs as, and nobody else may look into it."""
    assert project.run("stat", "--format", "%u:%g %a", _DIRECTORY).stdout == "10001:10001 700\n"


def test_lmdb_keeps_carts_across_down_and_up(on_lmdb: Project) -> None:
    """The container is gone, the carts are not, nor the keys that they remember: a retry is still done once."""
    assert _workers(on_lmdb) == 2
    _add(on_lmdb, "kept", key="once")
    before = on_lmdb.container()
    on_lmdb.compose("down")
    on_lmdb.up()
    assert on_lmdb.container() != before
    assert _quantity(on_lmdb, "kept") == 1
    assert _add(on_lmdb, "kept", key="once") == "true"
    assert _quantity(on_lmdb, "kept") == 1


@pytest.mark.parametrize("command", [(), ("flask", "--app", "wsgi", "carts", "stats")])
def test_a_second_container_is_refused(on_lmdb: Project, command: tuple[str, ...]) -> None:
    """On the volume of a running one neither a server nor a command starts; it says why, and harms nothing."""
    _add(on_lmdb, "guarded")
    before = _quantity(on_lmdb, "guarded")
    ended = on_lmdb.run(*command, expected=1)
    assert f"{_DIRECTORY} is in use by a server in another container" in ended.stderr
    assert "Traceback" not in ended.stderr
    _add(on_lmdb, "guarded")
    assert _quantity(on_lmdb, "guarded") == before + 1


def test_a_command_beside_the_server_is_not(on_lmdb: Project) -> None:
    """In the same container `flask carts` sees what the server has stored."""
    _add(on_lmdb, "counted")
    stats = json.loads(on_lmdb.execute("flask", "--app", "wsgi", "carts", "stats").stdout)
    assert stats["carts"] >= 1


# Runs `docker compose` for the project of the tests, and lets `up` return.
_COMPOSE = """
docker() {
  shift
  [ "$1" = up ] && set -- up --detach --wait --no-build
  command docker compose --project-name "$PROJECT" --file "$FILE" --env-file /dev/null "$@"
}
"""


def test_a_shop_moves_from_lmdb_to_valkey(on_lmdb: Project, tmp_path: Path) -> None:
    """The commands of docs/operations.md take carts and remembered keys along."""
    _add(on_lmdb, "moved", key="before-the-move")
    page = (_ROOT / "docs" / "operations.md").read_text()
    (commands,) = re.findall(r"^```sh\n(docker compose stop.*?)^```$", page, re.MULTILINE | re.DOTALL)
    ours = ("CARTSVC_", "COMPOSE_", "CART_SERVICE_", "WEB_CONCURRENCY")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    names = {"PROJECT": on_lmdb.name, "FILE": str(_ROOT / "docker-compose.yml")}
    ended = subprocess.run(
        ["bash", "-e", "-c", _COMPOSE + commands],
        cwd=tmp_path,
        env=environment | names,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    on_valkey = on_lmdb.given(COMPOSE_PROFILES="valkey")
    assert _quantity(on_valkey, "moved") == 1
    assert _add(on_valkey, "moved", key="before-the-move") == "true"


def test_valkey_is_set_up_to_keep_carts(on_valkey: Project) -> None:
    """Each change is on the disk before it is answered, no cart is thrown out, and there is room for a rewrite."""
    said = {}
    for name in ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy"):
        said[name] = on_valkey.execute("valkey-cli", "--raw", "config", "get", name, service="valkey").stdout.split()[1]
    memory = int(said.pop("maxmemory"))
    assert said == {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
    host = on_valkey.state("valkey")["HostConfig"]
    assert 0 < 2 * memory <= host["Memory"] <= 4096 * _MIB
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    logged = on_valkey.compose("logs", "--no-color", on_valkey.service).stdout
    assert "noeviction" not in logged  # nothing to warn of


def test_valkey_may_nothing_and_is_reached_by_nobody_else(on_valkey: Project) -> None:
    """No published port, no root, no capability, nothing to write to but its volume."""
    state = on_valkey.state("valkey")
    assert state["NetworkSettings"]["Ports"] == {"6379/tcp": None}
    assert state["HostConfig"]["ReadonlyRootfs"] is True
    assert [mount["Destination"] for mount in state["Mounts"]] == ["/data"]
    shown = on_valkey.execute("cat", "/proc/1/status", service="valkey").stdout
    status = dict(line.split(":\t", 1) for line in shown.splitlines())
    assert status["Name"] == "valkey-server"
    assert "0" not in status["Uid"].split()
    assert {int(mask, 16) for name, mask in status.items() if name.startswith("Cap")} == {0}
    assert status["NoNewPrivs"] == "1"


def test_valkey_is_healthy_only_when_it_answers(on_valkey: Project) -> None:
    """Its check passes while it serves, and fails on an answer that is an error."""
    assert on_valkey.state("valkey")["State"]["Health"]["Status"] == "healthy"
    _, *check = on_valkey.state("valkey")["Config"]["Healthcheck"]["Test"]
    on_valkey.execute(*check, service="valkey")
    on_valkey.execute(*check[:-1], "no-such-command", service="valkey", expected=1)


def test_valkey_keeps_carts_across_restarts(on_valkey: Project) -> None:
    """Either service is restarted, then both are taken down: the cart is there each time, and so are its keys."""
    _add(on_valkey, "restarted", key="once")
    on_valkey.compose("restart", "cart-service")
    on_valkey.up()
    assert _quantity(on_valkey, "restarted") == 1
    on_valkey.compose("restart", "valkey")
    _until_ready(on_valkey)
    assert _quantity(on_valkey, "restarted") == 1
    on_valkey.compose("down")
    on_valkey.up()
    assert _add(on_valkey, "restarted", key="once") == "true"
    assert _quantity(on_valkey, "restarted") == 1


def test_valkey_killed_is_a_503_until_it_is_back(on_valkey: Project) -> None:
    """The service stays up and says that its store is away; what was answered before the kill is there after it."""
    _add(on_valkey, "survivor")
    on_valkey.compose("kill", "valkey")
    with on_valkey.client() as client:
        refused = client.post("/cart/survivor", json={"product_id": "sku-1", "quantity": 1})
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:cartsvc:problem:store-unavailable")
        assert "Retry-After" in refused.headers
        assert (client.get("/readyz").status_code, client.get("/healthz").status_code) == (503, 200)
    on_valkey.up()
    _until_ready(on_valkey)
    assert _quantity(on_valkey, "survivor") == 1


def test_postgresql_is_reached_by_the_service_alone(on_postgresql: Project) -> None:
    """No published port, no root, no capability, nothing to write to but its volume and memory; a password is due."""
    state = on_postgresql.state("postgresql")
    assert state["NetworkSettings"]["Ports"] == {"5432/tcp": None}
    assert state["HostConfig"]["ReadonlyRootfs"] is True
    assert [mount["Destination"] for mount in state["Mounts"]] == ["/var/lib/postgresql/data"]
    shown = on_postgresql.execute("cat", "/proc/1/status", service="postgresql").stdout
    status = dict(line.split(":\t", 1) for line in shown.splitlines())
    assert status["Name"] == "postgres"
    assert "0" not in status["Uid"].split()
    assert {int(mask, 16) for name, mask in status.items() if name.startswith("Cap")} == {0}
    assert status["NoNewPrivs"] == "1"
    stats = ("flask", "--app", "wsgi", "carts", "stats")
    assert on_postgresql.execute(*stats).returncode == 0
    denied = on_postgresql.execute("env", "-u", "PGPASSWORD", *stats, expected=1).stderr
    assert "no password supplied" in denied
    logged = on_postgresql.compose("logs", "--no-color", on_postgresql.service).stdout
    assert _PASSWORD not in logged
    assert f"store {_POSTGRESQL}:5432/" in logged


def test_postgresql_keeps_carts_across_restarts(on_postgresql: Project) -> None:
    """Either service is restarted, then both are taken down: the cart is there each time, and so are its keys."""
    _add(on_postgresql, "restarted", key="once")
    on_postgresql.compose("restart", "cart-service")
    on_postgresql.up()
    assert _quantity(on_postgresql, "restarted") == 1
    on_postgresql.compose("kill", "postgresql")
    with on_postgresql.client() as client:
        assert (client.get("/readyz").status_code, client.get("/healthz").status_code) == (503, 200)
    on_postgresql.up()
    _until_ready(on_postgresql)
    assert _quantity(on_postgresql, "restarted") == 1
    on_postgresql.compose("down")
    on_postgresql.up()
    assert _add(on_postgresql, "restarted", key="once") == "true"
    assert _quantity(on_postgresql, "restarted") == 1


def test_three_replicas_share_their_carts(project: Project) -> None:
    """Behind a port range each of three sees at once what another one wrote."""
    chosen = project.given(COMPOSE_PROFILES="valkey", CART_SERVICE_PORTS="127.0.0.1:8080-8082")
    chosen.up("--scale", "cart-service=3")
    try:
        ports = []
        for container in chosen.containers():
            (binding,) = inspect("container", container)["NetworkSettings"]["Ports"]["8080/tcp"]
            ports.append((binding["HostIp"], int(binding["HostPort"])))
        assert sorted(ports) == [("127.0.0.1", 8080), ("127.0.0.1", 8081), ("127.0.0.1", 8082)]
        for count, writer in enumerate((8080, 8081, 8082), 1):
            _add(chosen, "shared", port=writer)
            seen = {reader: _quantity(chosen, "shared", port=reader) for reader in (8080, 8081, 8082)}
            assert seen == dict.fromkeys((8080, 8081, 8082), count)
    finally:
        chosen.compose("down", "--timeout", "1")


@pytest.mark.parametrize("store", ["valkey", "postgresql"])
def test_the_profile_as_a_flag_alone_starts_nothing(project: Project, store: str) -> None:
    """The file does not learn of it, so the carts would stay in memory: nothing starts, and it says what to do."""
    project.given(COMPOSE_PROFILES="valkey,postgresql").compose("down", "--timeout", "1")
    everything = project.given(COMPOSE_PROFILES=store, POSTGRES_PASSWORD=_PASSWORD)
    project.compose("--profile", store, "up", "--detach", "--no-build", expected=1)
    logged = everything.compose("logs", "--no-color", f"cart-service-uses-{store}").stdout
    assert f"set COMPOSE_PROFILES={store}" in logged
    assert [everything.state(service)["State"]["Status"] for service in ("cart-service", store)] == ["created"] * 2
    named = {"CARTSVC_STORE_URL": f"{store}://{store}", "POSTGRES_PASSWORD": _PASSWORD}
    project.compose("--profile", store, "up", "--detach", "--wait", "--no-build", **named)
    everything.compose("down", "--timeout", "1")


def _workers(project: Project) -> int:
    """How many processes the first one has started."""
    script = """
import pathlib
stats = [path.read_text() for path in pathlib.Path("/proc").glob("[0-9]*/stat")]
print(sum(stat.rpartition(")")[2].split()[1] == "1" for stat in stats))
"""
    return int(project.execute("python", "-c", script).stdout)


def _add(project: Project, user_id: str, *, key: str | None = None, port: int = 8080) -> str | None:
    """Add one; return whether it was a replay."""
    headers = {"Idempotency-Key": key} if key else {}
    with project.client(port=port) as client:
        response = client.post(f"/cart/{user_id}", json={"product_id": "sku-1", "quantity": 1}, headers=headers)
    assert response.status_code == 200
    return response.headers.get("Idempotency-Replayed")


def _quantity(project: Project, user_id: str, *, port: int = 8080) -> int:
    with project.client(port=port) as client:
        response = client.get(f"/cart/{user_id}")
    assert response.status_code == 200
    return response.json()["total_quantity"]


def _until_ready(project: Project) -> None:
    deadline = time.monotonic() + SECONDS
    with project.client() as client:
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
