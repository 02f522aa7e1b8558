"""``flask --app wsgi carts`` on the store at a URL: as a process, or in the process of the test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cartsvc import create_app
from cartsvc.settings import Settings
from tests.support.servers import STARTUP

if TYPE_CHECKING:
    from click.testing import Result
    from flask import Flask

_ROOT = Path(__file__).parents[2]
_SECONDS = 60


def flask(*arguments: str, url: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run ``flask --app wsgi carts`` with these arguments on the store at this URL, to its end."""
    command, environment = command_line(arguments, url)
    return subprocess.run(
        command, cwd=_ROOT, env=environment, input=stdin, capture_output=True, check=False, timeout=_SECONDS
    )


def command_line(arguments: tuple[str, ...], url: str) -> tuple[list[str], dict[str, str]]:
    """Return the command and its environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CARTSVC_", "FLASK_"))}
    environment = kept | {"CARTSVC_STORE_URL": url, "PYTHONPATH": str(STARTUP)}
    return [sys.executable, "-m", "flask", "--app", "wsgi", "carts", *arguments], environment


def service_on(url: str) -> Flask:
    """Return a service on the store at this URL."""
    return create_app(Settings.from_env({"CARTSVC_STORE_URL": url}))


def run_here(*arguments: str, url: str) -> Result:
    """Run ``carts`` with these arguments in this process, which takes a tenth of the time of a process."""
    return service_on(url).test_cli_runner().invoke(args=["carts", *arguments])
