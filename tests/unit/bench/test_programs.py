"""What is run: loads, rounds in turns, servers, installing the peers, memory stores of several sizes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from bench import __main__ as program
from bench import bare_app, install, loads, measure, proc, sizes, telemetry, wrk
from bench.processes import ROOT, Broken, Server, free_port, serving
from cartsvc import create_app
from tests.unit.bench.conftest import a_run

if TYPE_CHECKING:
    from pathlib import Path

    from bench.results import Run

_SERVER = Server(port=1, pid=2)


# ---- loads ----


def _storefront() -> list[loads.Request]:
    return list(loads.STOREFRONT.requests("item-1"))


@pytest.mark.parametrize("load", loads.LOADS, ids=lambda load: load.name)
def test_a_request_is_one_line(load: loads.Load) -> None:
    """load.lua splits lines at tabs; a body is JSON."""
    for request in load.requests("item-1"):
        assert re.search(r"[\t\n]", "".join(request)) is None
        assert request.body == "" or json.loads(request.body)


def test_the_storefront_has_its_proportions() -> None:
    """8 views, 3 adds and 1 new quantity; then few deletes, each with the add that creates the cart again."""
    methods = [request.method for request in _storefront()]
    counts = {method: methods.count(method) // loads.CARTS for method in ("GET", "POST", "PATCH", "DELETE")}
    assert counts == {"GET": 64, "POST": 25, "PATCH": 8, "DELETE": 1}


def test_the_storefront_reaches_every_cart_in_every_way() -> None:
    """With the id of the item in the cart, where a request has one."""
    paths = {method: {each.path for each in _storefront() if each.method == method} for method in ("GET", "PATCH")}
    assert paths["GET"] == {f"/cart/user-{n}" for n in range(loads.CARTS)}
    assert paths["PATCH"] == {f"/cart/user-{n}/items/item-1" for n in range(loads.CARTS)}


def test_no_request_of_the_storefront_meets_a_deleted_cart() -> None:
    """Far more requests are between a delete and the add that creates the cart again than can be in flight."""
    requests = _storefront() * 2
    deleted = {each.path for each in requests if each.method == "DELETE"}
    assert {each.path for each in requests if each.method in {"GET", "PATCH"}} & deleted == set()
    for path in deleted:
        touched = [(n, each.method) for n, each in enumerate(requests) if each.path == path]
        kinds = [method for _, method in touched]
        assert {"".join(pair) for pair in pairwise(kinds)} == {"POSTDELETE", "DELETEPOST"}
        assert min(after - before for (before, _), (after, _) in pairwise(touched)) > 4_000


# ---- rounds ----


def _cases(*subjects: str, load: loads.Load = loads.GET) -> list[measure.Case]:
    return [measure.Case(load, measure.Target(subject, _SERVER, "")) for subject in subjects]


def test_servers_are_measured_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A B A B; the first turn warms up for a second and is not counted."""
    order: list[tuple[str, int]] = []

    def run(case: measure.Case, seconds: int) -> Run:
        order.append((case.target.subject, seconds))
        return a_run(rate=len(order))

    monkeypatch.setattr(measure, "_run", run)
    found = measure.measure(_cases("a", "b"), rounds=2, seconds=3, progress=lambda _: None)
    assert order == [("a", 1), ("b", 1), ("a", 3), ("b", 3), ("a", 3), ("b", 3)]
    assert [(each.subject, [run.rate for run in each.runs]) for each in found] == [("a", [3, 5]), ("b", [4, 6])]


