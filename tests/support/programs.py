"""Run a program of a test to its end."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Ended(NamedTuple):
    """The end of a program: its exit code and its output on both streams."""

    returncode: int
    output: str


def run_program(command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], timeout: float) -> Ended:
    """Run a program to its end, with this environment and no other. ``timeout`` is in seconds."""
    ended = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout)


def output_of(command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], timeout: float) -> str:
    """Run a program that must succeed, and return its output."""
    ended = run_program(command, cwd=cwd, env=env, timeout=timeout)
    assert ended.returncode == 0, ended.output
    return ended.output
