"""Define the result of a run of the benchmark as it is kept in JSON: raw figures; everything else is derived."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

FOLDER = Path(__file__).with_name("results")
PUBLISHED = FOLDER / "published.json"  # docs/performance.md shows it


class Run(Struct, frozen=True, kw_only=True):
    """One round of one load on one server. Times are of the responses within it; CPU time is per response.

    ``store_cpu_us`` is that of a separate store server. ``lost`` is the number of acknowledged adds that are absent.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_us: float
    store_cpu_us: float = 0
    lost: int = 0

    @property
    def total_cpu_us(self) -> float:
        """CPU time of the server and of its store, per response in microseconds."""
        return self.cpu_us + self.store_cpu_us


class Series(Struct, frozen=True, kw_only=True):
    """The rounds of one load on one server, in their order."""

    load: str
    connections: int
    subject: str
    runs: list[Run]


class Calls(Struct, frozen=True, kw_only=True):
    """The CPU microseconds of calls: of the store, and of the app in process, that is, without a server around it."""

    store_get: float
    store_update: float
    app_get: float
    app_post: float


class Size(Struct, frozen=True, kw_only=True):
    """A memory store with this many carts of five items: its bytes, and the CPU microseconds of calls in each round."""

    carts: int
    bytes_per_cart: float
    rounds: list[Calls]


class Telemetry(Struct, frozen=True, kw_only=True):
    """The CPU microseconds of a GET in process, in one round: without telemetry, and with more and more of it.

    ``ids`` has ids and times of requests; ``metrics`` has metrics besides, and ``line`` a line of the log instead.
    """

    none: float
    ids: float
    metrics: float
    line: float


class Machine(Struct, frozen=True, kw_only=True):
    """What the figures depend on: the machine and the versions."""

    cores: int
    cpu: str
    system: str
    python: str
    wrk: str
    packages: dict[str, str]


class Noise(Struct, frozen=True, kw_only=True):
    """How busy the machine was otherwise: the load average before the run, and the share of stolen CPU time in it."""

    load_average: float
    steal_percent: float


class Result(Struct, frozen=True, kw_only=True):
    """A whole run. ``missing`` has the reason why a subject was not measured. Times of the run are in seconds."""

    mode: str
    date: str
    rounds: int
    seconds: int
    machine: Machine
    noise: Noise
    series: list[Series]
    sizes: list[Size]
    missing: dict[str, str]
    telemetry: list[Telemetry] = []

    def runs(self, subject: str, load: str, connections: int) -> list[Run]:
        """Return the rounds of this load on this subject; an empty list if it was not measured."""
        wanted = (subject, load, connections)
        found = [each.runs for each in self.series if (each.subject, each.load, each.connections) == wanted]
        return found[0] if found else []


def write(result: Result, path: Path) -> None:
    """Write the result as JSON."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


def read(path: Path) -> Result:
    """Read a result. Raises msgspec.ValidationError if the file has another form."""
    return msgspec.json.decode(path.read_bytes(), type=Result)