def test_a_failure_names_its_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was measured."""

    def run(_: measure.Case, __: int) -> Run:
        raise Broken("5 rejected")

    monkeypatch.setattr(measure, "_run", run)
    with pytest.raises(Broken, match="GET, 16 connections, a: 5 rejected"):
        measure.measure(_cases("a"), rounds=1, seconds=1, progress=lambda _: None)


def _hot_round(monkeypatch: pytest.MonkeyPatch, subject: str, items: tuple[int, int]) -> Run:
    """Measure 1,000 acknowledged adds, where the cart has so many items before and after; 0.5 s of CPU time."""
    counts, cpu = iter(items), iter((1.0, 1.5))
    monkeypatch.setattr(loads, "count_hot", lambda _: next(counts))
    monkeypatch.setattr(proc, "cpu_seconds", lambda _: next(cpu))
    monkeypatch.setattr(wrk, "run", lambda *_: wrk.Figures(1_000, 2.0, 1, 2, 3))
    (case,) = _cases(subject, load=loads.HOT)
    (series,) = [measure._run(case, 1)]  # noqa: SLF001 - one round
    return series


def test_a_round_has_rates_and_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Per second and per response; adds in flight at the end are no lost ones."""
    run = _hot_round(monkeypatch, "memory", (10, 1_020))
    assert run == a_run(rate=500, p50_ms=1, p99_ms=2, p999_ms=3, cpu_us=500)


def test_lost_adds_of_a_peer_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 are acknowledged, and 100 are there."""
    assert _hot_round(monkeypatch, "express", (10, 110)).lost == 900


def test_a_lost_add_of_cartsvc_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast store that loses writes is broken."""
    with pytest.raises(Broken, match="1 of 1000 acknowledged adds are lost"):
        _hot_round(monkeypatch, "lmdb", (10, 1_009))


# ---- servers ----


def test_a_server_that_stops_is_reported() -> None:
    """With its exit code, and at once."""
    with (
        pytest.raises(Broken, match="exit code 3"),
        serving([sys.executable, "-c", "raise SystemExit(3)"], free_port(), env={}),
    ):
        pass


@pytest.mark.usefixtures("nothing_set")
def test_the_bare_app_sends_as_much_as_a_cart() -> None:
    """Within a fifth, so that both apps are compared with the same number of bytes."""
    client = create_app().test_client()
    for n in range(loads.ITEMS):
        item = {"product_id": f"sku-{n}", "quantity": 2, "unit_price": 1999, "currency": "EUR"}
        assert client.post("/cart/user-0", json=item).status_code == 200
    assert len(client.get("/cart/user-0").data) == pytest.approx(bare_app.CART_BYTES, rel=0.2)
    assert len(bare_app._RESPONSE) == bare_app.CART_BYTES  # noqa: SLF001 - what it sends


# ---- installing ----


def test_pins_are_installed_once(tmp_path: Path) -> None:
    """And again when they have changed."""
    stamp, pins, calls = tmp_path / "stamp", tmp_path / "pins", []
    for text in ("a==1", "a==1", "a==2"):
        pins.write_text(text)
        install._once(stamp, pins, lambda: calls.append(pins.read_text()))  # noqa: SLF001 - what both peers use
    assert calls == ["a==1", "a==2"]


def test_the_versions_of_the_peers_are_known() -> None:
    """The pinned ones, for the report."""
    versions = install.peer_versions()
    assert list(versions) == ["fastapi", "uvicorn", "express", "node-redis"]
    assert [version for version in versions.values() if not re.fullmatch(r"\d+\.\d+\.\d+", version)] == []


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("trying\nno network", "no network"),
        ("npm warn old\nnpm error no network\nnpm error see the log", "npm error no network"),
        ("WARNING: NewConnectionError\nERROR: no network\nERROR: no such version", "ERROR: no network"),
        ("", "no reason given"),
    ],
)
def test_a_failed_installation_is_one_line(output: str, reason: str, tmp_path: Path) -> None:
    """The line of the installer's output that has the reason."""
    failing = [sys.executable, "-c", f"import sys; print({output!r}, file=sys.stderr, end=''); sys.exit(1)"]
    with pytest.raises(install.Unavailable) as failed:
        install._run("Express", failing, cwd=tmp_path)  # noqa: SLF001 - what both peers use
    assert str(failed.value) == f"Express cannot be installed: {reason}"


def test_a_missing_installer_is_one_line(tmp_path: Path) -> None:
    """As a failed one."""
    with pytest.raises(install.Unavailable, match="No such file"):
        install._run("Express", ["no-such-program"], cwd=tmp_path)  # noqa: SLF001 - as above


def test_a_missing_wrk_names_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it can be installed here."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(install.Unavailable, match="apt-get install wrk"):
        install.install_wrk()


