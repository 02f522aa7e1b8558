"""Run wrk, the load generator, and read its figures."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from bench.processes import Broken

if TYPE_CHECKING:
    from bench.loads import Load

_SCRIPT = Path(__file__).with_name("load.lua")
_LATE_S = 10  # without a response for this long, a request has failed
_GRACE_S = 60  # for wrk to start and to end


class Figures(NamedTuple):
    """What wrk reports: the number of responses, the seconds that they took, and percentiles in milliseconds."""

    responses: int
    seconds: float
    p50_ms: float
    p99_ms: float
    p999_ms: float


def run(port: int, load: Load, item_id: str, seconds: int) -> Figures:
    """Send the load for some seconds. Raises Broken if a request is rejected or gets no response."""
    with TemporaryDirectory(prefix="cartsvc-bench-") as directory:
        lines = Path(directory, "requests")
        lines.write_text("".join("\t".join(each) + "\n" for each in load.requests(item_id)))
        command = [
            "wrk",
            "-t1",
            f"-c{load.connections}",
            f"-d{seconds}s",
            "--timeout",
            f"{_LATE_S}s",
            "-s",
            str(_SCRIPT),
        ]
        command += [f"http://127.0.0.1:{port}", "--", str(lines)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _GRACE_S, check=False)  # noqa: S603 - our own command
    if ended.returncode != 0:
        raise Broken(f"wrk failed: {ended.stdout}{ended.stderr}")
    return parse(ended.stdout)


def parse(output: str) -> Figures:
    """Read the line that load.lua prints. Raises Broken if it is missing, or counts a failure."""
    _, mark, line = output.rpartition("\nbench ")
    if not mark:
        raise Broken(f"wrk printed no figures: {output}")
    responses, us, p50, p99, p999, rejected, broken, late = map(int, line.split())
    if rejected or broken or late or not responses:
        raise Broken(
            f"{responses} responses, {rejected} rejected; {broken} connections failed, {late} without response"
        )
    return Figures(responses, us / 1e6, p50 / 1e3, p99 / 1e3, p999 / 1e3)


def version() -> str:
    """Return the version of wrk."""
    shown = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout  # noqa: S607 - the one on the PATH
    return shown.partition(" [")[0].strip()
