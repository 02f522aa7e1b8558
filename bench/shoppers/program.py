"""Read the command line, let the shoppers shop, and report. Import locust first, as ``__main__`` does."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
from locust.env import Environment
from locust.util.timespan import parse_timespan

from bench import results
from bench.processes import Broken, free_port, serving
from bench.shoppers.caller import Tokens
from bench.shoppers.journeys import Shopper, Trip
from bench.shoppers.latencies import Latencies
from bench.shoppers.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

_END_S = 60  # within which the journeys end after the run; more than the patience of a caller
_START_S = 10  # within which the service responds
_OURS = ("CARTSVC_", "WEB_CONCURRENCY")  # settings of the server that is started here


def main() -> None:
    """Run the shoppers that the command line describes."""
    options = _options()
    try:
        with _service(options.url) as base:
            verdict, latencies = run(base, options)
    except Broken as error:
        sys.exit(f"bench.shoppers: {error}")
    path: Path = options.picture
    path.parent.mkdir(exist_ok=True)
    title = f"{options.users} shoppers, {options.time} s"
    path.write_text(latencies.draw(title), encoding="utf-8")
    print(f"{latencies.table()}\n\nwritten: {path}\n\n{verdict}")  # noqa: T201 - the purpose of this program
    sys.exit(0 if verdict.holds else 1)


def run(base: str, options: argparse.Namespace) -> tuple[Verdict, Latencies]:
    """Let the shoppers shop until the time is over or a signal ends the run. Raises Broken without a token."""
    verdict, latencies, tokens = Verdict(), Latencies(), Tokens(options.token_command)
    tokens.of("load")  # a command that fails ends the run before it begins
    trip = Trip(
        base,
        verdict,
        tokens,
        cut=options.cut,
        think_s=options.think,
        shoppers=options.users,
        journeys=options.journeys,
    )
    Shopper.trip = trip
    environment = Environment(user_classes=[Shopper], host=base, stop_timeout=_END_S)
    began = time.time()

    def measured(*, name: str, response_time: float, start_time: float, exception: Any, **_: Any) -> None:  # noqa: ANN401 - of Locust
        latencies.add(name, at_s=start_time - began, took_ms=response_time, failed=exception is not None)

    def failed(*, exception: Exception, **_: Any) -> None:  # noqa: ANN401 - as above
        verdict.errors += 1
        verdict.rejected[f"error: {exception!r}"] += 1

    environment.events.request.add_listener(measured)
    environment.events.user_error.add_listener(failed)
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, trip.ended.set)
    print(f"{options.users} shoppers at {base} for {options.time} s", file=sys.stderr)  # noqa: T201 - before a long wait
    runner = environment.create_local_runner()
    runner.start(options.users, spawn_rate=options.users)
    trip.ended.wait(options.time)
    trip.ended.set()
    runner.quit()
    runner.greenlet.join()
    return verdict, latencies


@contextmanager
def _service(url: str) -> Iterator[str]:
    """Yield the URL of the service, without a slash at its end; that of a new server if ``url`` is empty."""
    if url:
        base = url.rstrip("/")
        try:
            urllib.request.urlopen(f"{base}/healthz", timeout=_START_S).close()  # noqa: S310 - the caller's own URL
        except (OSError, ValueError) as error:
            raise Broken(f"no cartsvc at {base}: {error}") from error
        yield base
        return
    port = free_port()
    settings = {name: value for name, value in os.environ.items() if name.startswith(_OURS)}
    command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "wsgi:app"]
    with serving(command, port, env=settings, probe="/healthz"):
        yield f"http://127.0.0.1:{port}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.shoppers", description="Simulate shoppers of a cartsvc.")
    parser.add_argument(
        "--url", default="", help="of the service; without it, one is started with your CARTSVC_ settings"
    )
    parser.add_argument("--users", type=int, default=50, help="how many shop at the same time (50)")
    parser.add_argument("--time", type=parse_timespan, default=60, help="how long, such as 60s, 5m or 1h (60s)")
    parser.add_argument("--journeys", type=int, help="how many each shopper makes within that time (as many as it can)")
    parser.add_argument("--think", type=float, default=0.5, help="average pause between two steps, in seconds (0.5)")
    parser.add_argument("--cut", type=float, default=0.02, help="share of changes whose response is cut off (0.02)")
    parser.add_argument(
        "--token-command", default="", help="prints a token for the user id that is its last argument; for CARTSVC_AUTH"
    )
    picture = results.FOLDER / "load.svg"
    parser.add_argument(
        "--picture", type=Path, default=picture, help="the file for the latencies (bench/results/load.svg)"
    )
    options = parser.parse_args()
    if options.users < 1 or not 0 <= options.cut < 1 or options.think < 0:
        parser.error("--users is at least 1, --cut from 0 to below 1, --think not negative")
    return options
