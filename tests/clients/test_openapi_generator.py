"""openapi-generator's clients for Go and Java: they compile, and work on a running service.

The module is collected only where the compilers are installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.documents import WITH_AUTH
from tests.support.programs import output_of

if TYPE_CHECKING:
    from tests.support.shops import Shop

_PROGRAMS = Path(__file__).with_name("generated")
_OPTIONS = {
    "disallowAdditionalPropertiesIfNotPresent": False,  # as in docs/clients.md
    "useOneOfDiscriminatorLookup": True,  # as in docs/clients.md
    "openApiNullable": False,
}
# The libraries for Java are those that the generator itself contains.
_CLIENTS = {
    "go": {"gitHost": "cartsvc.example", "gitUserId": "shop", "gitRepoId": "carts"},
    "java": {"library": "native"},
}
# Of a program that runs for seconds: optimising its code takes longer than it saves.
_SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
_SECONDS = 240  # the first build compiles Go's own library


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate the clients in one run, because most of a run's time is its start; return their folder."""
    folder = tmp_path_factory.mktemp("clients")
    for name, options in _CLIENTS.items():
        config = {"inputSpec": str(WITH_AUTH.path), "generatorName": name, "outputDir": str(folder / name)}
        (folder / f"{name}.json").write_text(json.dumps({**config, **options, "additionalProperties": _OPTIONS}))
    _run(["java", *_SHORT_LIVED, "-jar", _jar(), "batch", *(f"{name}.json" for name in _CLIENTS)], folder)
    return folder


def test_go(clients: Path, shops: dict[str, Shop]) -> None:
    """Prices are 64 bits wide, and a 409 has the type of its problem."""
    folder = clients / "go"
    (folder / "cmd").mkdir()
    shutil.copy(_PROGRAMS / "main.go", folder / "cmd")
    offline = {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    _run(["go", "mod", "edit", "-go=1.18"], folder, **offline)  # the code needs no newer Go
    _run(["go", "vet", ".", "./cmd"], folder, **offline)
    _run(["go", "build", "-o", "program", "./cmd"], folder, **offline)
    assert _run([folder / "program", *shops[WITH_AUTH.file]], folder) == "max_quantity 999\n"


def test_java(clients: Path, shops: dict[str, Shop]) -> None:
    """The same."""
    folder = clients / "java"
    sources = [*folder.glob("src/main/**/*.java"), *_PROGRAMS.glob("*.java")]
    # The generator contains processors of annotations, and the client has no annotations for them.
    options = [*(f"-J{option}" for option in _SHORT_LIVED), "-proc:none", "-nowarn"]
    _run(["javac", *options, "-d", "classes", "-cp", _jar(), *sources], folder)
    program = ["java", *_SHORT_LIVED, "-cp", f"classes:{_jar()}", "Main"]
    assert _run([*program, *shops[WITH_AUTH.file]], folder) == "max_quantity 999\n"


def _jar() -> Path:
    found = find_spec("openapi_generator_cli")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).with_name("openapi-generator.jar")


def _run(command: list[str | Path], folder: Path, **environ: str) -> str:
    """Run a command in a folder; return what it prints."""
    # Java prints the options that it finds in the environment.
    kept = {name: value for name, value in os.environ.items() if not re.fullmatch("_?J.*_OPTIONS", name)}
    return output_of(command, cwd=folder, env=kept | environ, timeout=_SECONDS)
