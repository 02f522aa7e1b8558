"""The spans of the real server: of every request and call to the store, in the traces of its clients, none lost."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.support.collector import collector, request_id
from tests.support.http_clients import SECONDS, Client, at_once
from tests.support.ports import free_port
from tests.support.servers import run, serve
from tests.support.valkeys import valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.collector import Collector
    from tests.support.servers import Server
    from tests.support.valkeys import Valkey

CLASSES = pytest.mark.parametrize("environment", [{}, {"CARTSVC_THREADS": "8"}], ids=["gevent", "threads"])
AT_THE_END = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}  # milliseconds until a batch that is not full is exported
CLIENTS, EACH = 8, 10
REQUESTS = CLIENTS * EACH
SKU = {"product_id": "sku-1", "quantity": 1}
CLIENT_SPAN = "00f067aa0ba902b7"


@contextmanager
def traced(to: Collector | str, *arguments: str, **environment: str) -> Iterator[Server]:
    """Run a server of two workers that exports its spans to this collector."""
    url = to if isinstance(to, str) else to.url
    with serve(*arguments, **{"WEB_CONCURRENCY": "2", "OTEL_EXPORTER_OTLP_ENDPOINT": url} | environment) as server:
        yield server


@pytest.fixture(scope="module")
def observed() -> Iterator[tuple[Valkey, Server, Collector]]:
    """Return a store, which a test may stop and starts again, a server, and the collector that soon has its spans."""
    settings = {"CARTSVC_ACCESS_LOG": "all", "CARTSVC_LOG_FORMAT": "json", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with (
        valkey() as store,
        collector() as found,
        traced(found, CARTSVC_STORE_URL=store.url, WEB_CONCURRENCY="1", **settings) as server,
    ):
        yield store, server, found


def stop(server: Server) -> None:
    """Stop it gracefully."""
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(SECONDS) == 0


def trace_of(client: int, number: int) -> str:
    """Return the trace that this client begins for its request with this number."""
    return f"{client + 1:016x}{number + 1:016x}"


def shop(server: Server) -> None:
    """Send requests from several clients, each with a ``traceparent`` of its own."""

    def add(client: Client, number: int) -> None:
        for each in range(EACH):
            traceparent = f"00-{trace_of(number, each)}-{CLIENT_SPAN}-01"
            assert client.call("POST", f"/cart/user-{number}", SKU, traceparent=traceparent).status == 200

    at_once(CLIENTS, server.url, add)


def check_complete(found: Collector, store: str) -> None:
    """Each request of ``shop`` has its span in the trace of its client, and in it the span of its call."""
    servers = [span for span in found.spans("server") if span.name != "GET /healthz"]
    assert len(servers) == REQUESTS
    assert {(span.trace_id, span.parent_id, span.name) for span in servers} == {
        (trace_of(client, number), CLIENT_SPAN, "POST /cart/{user_id}")
        for client in range(CLIENTS)
        for number in range(EACH)
    }
    calls = found.spans("client")
    assert {(span.trace_id, span.parent_id) for span in calls} == {(span.trace_id, span.span_id) for span in servers}
    assert len(calls) == REQUESTS
    assert {span.name for span in calls} == {"update"}
    attributes = {"db.system.name": store, "db.operation.name": "update"}
    assert [span.attributes for span in calls] == [attributes] * REQUESTS
    outer = {span.span_id: span for span in servers}
    for span in calls:
        request = outer[span.parent_id]
        assert request.start_ns <= span.start_ns <= span.end_ns <= request.end_ns


@pytest.mark.parametrize(
    ("store_url", "threads"),
    [("memory", "8"), ("postgresql", "0")],  # with gevent, coroutines take turns only if the store is a server
    indirect=["store_url"],
)
def test_a_stop_loses_no_span(store_url: str, threads: str) -> None:
    """Of two workers, which export when they end."""
    settings = AT_THE_END | {"CARTSVC_STORE_URL": store_url, "CARTSVC_THREADS": threads}
    with collector() as found, traced(found, **settings) as server:
        shop(server)
        assert found.spans() == []
        stop(server)
        check_complete(found, urlsplit(store_url).scheme)


@CLASSES
def test_a_recycled_worker_loses_no_span(environment: dict[str, str]) -> None:
    """On Valkey; a worker exports before it is replaced."""
    often = ("--max-requests", "30", "--max-requests-jitter", "5")
    with valkey() as store, collector() as found:
        settings = AT_THE_END | environment | {"CARTSVC_STORE_URL": store.url, "WEB_CONCURRENCY": "1"}
        with traced(found, *often, **settings) as server:
            shop_on_new_connections(server)
            server.wait_for_boots(2)
            stop(server)
        check_complete(found, "valkey")


def shop_on_new_connections(server: Server) -> None:
    """Send the requests of ``shop`` one after another, because a worker that is replaced closes its connections."""
    for number in range(CLIENTS):
        for each in range(EACH):
            with Client(server.url) as client:
                traceparent = f"00-{trace_of(number, each)}-{CLIENT_SPAN}-01"
                assert client.call("POST", f"/cart/user-{number}", SKU, traceparent=traceparent).status == 200


def test_what_spans_contain(observed: tuple[Valkey, Server, Collector]) -> None:
    """The names and attributes of OpenTelemetry's conventions, and nothing of the client but the request's id."""
    _, server, found = observed
    with Client(server.url) as client:
        client.call("PUT", "/cart/mallory", {"items": [SKU]}, X_Request_ID="r1", Authorization="Bearer s3cret")
        client.call("PATCH", "/cart/mallory/items/nothing", {"quantity": 1}, X_Request_ID="r2")
        client.call("GET", "/no/where?mallory", X_Request_ID="r3", tracestate="mallory=1,(")
        client.call("BREW", "/cart/mallory", X_Request_ID="r4")
    cart, item = "/cart/{user_id}", "/cart/{user_id}/items/{item_id}"
    expected = {
        "r1": (f"PUT {cart}", {"http.request.method": "PUT", "http.route": cart, "status": 201}),
        "r2": (f"PATCH {item}", {"http.request.method": "PATCH", "http.route": item, "status": 404}),
        "r3": ("GET", {"http.request.method": "GET", "status": 404}),
        "r4": ("HTTP", {"http.request.method": "_OTHER", "status": 405}),
    }
    spans = found.requests(*expected)
    for known, (name, attributes) in expected.items():
        span = spans[known]
        attributes["http.response.status_code"] = attributes.pop("status")
        attributes |= {"url.scheme": "http", "http.response.header.x-request-id": [known]}
        assert (span.name, span.attributes, span.is_error, span.parent_id) == (name, attributes, False, "")
    everything = b"".join(found.bodies)
    assert [word for word in (b"mallory", b"s3cret", b"sku-1", b"nothing", b"BREW") if word in everything] == []
    assert "tracestate" not in server.log()
    assert {span.resource["service.name"] for span in found.spans()} == {"cartsvc"}


def test_the_log_names_the_trace(observed: tuple[Valkey, Server, Collector]) -> None:
    """That of the client, or a new one, as the collector has it; probes included."""
    _, server, found = observed
    with Client(server.url) as client:
        client.call("GET", "/cart/alice", X_Request_ID="known", traceparent=f"00-{'ab' * 16}-{CLIENT_SPAN}-01")
        client.call("GET", "/cart/alice", X_Request_ID="new")
    lines = [line for line in map(json.loads, server.log().splitlines()) if "http.route" in line]
    logged = {line["request_id"]: line["trace_id"] for line in lines}
    found.requests(*logged)
    assert logged == {request_id(span): span.trace_id for span in found.spans("server")}
    assert logged["known"] == "ab" * 16
    assert re.fullmatch("[0-9a-f]{32}", logged["new"])
    assert "/healthz" in {line["http.route"] for line in lines}


def test_a_store_that_is_away(observed: tuple[Valkey, Server, Collector]) -> None:
    """The spans of the request and of the call have the error; 4xx is none."""
    store, server, found = observed
    store.kill()
    with Client(server.url) as client:
        assert client.call("GET", "/cart/alice", X_Request_ID="away").status == 503
    request = found.requests("away")["away"]
    (call,) = (span for span in found.spans("client") if span.parent_id == request.span_id)
    assert (call.name, call.is_error, call.attributes["error.type"]) == ("get", True, "StoreError")
    assert (request.is_error, request.attributes["error.type"]) == (True, "store-unavailable")
    store.start()


def test_the_variables_of_the_sdk_take_effect() -> None:
    """Name and attributes of the service, headers for the collector, and the sampler, which follows the client."""
    variables = {
        "OTEL_SERVICE_NAME": "shop-carts",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=staging",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-api-key=k3y",
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
    }
    with collector() as found, traced(found, WEB_CONCURRENCY="1", **variables) as server:
        with Client(server.url) as client:
            client.call("GET", "/cart/alice")
            for flags in ("00", "01"):
                client.call("GET", "/cart/alice", traceparent=f"00-{'ab' * 15}{flags}-{CLIENT_SPAN}-{flags}")
        stop(server)
        assert Counter(span.trace_id for span in found.spans()) == {"ab" * 15 + "01": 2}
        (resource,) = [span.resource for span in found.spans("server")]
        assert resource["service.name"] == "shop-carts"
        assert resource["deployment.environment.name"] == "staging"
        assert {headers["x-api-key"] for headers in found.headers} == {"k3y"}


@contextmanager
def _refusing() -> Iterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


@contextmanager
def _silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts connections, and never responds
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("environment", "away"), [({}, _silent), ({"CARTSVC_THREADS": "8"}, _refusing)], ids=["gevent", "threads"]
)
def test_a_collector_that_is_away_fails_no_request(environment: dict[str, str], away: Callable[[], Any]) -> None:
    """None waits for it, and a stop waits only briefly. The log has each message of the SDK once a minute."""
    small = {"OTEL_BSP_MAX_QUEUE_SIZE": "20", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"}
    with (
        away() as url,
        traced(url, CARTSVC_LOG_FORMAT="json", CARTSVC_SLOW_REQUEST="5", **small, **environment) as server,
    ):
        for _ in range(2):
            shop(server)
        began = time.monotonic()
        stop(server)
        assert time.monotonic() - began < 10
        lines = [json.loads(line) for line in server.log().splitlines()]
        assert [line for line in lines if line["event"] == "http.server.request"] == []
        messages = [(line["worker_pid"], line["event"].split(":")[0]) for line in lines if "pan" in line["event"]]
        assert set(Counter(messages).values()) == {1}


# ---- on and off ----


def test_without_the_packages_a_start_is_refused(tmp_path: Path) -> None:
    """With one line, which has the command."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry'] = None\n")
    ended = run(PYTHONPATH=str(tmp_path), OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318")
    assert ended.returncode != 0
    (line,) = ended.output.splitlines()[1:]
    assert line.endswith("needs packages that are not installed: pip install -r requirements-otel.txt")


def test_without_the_setting_nothing_is_imported() -> None:
    """The application and gunicorn's configuration import no module of OpenTelemetry, with the default store."""
    code = "import runpy, sys, cartsvc; runpy.run_path('gunicorn.conf.py'); cartsvc.create_app(); print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "cartsvc.telemetry.requests" in imported
    assert [name for name in imported if name.startswith(("opentelemetry", "cartsvc.telemetry.tracing"))] == []
