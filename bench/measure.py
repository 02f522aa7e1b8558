"""Measure loads on running servers in turns, A B C A B C, so that other work of the machine affects all alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bench import loads, proc, wrk
from bench.processes import Broken
from bench.results import Run, Series
from bench.subjects import OURS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.loads import Load
    from bench.processes import Server

_WARM_UP_S = 1


class Target(NamedTuple):
    """A running server with carts in it; each cart has an item with this id."""

    subject: str
    server: Server
    item_id: str


class Case(NamedTuple):
    """One load on one server."""

    load: Load
    target: Target


def measure(cases: Sequence[Case], *, rounds: int, seconds: int, progress: Callable[[str], None]) -> list[Series]:
    """Return the figures of each case. The first turn is for warming up and is not counted. Raises Broken."""
    runs: dict[Case, list[Run]] = {case: [] for case in cases}
    for turn in range(rounds + 1):
        for case in cases:
            of_load = f"{case.load.name}, {case.load.connections} connections, {case.target.subject}"
            progress(f"round {turn} of {rounds}: {of_load}" if turn else f"warming up: {of_load}")
            try:
                measured = _run(case, seconds if turn else _WARM_UP_S)
            except Broken as error:
                raise Broken(f"{of_load}: {error}") from error
            if turn:
                runs[case].append(measured)
    return [
        Series(load=case.load.name, connections=case.load.connections, subject=case.target.subject, runs=found)
        for case, found in runs.items()
    ]


def _run(case: Case, seconds: int) -> Run:
    """Run a load once. Raises Broken also if cartsvc has lost an acknowledged add."""
    load, (subject, server, item_id) = case
    load.prepare(server)
    items = loads.count_hot(server) if load.count_adds else 0
    before, store_before = proc.cpu_seconds(server.pid), _store_cpu(server)
    found = wrk.run(server.port, load, item_id, seconds)
    cpu, store_cpu = proc.cpu_seconds(server.pid) - before, _store_cpu(server) - store_before
    # Adds in flight at the end are not counted as acknowledged, but may be applied.
    lost = max(0, found.responses - (loads.count_hot(server) - items)) if load.count_adds else 0
    if lost and subject in OURS:
        raise Broken(f"{lost} of {found.responses} acknowledged adds are lost")
    return Run(
        rate=found.responses / found.seconds,
        p50_ms=found.p50_ms,
        p99_ms=found.p99_ms,
        p999_ms=found.p999_ms,
        cpu_us=cpu / found.responses * 1e6,
        store_cpu_us=store_cpu / found.responses * 1e6,
        lost=lost,
    )


def _store_cpu(server: Server) -> float:
    return proc.cpu_seconds(server.store_pid) if server.store_pid else 0
