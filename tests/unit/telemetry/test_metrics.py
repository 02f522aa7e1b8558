"""The metrics in one process: what is counted of requests and calls, and the files that keep it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import values

from cartsvc.carts.store import StoreUsage
from cartsvc.errors import RecordUnreadable, StoreError, StoreFull
from cartsvc.telemetry import metrics_files
from cartsvc.telemetry.measured_store import MeasuredStore
from cartsvc.telemetry.metrics import Metrics
from cartsvc.telemetry.metrics_files import MetricsFiles, WorkerSlot, worker_starts
from cartsvc.telemetry.metrics_port import MetricsPort
from cartsvc.telemetry.requests import RequestInfo, current_request
from tests.support.scrapes import Scrape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_COUNT = "http_server_request_duration_seconds_count"
_CALLS = "db_client_operation_duration_seconds_count"


class FakeStore:
    """A store whose every call does what a function does."""

    def __init__(self, does: Callable[[], Any] = lambda: None, usage: StoreUsage | None = None) -> None:
        self._does, self._usage = does, usage

    def get(self, _user_id: str) -> Any:
        """Do it."""
        return self._does()

    def update(self, _user_id: str, change: Callable[[Any], tuple[Any, Any]]) -> Any:
        """Call ``change`` three times, as if two writes came before."""
        return [change(None)[1] for _ in range(3)][-1]

    ping = delete = purge_expired = lambda self, *_: self._does()

    def usage(self) -> StoreUsage | None:
        """Return it."""
        return self._usage


def raiser(error: Exception) -> Callable[[], Any]:
    """Return a function that raises this error."""

    def fail() -> Any:
        raise error

    return fail


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[Metrics]:
    """Return the metrics of the worker in slot 0."""
    kind = values.ValueClass
    found = Metrics(WorkerSlot(str(tmp_path), "1-0"), version="1.2.3", store="lmdb")
    yield found
    values.ValueClass.close_all_files()
    values.ValueClass = kind


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))


def page(metrics: Metrics, store: Any = None) -> Scrape:
    """Return the page."""
    return Scrape(metrics.page(store or FakeStore()).decode())


def serve(metrics: Metrics, status: str = "200 OK", headers: Any = (), **environ: Any) -> None:
    """Count a request."""
    info = RequestInfo({"REQUEST_METHOD": "POST", **environ}, "x")
    info.status, info.headers, info.seconds = status, list(headers), 0.0024
    metrics.begin(info)
    metrics.end(info)


def test_a_request_is_counted_once(metrics: Metrics) -> None:
    """By method, route and status, in the bucket of its time."""
    route = {"cartsvc.route": "/cart/<user_id>/items/<item_id>"}
    serve(metrics, **route)
    serve(metrics, **route)
    serve(metrics, "404 NOT FOUND", **{"cartsvc.problem": "cart-not-found"}, **route)
    labels = {"http_request_method": "POST", "http_route": "/cart/{user_id}/items/{item_id}"}
    found = page(metrics)
    assert found.total(_COUNT, **labels, http_response_status_code="200") == 2
    assert found.total(_COUNT, **labels, http_response_status_code="404") == 1
    buckets = {
        bound: found.total("http_server_request_duration_seconds_bucket", le=bound) for bound in ("0.001", "0.0025")
    }
    assert buckets == {"0.001": 0, "0.0025": 3}
    assert found.total("cartsvc_problems_total", type="cart-not-found") == 1


def test_a_running_request_is_active(metrics: Metrics) -> None:
    """Until it has ended."""
    metrics.begin(RequestInfo({"REQUEST_METHOD": "GET"}, "x"))
    assert page(metrics).total("http_server_active_requests") == 1
    serve(metrics)
    assert page(metrics).total("http_server_active_requests") == 1


@pytest.mark.parametrize("method", ["brew", "X" * 1000, "GET\n"])
def test_unknown_methods_share_a_label(metrics: Metrics, method: str) -> None:
    """So clients cannot make the page grow."""
    serve(metrics, REQUEST_METHOD=method)
    assert page(metrics).values(_COUNT, "http_request_method") == {"_OTHER"}


@pytest.mark.parametrize(
    ("environ", "headers", "expected"),
    [
        ({}, (), {"merged": 1}),
        ({"cartsvc.problem": "merge-aborted"}, (), {"merge-aborted": 1}),
        ({"HTTP_IDEMPOTENCY_KEY": "k"}, [("Idempotency-Replayed", "true")], {"replayed": 1}),
        ({"HTTP_IDEMPOTENCY_KEY": "k"}, (), {"merged": 1}),
        ({"REQUEST_METHOD": "OPTIONS"}, (), {}),
        ({"cartsvc.route": "/cart/<user_id>"}, (), {}),
    ],
)
def test_a_merge_has_a_result(metrics: Metrics, environ: Any, headers: Any, expected: dict[str, int]) -> None:
    """Merged, replayed, or the slug of its problem."""
    serve(metrics, headers=headers, **({"cartsvc.route": "/cart/<user_id>/merge"} | environ))
    found = page(metrics)
    merges = {
        each: found.total("cartsvc_merges_total", result=each) for each in ("merged", "replayed", "merge-aborted")
    }
    assert {result: count for result, count in merges.items() if count} == expected
    assert found.total("cartsvc_idempotent_replays_total") == expected.get("replayed", 0)


def test_a_rate_limit_is_counted(metrics: Metrics) -> None:
    """And no other 429."""
    for slug in ("too-many-requests", "too-many-merges"):
        serve(metrics, "429 X", **{"cartsvc.problem": slug})
    assert page(metrics).total("cartsvc_rate_limited_total") == 1


@pytest.mark.parametrize(
    ("error", "label"),
    [(StoreError(), "StoreError"), (StoreFull(), "StoreFull"), (RecordUnreadable(), "RecordUnreadable")],
)
def test_a_call_is_measured(metrics: Metrics, error: Exception, label: str) -> None:
    """Its time is that of the request too; a failed call has the class of its error."""
    ticks = iter(range(10))
    info = RequestInfo({}, "x")
    current_request.set(info)
    MeasuredStore(FakeStore(), monotonic=lambda: next(ticks), observers=[metrics]).get("alice")  # type: ignore[arg-type]
    failing = MeasuredStore(FakeStore(raiser(error)), monotonic=lambda: next(ticks), observers=[metrics])  # type: ignore[arg-type]
    with pytest.raises(type(error)):
        failing.get("alice")
    current_request.set(None)
    assert info.store_seconds == 2
    found = page(metrics)
    labels = {"db_system_name": "lmdb", "db_operation_name": "get"}
    assert (found.total(_CALLS, **labels, error_type=""), found.total(_CALLS, **labels, error_type=label)) == (1, 1)


def test_repeated_writes_are_conflicts(metrics: Metrics) -> None:
    """Each repetition is one."""
    store = MeasuredStore(FakeStore(), monotonic=lambda: 0, observers=[metrics])  # type: ignore[arg-type]
    assert store.update("alice", lambda old: (old, "result")) == "result"
    assert page(metrics).total("cartsvc_store_conflicts_total") == 2


@pytest.mark.parametrize(
    ("does", "expected"),
    [
        (lambda: None, {"up": 1, "full": 0, "used_bytes": 1, "limit_bytes": 2, "records": 3}),
        (raiser(StoreFull()), {"up": 1, "full": 1, "used_bytes": 1, "limit_bytes": 2, "records": 3}),
        (raiser(StoreError()), {"up": 0}),
    ],
)
def test_the_state_of_the_store_is_that_of_a_ping(metrics: Metrics, does: Any, expected: dict[str, int]) -> None:
    """Of a store that does not respond, nothing else is known."""
    found = page(metrics, FakeStore(does, StoreUsage(1, 2, 3)))
    names = ("up", "full", "used_bytes", "limit_bytes", "records")
    present = {name: found.total(f"cartsvc_store_{name}") for name in names if found.labels(f"cartsvc_store_{name}")}
    assert present == expected
    assert found.total("cartsvc_build_info", version="1.2.3", store="lmdb") == 1


def test_a_later_worker_of_a_slot_continues_its_counts(metrics: Metrics, tmp_path: Path) -> None:
    """And a worker of another slot adds to them."""
    serve(metrics)
    values.ValueClass.close_all_files()
    for name in ("1-0", "1-1"):
        later = Metrics(WorkerSlot(str(tmp_path), name), version="1.2.3", store="lmdb")
        serve(later)
    assert page(later).total(_COUNT) == 3


# ---- files ----


def server_with(*workers: Any, wanted: int = 2) -> Any:
    """Return what is used of gunicorn's first process."""
    return SimpleNamespace(WORKERS=dict(enumerate(workers)), num_workers=wanted, log=SimpleNamespace(warning=print))


