"""Shared by all tests: how long hypothesis searches (--hypothesis-profile=ci or soak for longer)."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from cartsvc.settings import EnvReader, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgresqls import Postgresql

# No deadlines, because they would fail on a busy machine.
settings.register_profile("fast", max_examples=20, stateful_step_count=25, deadline=None)
settings.register_profile("ci", max_examples=200, stateful_step_count=50, deadline=None)
settings.register_profile("soak", max_examples=1500, stateful_step_count=50, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

# A failed assert in the helpers shows its values, as in a test file. The modules below the package are included.
pytest.register_assert_rewrite("tests.support")

from tests.support.manifests import KUBECTL  # noqa: E402 - as below
from tests.support.parsers import C_PARSER  # noqa: E402 - as below
from tests.support.toolchains import HAS_COMPILERS  # noqa: E402 - the line above precedes every import from there


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the two longest tests, because a process that gets one of them last works alone at the end."""
    items.sort(key=lambda item: not item.path.name.startswith("test_schemathesis"))


def pytest_collection_finish() -> None:
    """Keep the garbage collector off the tests, which live to the end: it would take a twentieth of the CPU time."""
    gc.collect()
    gc.freeze()


# Without the C parser there is nothing to compare; the summary contains that.
collect_ignore = [] if C_PARSER else ["unit/server/test_parsers.py"]
if not HAS_COMPILERS:
    collect_ignore.append("clients/test_openapi_generator.py")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report what a missing tool has left untested."""
    if not C_PARSER:
        terminalreporter.write_line("gunicorn's C parser is not installed: only its Python parser was tested")
    if not HAS_COMPILERS:
        terminalreporter.write_line("Java and Go are not installed: the clients of openapi-generator were not compiled")
    if not KUBECTL:
        terminalreporter.write_line(
            "kubectl is not installed: of deploy/kubernetes, only the base was tested as a whole"
        )
    if not shutil.which("promtool"):
        terminalreporter.write_line("promtool is not installed: expressions in deploy were not parsed")


def pytest_sessionfinish() -> None:
    """Remove what the PostgreSQL servers of this process were made from."""
    postgresqls = sys.modules.get("tests.support.postgresqls")
    if postgresqls is not None:
        postgresqls.remove_temporaries()


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove every setting of the shell that runs the tests."""
    for name in [
        name
        for name in os.environ
        if name.startswith(("CARTSVC_", "OTEL_")) or name in {"HOST", "PORT", "WEB_CONCURRENCY"}
    ]:
        monkeypatch.delenv(name)


@pytest.fixture
def known_settings() -> list[str]:
    """The names of all settings, sorted."""
    reader = EnvReader({})
    Settings.read(reader)
    return sorted(reader.names)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Postgresql]:
    """Return a PostgreSQL server that every test of this process leaves usable; each takes a database of its own."""
    from tests.support.postgresqls import postgresql  # noqa: PLC0415 - after its asserts were registered above

    with postgresql() as running:
        yield running
