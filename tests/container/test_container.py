"""The container as a user gets it: `docker compose up` of the real files, on the real port."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cartsvc.settings import Settings
from cartsvc.version import __version__
from tests.support.compose import SECONDS, docker, inspect, started

if TYPE_CHECKING:
    import httpx

    from tests.support.compose import Project

pytestmark = pytest.mark.container

_ROOT = Path(__file__).parent.parent.parent
_BASE = "python:3.13-slim"
_MIB = 2**20


def test_it_answers_on_the_published_port(client: httpx.Client) -> None:
    """Add, get and delete work from outside, as in a shop."""
    added = client.post("/cart/alice", json={"product_id": "sku-1", "quantity": 2})
    assert (added.status_code, added.json()["total_quantity"]) == (200, 2)
    assert client.get("/cart/alice").json() == added.json()
    assert client.delete("/cart/alice").status_code == 204
    assert client.get("/cart/alice").json()["version"] == 0


def test_its_pages_are_in_the_image(client: httpx.Client) -> None:
    """Swagger UI, its script and the document it shows are served: nothing of the package was left out."""
    for path in ("/swagger-ui", "/swagger-ui/start.js", "/swagger-ui/swagger-ui-bundle.js", "/openapi.json"):
        assert (path, client.get(path).status_code) == (path, 200)


def test_a_neighbour_reaches_it_by_name(service: Project, client: httpx.Client) -> None:
    """Another container of the network adds to http://cart-service:8080, and the published port shows the same cart."""
    script = """
import urllib.request
body, headers = b'{"product_id": "sku-1", "quantity": 3}', {"Content-Type": "application/json"}
request = urllib.request.Request("http://cart-service:8080/cart/neighbour", body, headers)
print(urllib.request.urlopen(request).status)
"""
    said = docker("run", "--rm", "--network", service.network, _BASE, "python", "-c", script).stdout
    assert said == "200\n"
    assert client.get("/cart/neighbour").json()["total_quantity"] == 3


def test_the_health_check_asks_the_service(service: Project) -> None:
    """It passes where the service listens, and fails where nothing does."""
    _, *check = inspect("image", service.image)["Config"]["Healthcheck"]["Test"]
    service.execute(*check)
    elsewhere = service.execute(*check, env="PORT=1", expected=1)
    assert "ConnectionRefusedError" in elsewhere.stderr


def test_nothing_can_be_written(service: Project) -> None:
    """The root file system is read-only: for root too, and in the directories that are everyone's."""
    script = """
import errno
for directory in ("/", "/app", "/opt/venv", "/tmp", "/var/tmp", "/usr/local/bin"):
    try:
        open(directory + "/written", "w")
        print(directory, "can be written")
    except OSError as error:
        print(directory, errno.errorcode[error.errno])
"""
    for user in ("10001", "0"):
        said = service.execute("python", "-c", script, user=user).stdout
        assert [line for line in said.splitlines() if not line.endswith(" EROFS")] == []
        assert said.count("EROFS") == 6


def test_the_first_process_may_nothing(service: Project) -> None:
    """The first process is gunicorn itself: user 10001, no capability that it has or could get, no new privileges."""
    status = dict(line.split(":\t", 1) for line in service.execute("cat", "/proc/1/status").stdout.splitlines())
    assert status["Name"] == "gunicorn"
    assert (set(status["Uid"].split()), set(status["Gid"].split())) == ({"10001"}, {"10001"})
    assert {name: int(mask, 16) for name, mask in status.items() if name.startswith("Cap")} == {
        "CapInh": 0,
        "CapPrm": 0,
        "CapEff": 0,
        "CapBnd": 0,
        "CapAmb": 0,
    }
    assert status["NoNewPrivs"] == "1"


