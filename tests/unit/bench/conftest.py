"""A result with round figures."""

from __future__ import annotations

import pytest

from bench.loads import LOADS, SWEEP
from bench.results import Calls, Machine, Noise, Result, Run, Series, Size, Telemetry
from bench.subjects import SUBJECTS


def a_run(**figures: float) -> Run:
    """Return a round with 1,000 requests per second and 100 us each, unless ``figures`` has others."""
    known = {"rate": 1_000.0, "p50_ms": 1.0, "p99_ms": 2.0, "p999_ms": 3.0, "cpu_us": 100.0, "store_cpu_us": 0.0}
    return Run(**{**known, **figures})  # type: ignore[arg-type] - all are numbers


def a_result(
    series: list[Series],
    sizes: list[Size] | None = None,
    missing: dict[str, str] | None = None,
    telemetry: list[Telemetry] | None = None,
) -> Result:
    """Return a result of two rounds."""
    machine = Machine(cores=2, cpu="a CPU", system="Linux", python="CPython 3", wrk="wrk 4", packages={"flask": "3"})
    noise = Noise(load_average=0.5, steal_percent=1.25)
    return Result(
        mode="full",
        date="2026-01-02",
        rounds=2,
        seconds=3,
        machine=machine,
        noise=noise,
        series=series,
        sizes=sizes or [],
        missing=missing or {},
        telemetry=telemetry or [],
    )


def a_series(subject: str, *rates: float, load: str = "GET", connections: int = 16) -> Series:
    """Return rounds with these rates."""
    runs = [a_run(rate=rate) for rate in rates]
    return Series(load=load, connections=connections, subject=subject, runs=runs)


def a_size(carts: int, bytes_per_cart: float, *calls: float) -> Size:
    """Return a size with one round for each of ``calls``: microseconds of all four calls."""
    rounds = [Calls(store_get=us, store_update=us, app_get=us, app_post=us) for us in calls]
    return Size(carts=carts, bytes_per_cart=bytes_per_cart, rounds=rounds)


@pytest.fixture
def result() -> Result:
    """A result with all subjects, loads and sizes; Express loses adds, and Valkey's server takes 20 us."""
    series = []
    for load in (*LOADS, *SWEEP):
        for subject in SUBJECTS:
            if not subject.loads or load.name in subject.loads:
                store = 20.0 if subject.name in {"valkey", "express"} else 0.0
                lost = 7 if load.count_adds and subject.name == "express" else 0
                runs = [a_run(rate=rate, store_cpu_us=store, lost=lost) for rate in (1_000, 1_200)]
                series.append(Series(load=load.name, connections=load.connections, subject=subject.name, runs=runs))
    sizes = [a_size(10, 900, 10), a_size(100, 800, 10), a_size(1_000, 700, 10)]
    return a_result(series, sizes, telemetry=[Telemetry(none=100, ids=104, metrics=116, line=130)])
