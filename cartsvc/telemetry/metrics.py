"""The metrics: what is counted of requests and calls to the store, and the page that shows it.

prometheus-client keeps the counts in files, from which any worker makes the page of all workers. The module is imported
only when CARTSVC_METRICS_PORT is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from cartsvc.errors import StoreError, StoreFull
from cartsvc.telemetry.metrics_files import worker_starts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cartsvc.carts.store import CartStore
    from cartsvc.telemetry.metrics_files import WorkerSlot
    from cartsvc.telemetry.requests import RequestInfo

_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_STORE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_MERGE_ROUTE = "/cart/{user_id}/merge"
_REPLAYED = ("Idempotency-Replayed", "true")
_RATE_LIMITED = "too-many-requests"


class Metrics:
    """Count requests and calls to the store in the files of this worker's slot.

    ``store`` is the kind of store. One process has one object of this class.
    """

    def __init__(self, slot: WorkerSlot, *, version: str, store: str) -> None:
        # The library numbers its files by process id, so that each recycled worker would leave some behind.
        values.ValueClass = values.MultiProcessValue(lambda: slot.name)
        self._directory, self._version, self._store_kind = slot.directory, version, store
        self._requests = Histogram(
            "http_server_request_duration_seconds",
            "Time from the parsed headers until the response is ready to send",
            ["http_request_method", "http_route", "http_response_status_code"],
            buckets=_REQUEST_BUCKETS,
            registry=None,
        )
        self._active = Gauge(
            "http_server_active_requests", "Requests being served", registry=None, multiprocess_mode="livesum"
        )
        self._problems = Counter("cartsvc_problems", "Problems returned", ["type"], registry=None)
        self._merges = Counter("cartsvc_merges", "Merges requested", ["result"], registry=None)
        self._replays = Counter("cartsvc_idempotent_replays", "Retries that were not applied again", registry=None)
        self._limited = Counter("cartsvc_rate_limited", "Requests over the rate limit", registry=None)
        self._calls = Histogram(
            "db_client_operation_duration_seconds",
            "Time of a call to the store",
            ["db_system_name", "db_operation_name", "error_type"],
            buckets=_STORE_BUCKETS,
            registry=None,
        )
        self._conflicts = Counter("cartsvc_store_conflicts", "Writes repeated because of others", registry=None)
        # Looking up a metric by its labels takes longer than counting, so what was found is kept.
        self._observe_request: dict[tuple[str, str, str], tuple[Callable[[float], None], bool]] = {}
        self._observe_call: dict[tuple[str, str], Callable[[float], None]] = {}

    def begin(self, _info: RequestInfo) -> None:
        """Count a request that begins."""
        self._active.inc()

    def end(self, info: RequestInfo) -> None:
        """Count a request that has ended."""
        self._active.dec()
        key = (info.method, info.rule, info.status)
        found = self._observe_request.get(key)
        if found is None:
            histogram = self._requests.labels(info.method, info.route, info.status_code)
            is_merge = info.method == "POST" and info.route == _MERGE_ROUTE
            found = self._observe_request[key] = (histogram.observe, is_merge)
        observe, is_merge = found
        observe(info.seconds)
        problem = info.problem
        if problem is not None:
            self._problems.labels(problem).inc()
            if problem == _RATE_LIMITED:
                self._limited.inc()
        replayed = "HTTP_IDEMPOTENCY_KEY" in info.wsgi and _REPLAYED in info.headers
        if replayed:
            self._replays.inc()
        if is_merge:
            self._merges.labels(problem or ("replayed" if replayed else "merged")).inc()

    def store_call(self, operation: str, *, seconds: float, error: str) -> None:
        """Count a call to the store."""
        observe = self._observe_call.get((operation, error))
        if observe is None:
            labels = self._calls.labels(self._store_kind, operation, error)
            observe = self._observe_call[operation, error] = labels.observe
        observe(seconds)

    def conflicts(self, count: int) -> None:
        """Count writes that were repeated because of others."""
        self._conflicts.inc(count)

    def page(self, store: CartStore) -> bytes:
        """Return the metrics of all workers, and the state of ``store`` now, as Prometheus' text (version 0.0.4)."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=self._directory)
        registry.register(_State(store, self._directory, version=self._version, kind=self._store_kind))
        return generate_latest(registry)


class _State:
    """What is the same for all workers, and measured when the page is made."""

    def __init__(self, store: CartStore, directory: str, *, version: str, kind: str) -> None:
        self._store, self._directory, self._version, self._kind = store, directory, version, kind

    def describe(self) -> list[Metric]:
        """Return nothing, so that the store is pinged only once per page."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        starts = CounterMetricFamily("cartsvc_worker_starts", "Workers started", labels=["reason"])
        for reason, count in worker_starts(self._directory).items():
            starts.add_metric([reason], count)
        yield starts
        build = GaugeMetricFamily("cartsvc_build_info", "Version and store", labels=["version", "store"])
        build.add_metric([self._version, self._kind], 1)
        yield build
        try:
            self._store.ping()
            up, full = 1, 0
        except StoreFull:
            up, full = 1, 1
        except StoreError:
            yield GaugeMetricFamily("cartsvc_store_up", "Whether the store responds", value=0)
            return
        yield GaugeMetricFamily("cartsvc_store_up", "Whether the store responds", value=up)
        yield GaugeMetricFamily("cartsvc_store_full", "Whether the store takes no new carts", value=full)
        try:
            usage = self._store.usage()
        except StoreError:
            return
        if usage is not None:
            yield GaugeMetricFamily("cartsvc_store_used_bytes", "Bytes of carts", value=usage.used_bytes)
            yield GaugeMetricFamily("cartsvc_store_limit_bytes", "Bytes that carts may use", value=usage.limit_bytes)
            yield GaugeMetricFamily("cartsvc_store_records", "Records, expired ones included", value=usage.records)
