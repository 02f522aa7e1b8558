"""Derive from CPU times where those of a request go, and what larger installations serve, with the arithmetic."""

from __future__ import annotations

from math import ceil
from statistics import median
from typing import TYPE_CHECKING

from bench.loads import CONNECTIONS, GET, POST, STOREFRONT
from bench.markdown import table
from bench.ratios import percent

if TYPE_CHECKING:
    from bench.results import Calls, Result, Run

_CORES, _MACHINES = 16, 10
_USE = 0.7  # of the CPU time: above it, requests wait for long
_SECOND_US = 1_000_000


def split(result: Result) -> str:
    """Return how the CPU time of a GET and a POST divides into server, application and store, as a Markdown table."""
    calls = _calls(result)
    rows = []
    for load, call in ((GET, "store_get"), (POST, "store_update")):
        total = _median(_runs(result, "memory", load.name), "cpu_us")
        server = _median(_runs(result, "bare", load.name), "cpu_us")
        store = _median(calls, call)
        rows.append([load.name, *(f"{part:,.0f}" for part in (total, server, total - server - store, store))])
    return table(["Request", "CPU µs", "server", "framework and application", "store"], rows)


def one_machine(result: Result) -> str:
    """Return what a large machine serves from memory, as a Markdown list."""
    cpu = _median(_runs(result, "memory", STOREFRONT.name), "cpu_us")
    update = _median(_calls(result), "store_update")
    methods = [each.method for each in STOREFRONT.requests("")]
    writes = 1 - methods.count("GET") / len(methods)
    core, lock = _SECOND_US / cpu, _SECOND_US / (writes * update)
    all_cores = _CORES * core * _USE
    return _list(
        f"A request takes {cpu:,.0f} µs of CPU time, so a core serves 1,000,000 / {cpu:,.0f} = {core:,.0f} a second.",
        f"{_CORES} cores, {percent(_USE)} in use, serve {_CORES} x {core:,.0f} x {_USE} = {all_cores:,.0f}.",
        f"Writes take turns. {percent(writes)} of the requests are writes of {update:.1f} µs, which allows at most "
        f"1,000,000 / ({writes:.2f} x {update:.1f}) = {lock:,.0f} requests a second.",
    )


def many_machines(result: Result) -> str:
    """Return what several machines serve from a Valkey server, as a Markdown list."""
    runs = _runs(result, "valkey", STOREFRONT.name)
    cpu, store = _median(runs, "cpu_us"), _median(runs, "store_cpu_us")
    machine, server = _CORES * _SECOND_US / cpu * _USE, _SECOND_US / store * _USE
    total = _MACHINES * machine
    return _list(
        f"A request takes {cpu:,.0f} µs of CPU time in the service, and {store:,.0f} µs in the Valkey server.",
        f"A machine, {percent(_USE)} in use, serves {_CORES} x 1,000,000 / {cpu:,.0f} x {_USE} = {machine:,.0f}.",
        f"{_MACHINES} machines serve {_MACHINES} x {machine:,.0f} = {total:,.0f}.",
        f"A Valkey server runs commands on one core: it serves 1,000,000 / {store:,.0f} x {_USE} = {server:,.0f}, "
        f"which is enough for {server / machine:.1f} of the machines.",
        f"All of them need a cluster: {total:,.0f} / {server:,.0f}, rounded up, is {ceil(total / server)} primaries.",
    )


def _list(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _runs(result: Result, subject: str, load: str) -> list[Run]:
    return result.runs(subject, load, CONNECTIONS)


def _calls(result: Result) -> list[Calls]:
    """Return the calls of the store of middle size."""
    return sorted(result.sizes, key=lambda size: size.carts)[len(result.sizes) // 2].rounds


def _median(rounds: list[Run] | list[Calls], figure: str) -> float:
    figures: list[float] = [getattr(each, figure) for each in rounds]
    return median(figures)