def worker() -> Any:
    """Return what is used of a worker."""
    return SimpleNamespace(aborted=False)


def test_slots_are_those_of_no_living_worker(tmp_path: Path) -> None:
    """The lowest one is taken, so their number is that of the workers that live at once."""
    files = MetricsFiles.open(None, workers=1, memory=tmp_path)
    workers = [worker() for _ in range(4)]
    files.before_fork(server_with(), workers[0])
    files.before_fork(server_with(workers[0]), workers[1])
    files.before_fork(server_with(workers[1]), workers[2])
    files.before_fork(server_with(workers[1], workers[2]), workers[3])
    assert [each.metrics_slot for each in workers] == [0, 1, 0, 2]
    names = {file.name.rpartition("_")[2] for file in Path(files.path).glob("*.db")}
    assert names == {f"{os.getpid()}-{number}.db" for number in range(3)}
    files.directory.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("in_order", "aborted", "wanted", "expected"),
    [
        (True, False, 1, {"boot": 1, "recycled": 1, "killed": 0}),
        (False, False, 1, {"boot": 1, "recycled": 0, "killed": 1}),
        (True, True, 1, {"boot": 1, "recycled": 0, "killed": 1}),
        (True, False, 0, {"boot": 2, "recycled": 0, "killed": 0}),
    ],
)
def test_a_start_has_a_reason(
    tmp_path: Path, wanted: int, expected: dict[str, int], *, in_order: bool, aborted: bool
) -> None:
    """That of the worker that is replaced; a worker that ended without a replacement explains no later start."""
    files = MetricsFiles.open(None, workers=1, memory=tmp_path)
    first, second = worker(), worker()
    files.before_fork(server_with(), first)
    if in_order:
        files.worker_exit(first)
    first.aborted = aborted
    files.worker_ended(server_with(wanted=wanted), first)
    files.before_fork(server_with(), second)
    assert worker_starts(files.path) == expected
    files.directory.close()