def test_a_peer_that_cannot_be_installed_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names it, and the result has the reason."""

    def unavailable() -> str:
        raise install.Unavailable("Express cannot be installed: no network")

    monkeypatch.setattr(install, "express_node", unavailable)
    missing: dict[str, str] = {}
    subjects = [subject for subject in program.SUBJECTS if subject.name == "express"]
    with program.ExitStack() as stack:
        assert program._start(subjects, stack, missing) == []  # noqa: SLF001 - one step of the program
    assert missing == {"express": "Express cannot be installed: no network"}
    assert capsys.readouterr().out == "bench goes on without Express, Valkey: Express cannot be installed: no network\n"


# ---- the command line ----


@pytest.mark.parametrize(
    ("arguments", "mode", "seconds"),
    [
        ([], "full", 3),
        (["--quick"], "quick", 1),
        (["--loads", "GET"], "partial", 3),
        (["--quick", "--sizes"], "partial", 1),
    ],
)
def test_a_run_of_a_part_is_none_to_publish(
    arguments: list[str], mode: str, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mode names the file of the result; only full.json is published."""
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    options = program._options()  # noqa: SLF001 - one step of the program
    assert (options.mode, options.seconds, options.rounds) == (mode, seconds, 5)
    assert options.telemetry == (mode != "partial")


# ---- sizes ----


@pytest.mark.usefixtures("nothing_set")
def test_a_memory_store_is_filled_and_measured() -> None:
    """Its calls take time, and no request is rejected."""
    calls = sizes.Filled(50).measure(20)
    assert min(calls.store_get, calls.store_update, calls.app_get, calls.app_post) > 0
    assert calls.app_post > calls.store_update


def test_memory_in_files_is_counted(tmp_path: Path) -> None:
    """An open file counts with its blocks, once, and not when it is closed."""
    before = sizes.used_bytes()
    with (tmp_path / "file").open("wb") as file, (tmp_path / "file").open("rb"):
        file.write(bytes(64 * 2**20))
        file.flush()
        subprocess.run(["sync", "-d", str(tmp_path / "file")], check=True)
        grown = sizes.used_bytes() - before
    assert 60 * 2**20 < grown < 100 * 2**20
    assert sizes.used_bytes() - before < 32 * 2**20


@pytest.mark.server
def test_sizes_are_measured_in_processes_of_their_own() -> None:
    """Bytes per cart for each, and the calls of each round."""
    found = sizes.measure([20, 200], rounds=1, progress=lambda _: None, calls=20)
    assert [(size.carts, len(size.rounds), size.bytes_per_cart > 0) for size in found] == [
        (20, 1, True),
        (200, 1, True),
    ]


# ---- telemetry ----

# What the process of the bench does, with one request to each application instead of many.
_ONE_OF_EACH = """
import json, logging
from contextlib import ExitStack
from pathlib import Path
from bench import telemetry

with ExitStack() as stack:
    apps, counted = telemetry._applications(stack), {}
    lines, logging.getLogger("cartsvc").handlers[0].emit = [], lambda record: lines.append(record.name)
    for name, app in apps.items():
        names, before = [], len(lines)
        list(app(telemetry._environ("GET"), lambda _, headers, *more: names.extend(dict(headers))))
        counted[name] = ["X-Request-ID" in names, len(lines) - before]
    (file,) = Path(telemetry.os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("histogram_*.db")
    counted["samples"] = file.read_bytes().count(b"/cart/{user_id}") > 0
print(json.dumps(counted))
"""


@pytest.mark.server
def test_each_application_has_its_part_of_telemetry() -> None:
    """Ids in all but one, a line in one, and metrics."""
    ended = subprocess.run([sys.executable, "-c", _ONE_OF_EACH], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == {
        "none": [False, 0],
        "ids": [True, 0],
        "line": [True, 1],
        "metrics": [True, 0],
        "samples": True,
    }


@pytest.mark.server
def test_telemetry_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round has a figure of each application; a process that fails is an error."""
    (found,) = telemetry.measure(1)
    assert min(found.none, found.ids, found.metrics, found.line) > 0
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(Broken, match="telemetry was not measured"):
        telemetry.measure(1)
