"""Present a result as Markdown tables that are readable in a terminal, too."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from bench.goals import CALLS, goals
from bench.loads import CONNECTIONS, LOADS, STOREFRONT
from bench.markdown import table
from bench.ratios import percent, ratio, spread
from bench.subjects import LABELS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.results import Result, Run

BASE = "fastapi"  # the subject that the others are compared with
_NONE = "-"
_TELEMETRY = (  # what is measured, the name of its figure, and that of the figure that it is compared with
    ("without telemetry", "none", ""),
    ("with ids and times", "ids", "none"),
    ("with ids, times and metrics", "metrics", "none"),
    ("with ids, times and a line of the log", "line", "ids"),
)
_LARGE = 100  # numbers from here on are shown without a fraction


def conditions(result: Result) -> str:
    """Return what the figures depend on, and how busy the machine was otherwise."""
    machine, noise = result.machine, result.noise
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    spreads = sorted(spread([run.rate for run in each.runs]) for each in result.series)
    widest = f"{percent(median(spreads))}, and of the least steady one by {percent(spreads[-1])}" if spreads else _NONE
    lines = [
        f"Measured on {result.date} on {machine.cores} cores of {machine.cpu} with {machine.system}.",
        f"Versions: {machine.python}, {machine.wrk}, {packages}.",
        f"Each load ran in {result.rounds} rounds of {result.seconds} s, after a warm-up.",
        f"Noise: between rounds, the requests per second of a typical series differ by {widest}.",
        f"Before the run the load average was {noise.load_average:.1f}.",
        f"During it {noise.steal_percent:.1f} % of the CPU time was stolen.",
        *(f"Not measured: {LABELS.get(name, name)}, because {why}." for name, why in result.missing.items()),
    ]
    return "\n".join(lines)


def load_table(result: Result, load: str, connections: int = CONNECTIONS) -> str:
    """Return the figures of one load, one row per subject."""
    base = result.runs(BASE, load, connections)
    rows = []
    for each in result.series:
        if (each.load, each.connections) == (load, connections):
            rates = [run.rate for run in each.runs]
            compared = ratio(rates, [run.rate for run in base]) if base else None
            row = [LABELS.get(each.subject, each.subject), f"{median(rates):,.0f}"]
            row += [_NONE if compared is None else f"{compared:.2f}"]
            row += [_number(each.runs, figure) for figure in (_p50, _p99, _p999)]
            rows.append([*row, _cpu(each.runs), percent(spread(rates)), f"{sum(run.lost for run in each.runs):,}"])
    header = [
        "Served by",
        "requests/s",
        "x FastAPI sample",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "CPU µs",
        "spread",
        "lost",
    ]
    keep = len(header) if any(row[-1] != "0" for row in rows) else len(header) - 1
    return table(header[:keep], [row[:keep] for row in rows])


def connections_table(result: Result) -> str:
    """Return requests per second and the 99th percentile of the storefront load for each number of connections."""
    counts = sorted({each.connections for each in result.series if each.load == STOREFRONT.name})
    rows = []
    for subject in dict.fromkeys(each.subject for each in result.series):
        found = [result.runs(subject, STOREFRONT.name, count) for count in counts]
        if any(found):
            cells = [
                f"{median(run.rate for run in runs):,.0f} ({_number(runs, _p99)} ms)" if runs else _NONE
                for runs in found
            ]
            rows.append([LABELS.get(subject, subject), *cells])
    return table(["Served by", *(f"{count} connection{'s' if count > 1 else ''}" for count in counts)], rows)


def sizes_table(result: Result) -> str:
    """Return bytes per cart and the cost of calls for each number of carts."""
    rows = []
    for size in result.sizes:
        medians = [median(getattr(each, name) for each in size.rounds) for name in CALLS]
        rows.append([f"{size.carts:,}", f"{size.bytes_per_cart:,.0f}", *(f"{figure:.1f}" for figure in medians)])
    return table(["Carts", "bytes per cart", *(f"{what}, µs" for what in CALLS.values())], rows)


def telemetry_table(result: Result) -> str:
    """Return the CPU time of a GET in process with each part of telemetry, and what the part adds."""
    if not result.telemetry:
        return "Not measured in this run."
    rows = []
    for what, name, base in _TELEMETRY:
        figures = [getattr(each, name) for each in result.telemetry]
        added = [each - getattr(of, base) for each, of in zip(figures, result.telemetry, strict=True)] if base else []
        rows.append([what, f"{median(figures):.1f}", f"{median(added):.1f}" if added else _NONE])
    return table(["GET in process", "CPU µs", "added"], rows)


def goals_table(result: Result) -> str:
    """Return each goal with its bound and what was measured."""
    rows = []
    for goal in goals(result):
        digits = 0 if goal.bound >= _LARGE else 2
        measured = _NONE if goal.measured is None else f"{goal.measured:,.{digits}f}"
        rows.append([goal.what, f"at {'least' if goal.is_minimum else 'most'} {goal.bound:,g}", measured, goal.outcome])
    return table(["Goal", "bound", "measured", "outcome"], rows)


def report(result: Result) -> str:
    """Return all tables with their titles, for the terminal."""
    parts = [conditions(result)]
    parts += [
        f"{load.what}, {load.connections} connections:\n{load_table(result, load.name)}"
        for load in LOADS
        if any(each.load == load.name and each.connections == load.connections for each in result.series)
    ]
    if any(each.connections != CONNECTIONS for each in result.series):
        parts.append(f"storefront over connections, requests/s and p99:\n{connections_table(result)}")
    if result.sizes:
        parts.append(f"memory store:\n{sizes_table(result)}")
    if result.telemetry:
        parts.append(f"telemetry:\n{telemetry_table(result)}")
    parts.append(f"Goals of the default, memory://:\n{goals_table(result)}")
    return "\n\n".join(parts)


def _number(runs: Sequence[Run], figure: Callable[[Run], float]) -> str:
    return f"{median(map(figure, runs)):.1f}"


def _cpu(runs: Sequence[Run]) -> str:
    """Return the CPU time of a request; that of a store's server is the second number."""
    store = median(run.store_cpu_us for run in runs)
    return f"{median(run.cpu_us for run in runs):,.0f}" + (f" + {store:,.0f}" if store else "")


def _p50(run: Run) -> float:
    return run.p50_ms


def _p99(run: Run) -> float:
    return run.p99_ms


def _p999(run: Run) -> float:
    return run.p999_ms
