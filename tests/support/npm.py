"""Programs of the npm packages that tests/clients/package-lock.json pins, run by the Node of the tests."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.node import NODE
from tests.support.programs import Ended, run_program

NODE_MODULES = Path(__file__).parents[1] / "clients" / "node_modules"
_SECONDS = 60
_ENVIRON = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "NO_COLOR": "1"}


def run_package(program: str, *arguments: str | Path, cwd: Path) -> Ended:
    """Run a program of an installed package to its end."""
    script = NODE_MODULES / ".bin" / program
    assert script.exists(), "The npm packages of tests/clients are not installed. Run: make install"
    return run_node(script, *arguments, cwd=cwd)


def run_node(script: Path, *arguments: str | Path, cwd: Path) -> Ended:
    """Run a script to its end."""
    return run_program([NODE, script, *arguments], cwd=cwd, env={**os.environ, **_ENVIRON}, timeout=_SECONDS)