def test_memory_and_processes_are_limited(service: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room above what the memory store may take, and an end to both."""
    monkeypatch.delenv("CARTSVC_MEMORY_LIMIT", raising=False)
    host = service.state()["HostConfig"]
    limit = Settings.from_env().memory_limit
    assert limit + 2 * _MIB <= host["ShmSize"] <= limit + 128 * _MIB
    assert host["ShmSize"] + 256 * _MIB <= host["Memory"] <= 2048 * _MIB
    assert 0 < host["PidsLimit"] <= 1024


def test_too_little_memory_is_told(project: Project) -> None:
    """A container smaller than what carts may take starts with a warning, before the kernel kills anything."""
    with started(project.image, "--memory", "128m") as container:
        deadline = time.monotonic() + SECONDS
        while "auth none" not in (logged := docker("logs", container).stderr):
            assert time.monotonic() < deadline, logged
            time.sleep(0.1)
        assert "memory:// is limited to 63 MiB, not to CARTSVC_MEMORY_LIMIT of 512 MiB" in logged
        assert "the container has 128 MiB of memory, and the service may take 1" in logged
        assert " (63 MiB, container 128 MiB), " in logged


def test_a_full_dev_shm_is_a_full_store(project: Project) -> None:
    """In the 64 MiB that Docker gives a container: 507, and no process is killed (SIGBUS)."""
    script = """
import http.client, itertools, json
body = json.dumps({"items": [{"product_id": f"{n:0100}", "quantity": 1} for n in range(250)]})
service = http.client.HTTPConnection("127.0.0.1", 8080)
def call(method, path, body=None):
    service.request(method, path, body, {"Content-Type": "application/json"})
    response = service.getresponse()
    response.read()
    return response.status
junk = open("/dev/shm/junk", "wb")
junk.write(b"x" * (40 << 20))
junk.flush()
number = next(n for n in itertools.count() if call("PUT", f"/cart/user-{n}", body) != 201)
full = call("PUT", f"/cart/user-{number}", body)
print(number > 50, full, {call("GET", f"/cart/user-{n}") for n in range(number)}, call("DELETE", "/cart/user-0"))
"""
    with started(project.image) as container:
        deadline = time.monotonic() + SECONDS
        while "Booting worker" not in (logged := docker("logs", container).stderr):
            assert time.monotonic() < deadline, logged
            time.sleep(0.1)
        assert docker("exec", container, "python", "-c", script).stdout == "True 507 {200} 204\n"
        assert "SIG" not in docker("logs", container).stderr


def test_requests_are_parsed_in_c(service: Project, client: httpx.Client) -> None:
    """The image has gunicorn's C parser; only that one accepts two blanks in a request line."""
    assert "(C parser)" in service.compose("logs", "--no-color", service.service).stdout
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), SECONDS) as connection:
        connection.sendall(b"GET  /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_the_image_has_no_compiler(service: Project) -> None:
    """What compiled the C parser stayed in the build stage, and so did pip and setuptools of that environment."""
    script = """
import importlib.util, pathlib, shutil
print([name for name in ("cc", "gcc", "c++", "clang", "tcc", "cpp", "as", "ld", "make") if shutil.which(name)])
print([name for name in ("pip", "setuptools") if importlib.util.find_spec(name)])
print(pathlib.Path("/usr/include/stdio.h").exists(), pathlib.Path("/tmp/wheels").exists())
"""
    assert service.execute("python", "-c", script).stdout.splitlines() == ["[]", "[]", "False False"]


def test_the_image_is_small(project: Project) -> None:
    """It adds less than 120 MB to its base."""
    assert inspect("image", project.image)["Size"] - inspect("image", _BASE)["Size"] < 120_000_000


def test_the_image_holds_what_it_needs_and_no_more(project: Project) -> None:
    """The app, no compiler, no package cache; nothing else of the directory it was built in."""
    compilers = ("cc", "c++", "gcc", "g++", "clang", "cc1", "ld", "make")
    names = [part for name in compilers for part in ("-name", name, "-o", "-name", f"*-linux-*-{name}*", "-o")]
    search = ["find", "/", "-xdev", "-not", "-type", "d", "(", *names, "-path", "*/.cache/*", ")"]
    assert docker("run", "--rm", "--user", "0", project.image, *search).stdout == ""
    held = docker("run", "--rm", project.image, "ls", "-A", "/app").stdout.split()
    assert held == ["LICENSE", "__pycache__", "cartsvc", "gunicorn.conf.py", "wsgi.py"]


def test_a_start_compiles_nothing(project: Project) -> None:
    """All that a start imports is in the image as bytecode: a read-only file system could not keep it."""
    imports = (
        "import gunicorn.workers.ggevent, wsgi, cartsvc.stores.lmdb, cartsvc.stores.postgresql, cartsvc.stores.valkey"
    )
    started = project.run("python", "-v", "-c", imports)
    assert "code object from '/app/cartsvc/" in started.stderr
    assert re.findall(r"code object from (/\S+)", started.stderr) == []  # a path in quotes is bytecode's


def test_labels_tell_what_it_is(project: Project) -> None:
    """The image carries the project's name, version, description and licence, as pyproject.toml has them."""
    stated = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    labels = inspect("image", project.image)["Config"]["Labels"]
    prefix = "org.opencontainers.image."
    assert {name: labels[prefix + name] for name in ("title", "version", "description", "licenses")} == {
        "title": stated["name"],
        "version": __version__,
        "description": stated["description"],
        "licenses": stated["license"],
    }


def test_settings_pass_through(project: Project) -> None:
    """Each setting of the shell's reaches the service; one that is not set stays unset, and is not set to nothing."""
    listed = json.loads(project.compose("config", "--format", "json").stdout)["services"][project.service][
        "environment"
    ]
    written = re.findall(r"^ +- ([A-Z]+_[A-Z_]+)$", (_ROOT / "docker-compose.yml").read_text(), re.MULTILINE)
    assert set(written) - set(listed) == {"COMPOSE_PROFILES"}  # tests/docs/test_docs.py holds the file to the settings
    fixed = {"HOST": "0.0.0.0", "PORT": "8080"}  # noqa: S104 - as in the file
    assert _ours(project.run("env").stdout) == fixed | {"CARTSVC_STORE_URL": "memory://"}
    settings = {name: "1" for name in listed if not name.startswith("PG")}  # libpq's own, from POSTGRES_PASSWORD
    assert _ours(project.run("env", **settings).stdout) == settings | fixed


def test_a_slip_in_the_file_is_told(project: Project, tmp_path: Path) -> None:
    """All of .env reaches the service, which warns of a misspelt name; HOST and PORT in it do not move the container.

    What .env says of the store and of the published port still holds, and the shell still overrides it.
    """
    shutil.copy(_ROOT / "docker-compose.yml", tmp_path)
    (tmp_path / ".env").write_text(
        "CARTSVC_MAX_ITEM=5\nCARTSVC_MAX_ITEMS=7\nCARTSVC_CART_TTL='60'\nHOST=127.0.0.1\nPORT=9000\n"
        "COMPOSE_PROFILES=valkey\nCART_SERVICE_PORTS=127.0.0.1:8081\n"
    )
    beside = project.beside(tmp_path)
    config = json.loads(beside.compose("config", "--format", "json").stdout)["services"][project.service]
    assert [(port["host_ip"], port["published"], port["target"]) for port in config["ports"]] == [
        ("127.0.0.1", "8081", 8080)
    ]
    told = _ours(beside.run("env", CARTSVC_MAX_ITEMS="8", COMPOSE_PROFILES="").stdout)
    assert told == {
        "CARTSVC_CART_TTL": "60",
        "CARTSVC_MAX_ITEM": "5",
        "CARTSVC_MAX_ITEMS": "8",
        "CARTSVC_STORE_URL": "memory://",
        "HOST": "0.0.0.0",  # noqa: S104 - as in docker-compose.yml
        "PORT": "8080",
    }
    assert config["environment"]["CARTSVC_STORE_URL"] == "valkey://valkey"
    script = "from cartsvc.settings import Settings; print(*Settings.from_env().warnings)"
    said = beside.run("python", "-c", script, COMPOSE_PROFILES="").stdout
    assert (
        said == "CARTSVC_MAX_ITEM is not a setting of cartsvc and has no effect; the nearest one is CARTSVC_MAX_ITEMS\n"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "::", "::1"])  # noqa: S104 - one of them
