"""What comes in from others: every package is pinned, its bytes are known, and its licence lets anybody use it."""

from __future__ import annotations

import json
import re
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
from packaging.markers import Marker

import cartsvc
from cartsvc.version import __version__
from tests.support.parsers import C_PARSER
from tests.support.pins import Pin, needed, pins, project, unpinned

_ROOT = Path(__file__).parents[2]
_PROJECT = project(_ROOT)
_FILES = needed(_ROOT)

# Whoever runs cartsvc may use, change and pass on all of it: each of these asks for a notice at most.
_LICENCES = {
    "3-Clause BSD License",
    "Apache 2",  # as async-timeout states it, which redis-py needs before Python 3.11.3
    "Apache Software License",
    "Apache-2.0",
    "Apache-2.0 AND BSD-2-Clause",
    "Apache-2.0 OR BSD-2-Clause",
    "Apache-2.0 OR BSD-3-Clause",
    "BSD License",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "MIT",
    "MIT AND PSF-2.0",
    "MIT OR Apache-2.0",
    "MIT License",
    "MIT-0",
    "OLDAP-2.8",  # lmdb: LMDB's own, as permissive as BSD's
    "PSF-2.0",
    "ZPL-2.1",  # gevent's zope.event and zope.interface: as permissive as BSD's
}
# A weak copyleft: it holds for the package itself, which cartsvc uses unchanged, and which anybody can replace by
# another version. certifi (for tracing) is the list of Mozilla's certificates.
_LIBRARIES = {
    "certifi": {"MPL-2.0", "Mozilla Public License 2.0 (MPL 2.0)"},
    "psycopg": {"LGPL-3.0-only"},
    "psycopg-binary": {"LGPL-3.0-only"},
}


def _pins(file: str) -> list[Pin]:
    return pins(_ROOT / file)


@pytest.mark.parametrize("file", _FILES)
def test_every_line_is_an_exact_pin_with_hashes(file: str) -> None:
    """One version of each package for any machine, and pip refuses other bytes; no line names where from."""
    found = _pins(file)
    assert len(found) >= len(_FILES[file])
    assert {bool(pin.hashes) for pin in found} == {True}


@pytest.mark.parametrize("file", _FILES)
def test_the_pins_are_those_of_the_project(file: str) -> None:
    """What pyproject.toml asks for is pinned, at a version that it allows."""
    assert unpinned(_ROOT, file) == []


def test_the_files_agree() -> None:
    """What is tested is what is shipped, with tracing and without."""
    tested = {(pin.name, pin.version, pin.marker) for pin in _pins("requirements-dev.txt")}
    shipped = {(pin.name, pin.version) for pin in _pins("requirements.txt")}
    with_tracing = {(pin.name, pin.version) for pin in _pins("requirements-otel.txt")}
    assert shipped <= with_tracing <= {(name, at) for name, at, _ in tested}


@pytest.mark.parametrize("file", ["Makefile", "Dockerfile"])
def test_the_c_parser_is_compiled_by_what_is_pinned(file: str) -> None:
    """With build isolation, pip would download the newest setuptools, and run it without knowing its bytes."""
    commands = re.sub(r"^ *#.*\n", "", (_ROOT / file).read_text().replace("\\\n", " "), flags=re.MULTILINE)
    parts = [part for part in re.split(r"&&|\n|;", commands) if "-r " in part and "requirements-" in part]
    building, compiling = [part for part in parts if "requirements-dev" not in part]
    assert {"requirements-build.txt", "--only-binary"} <= set(re.findall(r"[\w.-]+", building))
    assert {"requirements-c-parser.txt", "--no-build-isolation"} <= set(re.findall(r"[\w.-]+", compiling))


def test_the_peers_of_the_benchmark_are_pinned_apart() -> None:
    """Exactly and with hashes, as all else; what they need is no dependency of the service, and names no registry."""
    peers = {pin.name: pin.hashes for pin in _pins("bench/peers/requirements.txt")}
    assert {"fastapi", "uvicorn"} <= {*peers}
    assert [name for name, hashes in peers.items() if not hashes] == []
    assert {"fastapi", "uvicorn"} & {pin.name for pin in _pins("requirements-dev.txt")} == set()


@pytest.mark.parametrize(
    ("folder", "some"),
    [("bench/peers/express", {"express", "redis"}), ("tests/clients", {"openapi-fetch", "@redocly/cli", "typescript"})],
)
def test_npm_packages_are_pinned(folder: str, some: set[str]) -> None:
    """Each has its hash, and none names a registry."""
    lock = json.loads((_ROOT / folder / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert {f"node_modules/{name}" for name in some} <= {*packages}
    assert [name for name, package in packages.items() if "integrity" not in package or "resolved" in package] == []
    assert (_ROOT / folder / ".npmrc").read_text() == "omit-lockfile-registry-resolved=true\n"


def _here() -> list[Pin]:
    """What is shipped to this machine with tracing: pins whose markers hold, and the C parser if it was compiled."""
    shipped = _pins("requirements-otel.txt") + (_pins("requirements-c-parser.txt") if C_PARSER else [])
    return [pin for pin in shipped if pin.marker is None or Marker(pin.marker).evaluate()]


@pytest.mark.parametrize("pin", _here(), ids=lambda pin: pin.name)
def test_the_licence_is_a_permissive_one(pin: Pin) -> None:
    """Each package that is shipped states a licence of the list; one that states none fails."""
    assert version(pin.name) == pin.version
    told = metadata(pin.name)
    classifiers = [
        each.rpartition(" :: ")[2] for each in told.get_all("Classifier") or [] if each.startswith("License")
    ]
    stated = {told.get("License-Expression"), told.get("License"), *classifiers} - {None, ""}
    allowed = _LIBRARIES.get(pin.name, _LICENCES)
    assert stated & allowed
    assert stated <= allowed | {"OSI Approved"}


def test_security_rules_are_on() -> None:
    """Ruff checks with all rules, its security rules among them; those few that are off are no such rules."""
    lint = _PROJECT["tool"]["ruff"]["lint"]
    assert lint["select"] == ["ALL"]
    assert [rule for rule in lint["ignore"] if rule.startswith("S")] == []
    assert [path for path, rules in lint["per-file-ignores"].items() if "S" in "".join(rules)] == ["tests/**"]


def test_the_version_and_the_description_are_stated_once() -> None:
    """pyproject.toml reads the version from the package; the image's labels and the package's docstring agree."""
    assert _PROJECT["project"]["dynamic"] == ["version"]
    assert _PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "cartsvc.version.__version__"}
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="(.*?)"', (_ROOT / "Dockerfile").read_text()))
    assert labels["version"] == __version__
    assert {labels["description"], f"{cartsvc.__doc__}".rstrip(".")} == {_PROJECT["project"]["description"]}
