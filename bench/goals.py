"""State the goals, each a ratio of two figures of one run, and compare a result with them."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from bench.loads import GET, GET_500, POST, Load
from bench.ratios import ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.results import Result, Run

_MAX_CART_BYTES = 1024
_MAX_GROWTH = 1.1
CALLS = {
    "store_get": "a get of the store",
    "store_update": "an update of the store",
    "app_get": "a GET in process",
    "app_post": "a POST in process",
}


class Goal(NamedTuple):
    """A figure and its bound. ``measured`` is None if the run has no such figure."""

    what: str
    measured: float | None
    bound: float
    is_minimum: bool = False

    @property
    def outcome(self) -> str:
        """Whether the goal is met, in one or two words."""
        if self.measured is None:
            return "not measured"
        met = self.measured >= self.bound if self.is_minimum else self.measured <= self.bound
        return "met" if met else "missed"


def goals(result: Result) -> list[Goal]:
    """Return all goals with what this run measured."""
    return [*_of_requests(result), *_of_sizes(result), *_of_telemetry(result)]


def _of_requests(result: Result) -> Iterator[Goal]:
    def compared(load: Load, base: str, figure: Callable[[Run], float]) -> float | None:
        runs, of_base = (result.runs(subject, load.name, load.connections) for subject in ("memory", base))
        return ratio([figure(run) for run in runs], [figure(run) for run in of_base]) if runs and of_base else None

    def rate(run: Run) -> float:
        return run.rate

    def cpu(run: Run) -> float:
        return run.total_cpu_us

    for load, bound in ((GET, 1.4), (POST, 1.15), (GET_500, 10.0)):
        what = f"{load.name}: requests per second, as a multiple of the FastAPI sample's"
        yield Goal(what, compared(load, "fastapi", rate), bound, is_minimum=True)
    for load, bound in ((GET, 1.1), (POST, 1.4)):
        yield Goal(
            f"{load.name}: CPU per request, as a multiple of the FastAPI sample's",
            compared(load, "fastapi", cpu),
            bound,
        )
    p99 = compared(GET, "fastapi", lambda run: run.p99_ms)
    yield Goal("GET: 99th percentile, as a multiple of the FastAPI sample's", p99, 1.0)
    for load, bound in ((GET, 0.65), (POST, 0.55)):
        what = f"{load.name}: requests per second, as a share of the bare app's"
        yield Goal(what, compared(load, "bare", rate), bound, is_minimum=True)


def _of_sizes(result: Result) -> Iterator[Goal]:
    sizes = sorted(result.sizes, key=lambda size: size.carts)
    largest = max((size.bytes_per_cart for size in sizes), default=None)
    yield Goal("bytes per cart of 5 items in memory", largest, _MAX_CART_BYTES)
    few, many = (sizes[0], sizes[-1]) if sizes else (None, None)
    between = f"from {few.carts:,} to {many.carts:,} carts" if few and many else "with the number of carts"
    for name, what in CALLS.items():
        growth = None
        if few and many and few is not many:
            growth = ratio([getattr(each, name) for each in many.rounds], [getattr(each, name) for each in few.rounds])
        yield Goal(f"CPU of {what}: growth {between}", growth, _MAX_GROWTH)


def _of_telemetry(result: Result) -> Iterator[Goal]:
    """Compare what is added within each round, because other work slows all applications of a round alike."""
    rounds = result.telemetry
    for what, added, bound in (
        ("request ids and metrics", [each.metrics - each.none for each in rounds], 20.0),
        ("a line of the log", [each.line - each.ids for each in rounds], 25.0),
    ):
        yield Goal(f"CPU of {what}, µs per request", median(added) if added else None, bound)