def test_the_health_check_asks_where_it_listens(project: Project, host: str) -> None:
    """In a plain container HOST may be an address of either family, and the check passes all the same."""
    with started(project.image, "--env", f"HOST={host}") as container:
        _, *check = inspect("image", project.image)["Config"]["Healthcheck"]["Test"]
        deadline = time.monotonic() + SECONDS
        while docker("exec", container, *check, expected=None).returncode != 0:
            assert time.monotonic() < deadline, docker("logs", container).stderr
            time.sleep(0.1)


def test_a_wrong_setting_stops_the_start(project: Project) -> None:
    """The exit code says so, and the message names every fault, without a traceback."""
    wrong = {"CARTSVC_MAX_ITEMS": "many", "CARTSVC_CART_TTL": "0"}
    ended = project.run(expected=1, **wrong)
    said = ended.stdout + ended.stderr
    assert "CARTSVC_MAX_ITEMS='many'" in said
    assert "CARTSVC_CART_TTL='0'" in said
    assert "Traceback" not in said


def test_a_killed_first_process_comes_back(service: Project, client: httpx.Client) -> None:
    """When it is killed from outside, Docker starts it again by itself, and it becomes healthy and serves."""
    before = service.state()
    pid = before["State"]["Pid"]
    # Not `docker kill`, which counts as a stop that is wanted; and in its own PID namespace nobody can kill process 1.
    docker("run", "--rm", "--pid", "host", _BASE, "python", "-c", f"import os; os.kill({pid}, {signal.SIGKILL:d})")
    after = service.wait_until(
        lambda state: state["RestartCount"] > before["RestartCount"] and state["State"]["Health"]["Status"] == "healthy"
    )
    assert (after["Id"], after["RestartCount"]) == (before["Id"], before["RestartCount"] + 1)
    assert after["State"]["Pid"] != pid
    assert client.post("/cart/alice", json={"product_id": "sku-1", "quantity": 1}).status_code == 200