def test_a_dead_worker_leaves_its_counts_and_no_gauges(tmp_path: Path) -> None:
    """The requests that it was serving are over."""
    files = MetricsFiles.open(None, workers=1, memory=tmp_path)
    dead = worker()
    files.before_fork(server_with(), dead)
    files.worker_ended(server_with(), dead)
    assert {file.name.split("_")[0] for file in Path(files.path).glob("*.db")} == {"histogram", "counter"}
    files.directory.close()


def test_a_start_removes_what_a_killed_server_left(tmp_path: Path) -> None:
    """Not what another server uses, nor what is being made."""
    running = MetricsFiles.open(None, workers=1, memory=tmp_path)
    killed = MetricsFiles.open(None, workers=1, memory=tmp_path)
    killed.directory.leave()  # as the end of a process does
    new = tmp_path / "cartsvc-metrics-new"
    new.mkdir()
    files = MetricsFiles.open(None, workers=1, memory=tmp_path)
    assert {str(each) for each in tmp_path.iterdir()} == {running.path, files.path, str(new)}
    running.directory.close()
    files.directory.close()


def test_two_servers_share_a_directory(tmp_path: Path) -> None:
    """It ends with the last of them."""
    first = MetricsFiles.open(None, workers=1, memory=tmp_path)
    second = MetricsFiles.open(first.path, workers=1, memory=tmp_path)
    assert second.path == first.path
    first.directory.close()
    assert Path(second.path).exists()
    second.directory.close()
    assert not Path(second.path).exists()


def test_a_directory_that_is_gone_is_made_anew(tmp_path: Path) -> None:
    """The first server may stop before the second has locked it."""
    files = MetricsFiles.open(str(tmp_path / "gone"), workers=1, memory=tmp_path)
    assert Path(files.path).exists()
    files.directory.close()


def test_a_worker_without_room_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its map would have no pages, and the kernel would kill it; so it has no slot, and a warning is logged."""
    files = MetricsFiles.open(None, workers=1, memory=tmp_path)
    monkeypatch.setattr(metrics_files, "_slot", None)
    no_space = raiser(OSError(28, "No space left on device"))
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: no_space())
    warned: list[Any] = []
    server, one = server_with(), worker()
    server.log.warning = lambda *args: warned.append(args)
    files.before_fork(server, one)
    files.after_fork(one)
    assert metrics_files.own_slot() is None
    assert len(warned) == 1


# ---- the port ----


@pytest.mark.parametrize(
    ("port", "path", "method", "status"),
    [
        ("80", "/metrics", "GET", "app"),
        ("9100", "/metrics", "GET", "200 OK"),
        ("9100", "/metrics", "HEAD", "200 OK"),
        ("9100", "/metrics", "POST", "405 Method Not Allowed"),
        ("9100", "/cart/alice", "GET", "404 Not Found"),
    ],
)
def test_each_port_serves_its_own(port: str, path: str, method: str, status: str) -> None:
    """The carts are not served on the port of the metrics, nor the other way round."""
    seen: list[Any] = []
    served = MetricsPort(lambda _environ, start: start("app", []), port=9100, page=lambda: b"x 1\n")  # type: ignore[arg-type,return-value]
    served({"SERVER_PORT": port, "PATH_INFO": path, "REQUEST_METHOD": method}, lambda *args: seen.append(args[0]))  # type: ignore[arg-type]
    assert seen == [status]


def test_a_worker_without_metrics_says_so() -> None:
    """503, so that Prometheus reports it instead of counts that lack something."""
    seen: list[Any] = []
    served = MetricsPort(lambda *_: [], port=9100, page=None)
    environ = {"SERVER_PORT": "9100", "PATH_INFO": "/metrics", "REQUEST_METHOD": "GET"}
    served(environ, lambda *args: seen.append(args[0]))  # type: ignore[arg-type]
    assert seen == ["503 Service Unavailable"]


@pytest.mark.parametrize("port", ["", "9100"])
def test_nothing_is_imported_for_metrics(port: str) -> None:
    """Without a port, and in a process that is no worker."""
    code = "import sys, wsgi; print('prometheus_client' in sys.modules)"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CARTSVC_", "PROMETHEUS_"))}
    environment = kept | ({"CARTSVC_METRICS_PORT": port} if port else {})
    root = Path(__file__).parents[3]
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, check=True)
    assert ended.stdout == b"False\n"
