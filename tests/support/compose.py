"""docker-compose.yml as a project that tests build, start, look into and remove."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROOT = Path(__file__).parents[2]
SECONDS = 120  # for one command; more than any stop may take
_BUILD_SECONDS = 900  # it may have to fetch the base image
# What the shell that runs the tests must not decide.
_OURS = ("CARTSVC_", "CART_SERVICE_", "COMPOSE_", "HOST", "PORT", "POSTGRES_", "WEB_CONCURRENCY")


class Project:
    """docker-compose.yml under a project name of its own, so that other projects from it are left alone."""

    service = "cart-service"

    def __init__(self, name: str | None = None, *, directory: Path | None = None, **settings: str) -> None:
        self._directory = directory
        self.name = name or f"cartsvc-test-{secrets.token_hex(4)}"
        self.network = f"{self.name}_default"
        self.image = f"{self.name}-{self.service}"
        self._settings = settings

    def given(self, **settings: str) -> Project:
        """Return the same project with these settings in the environment."""
        return Project(self.name, directory=self._directory, **settings)

    def beside(self, directory: Path) -> Project:
        """Return the same project with the docker-compose.yml and the .env of this directory; its image exists."""
        return Project(self.name, directory=directory)

    def compose(
        self, *arguments: str, expected: int | None = 0, timeout: float = SECONDS, stdin: str = "", **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run docker compose with these settings in its environment; ``expected`` is its exit code, None any."""
        # No .env, unless a test has written one, no override file: what is tested is what a fresh clone has.
        file = (self._directory or _ROOT) / "docker-compose.yml"
        given = ["--project-name", self.name, "--file", str(file)]
        given += ["--env-file", os.devnull if self._directory is None else str(self._directory / ".env")]
        settings = self._settings | settings
        return docker("compose", *given, *arguments, expected=expected, timeout=timeout, stdin=stdin, settings=settings)

    def build(self) -> None:
        """Build the image."""
        self.compose("build", timeout=_BUILD_SECONDS)

    def up(self, *options: str) -> None:
        """Return once the service is healthy. Port 8080 must be free."""
        try:
            self.compose("up", "--detach", "--wait", "--no-build", *options)
        except AssertionError as error:
            error.add_note(self.compose("logs", "--no-color", expected=None).stdout)
            raise

    def remove(self) -> None:
        """Remove everything except the base images."""
        everything = self.given(COMPOSE_PROFILES="valkey")
        everything.compose("down", "--volumes", "--remove-orphans", "--rmi", "local", "--timeout", "1")

    def client(self, *, port: int = 8080) -> httpx.Client:
        """Return a client of a published port, which uses no proxy."""
        return httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=SECONDS)

    def containers(self, service: str = service) -> list[str]:
        """Return the ids of a service's containers, running or not."""
        return self.compose("ps", "--all", "--quiet", service).stdout.split()

    def container(self, service: str = service) -> str:
        """Return the id of a service's only container, running or not."""
        (one,) = self.containers(service)
        return one

    def state(self, service: str = service) -> Any:
        """Return what Docker reports of a service's only container."""
        return inspect("container", self.container(service))

    def execute(
        self, *command: str, expected: int = 0, service: str = service, stdin: str = "", **options: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a service's container, with these options of `docker compose exec`."""
        given = [f"--{name}={value}" for name, value in options.items()]
        return self.compose("exec", "--no-TTY", *given, service, *command, expected=expected, stdin=stdin)

    def run(self, *command: str, expected: int = 0, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container of its own, made as the service's is; without one, start a service in it."""
        return self.compose("run", "--rm", "--no-TTY", self.service, *command, expected=expected, **settings)

    def wait_until(self, holds: Callable[[Any], bool]) -> Any:
        """Return the container's state once this holds for it."""
        deadline = time.monotonic() + SECONDS
        while not holds(state := self.state()):
            assert time.monotonic() < deadline, json.dumps(state["State"], indent=2)
            time.sleep(0.1)
        return state


def docker(
    *arguments: str,
    expected: int | None = 0,
    timeout: float = SECONDS,
    stdin: str = "",
    settings: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run docker, and fail with its output unless it ends with the ``expected`` exit code (None: any)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    ended = subprocess.run(
        ["docker", *arguments],
        cwd=_ROOT,
        env=kept | (settings or {}),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if expected is not None:
        assert ended.returncode == expected, f"docker {' '.join(arguments)}:\n{ended.stdout}\n{ended.stderr}"
    return ended


@contextmanager
def started(image: str, *options: str) -> Iterator[str]:
    """Start a plain container of this image with these options of `docker run`; yield its id, and remove it."""
    container = docker("run", "--detach", *options, image).stdout.strip()
    try:
        yield container
    finally:
        docker("rm", "--force", container)


def inspect(kind: str, name: str) -> Any:
    """Inspect an image or a container."""
    return json.loads(docker(kind, "inspect", name).stdout)[0]
