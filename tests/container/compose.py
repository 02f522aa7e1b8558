"""docker-compose.yml as a project that tests build, start, look into and remove."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOT = Path(__file__).parent.parent.parent
SECONDS = 120  # for one command; more than any stop may take
_BUILD_SECONDS = 900  # it may have to fetch the base image
_OURS = ("CARTSVC_", "COMPOSE_", "PORT", "WEB_CONCURRENCY")  # what the shell that runs the tests must not decide


class Project:
    """docker-compose.yml under a name of its own, beside whatever else runs from it."""

    service = "cart-service"
    url = "http://127.0.0.1:8080"

    def __init__(self) -> None:
        self.name = f"cartsvc-test-{secrets.token_hex(4)}"
        self.network = f"{self.name}_default"
        self.image = f"{self.name}-{self.service}"

    def compose(
        self, *arguments: str, expected: int | None = 0, timeout: float = SECONDS, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run docker compose with these settings in its environment; ``expected`` is its exit code, None any."""
        # No .env, no override file: what is tested is what a fresh clone has.
        given = ["--project-name", self.name, "--file", str(_ROOT / "docker-compose.yml"), "--env-file", os.devnull]
        return docker("compose", *given, *arguments, expected=expected, timeout=timeout, settings=settings)

    def build(self) -> None:
        """Build the image."""
        self.compose("build", timeout=_BUILD_SECONDS)

    def up(self) -> None:
        """Return once the service is healthy. Port 8080 must be free."""
        try:
            self.compose("up", "--detach", "--wait", "--no-build")
        except AssertionError as error:
            error.add_note(self.compose("logs", "--no-color", expected=None).stdout)
            raise

    def remove(self) -> None:
        """Leave nothing behind."""
        self.compose("down", "--volumes", "--remove-orphans", "--rmi", "local", "--timeout", "1")

    def container(self) -> str:
        """The id of the service's container, running or not."""
        return self.compose("ps", "--all", "--quiet", self.service).stdout.strip()

    def state(self) -> Any:
        """What Docker knows of the service's container."""
        return inspect("container", self.container())

    def execute(self, *command: str, expected: int = 0, **options: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the service's container, with these options of `docker compose exec`."""
        given = [f"--{name}={value}" for name, value in options.items()]
        return self.compose("exec", "--no-TTY", *given, self.service, *command, expected=expected)

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
    *arguments: str, expected: int | None = 0, timeout: float = SECONDS, settings: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run docker, and fail with all it said unless it ends with the ``expected`` exit code (None: with any)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    ended = subprocess.run(
        ["docker", *arguments],
        cwd=_ROOT,
        env=kept | (settings or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if expected is not None:
        assert ended.returncode == expected, f"docker {' '.join(arguments)}:\n{ended.stdout}\n{ended.stderr}"
    return ended


def inspect(kind: str, name: str) -> Any:
    """Look at an image or a container."""
    return json.loads(docker(kind, "inspect", name).stdout)[0]