def test_down_stops_it_cleanly(service: Project, client: httpx.Client) -> None:
    """With an idle connection open, `docker compose down` ends it with exit code 0."""
    assert client.get("/healthz").status_code == 200
    assert _exit_code_of_down(service) == 0


def test_down_waits_longer_than_the_slowest_request(service: Project) -> None:
    """A client that never finishes its body holds a stop up for the graceful time-out, and still nothing is killed.

    Were the grace period shorter, Docker's SIGKILL would make it exit code 137.
    """
    head = b"POST /cart/alice HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"
    with socket.create_connection(("127.0.0.1", 8080), 10) as connection:
        connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")  # the worker has begun to read the body
        assert _exit_code_of_down(service) == 0


def _exit_code_of_down(service: Project) -> int:
    """Take the project down, and tell how its first process ended."""
    waiting = subprocess.Popen(["docker", "wait", service.container()], stdout=subprocess.PIPE, text=True)
    try:
        service.compose("down")
        said, _ = waiting.communicate(timeout=10)
        return int(said)
    finally:
        waiting.kill()
        waiting.wait()


def _ours(environment: str) -> dict[str, str]:
    variables = dict(line.split("=", 1) for line in environment.splitlines())
    return {
        name: value
        for name, value in variables.items()
        if name.startswith(("CARTSVC_", "OTEL_", "PORT", "WEB_")) or name == "HOST"
    }
