"""Programs of the npm packages that tests/clients/package-lock.json pins, run by the Node of the tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.support.node import NODE

NODE_MODULES = Path(__file__).parents[1] / "clients" / "node_modules"
_SECONDS = 60
_ENVIRON = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "NO_COLOR": "1"}


class Ended(NamedTuple):
    """The end of a program: its exit code and its output on both streams."""

    returncode: int
    output: str


def run_package(program: str, *arguments: str | Path, cwd: Path) -> Ended:
    """Run a program of an installed package to its end."""
    script = NODE_MODULES / ".bin" / program
    assert script.exists(), "The npm packages of tests/clients are not installed. Run: make install"
    return run_node(script, *arguments, cwd=cwd)


def run_node(script: Path, *arguments: str | Path, cwd: Path) -> Ended:
    """Run a script to its end."""
    ended = subprocess.run(
        [NODE, str(script), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **_ENVIRON},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout)
