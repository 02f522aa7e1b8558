"""openapi-generator's clients for Go and Java: they compile, and work on a running service.

The module is collected only where the compilers are installed.
"""

from __future__ import annotations

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from tests.support.documents import WITH_AUTH
from tests.support.programs import output_of
from tests.support.shops import shop

_PROGRAMS = Path(__file__).with_name("generated")
# The first two are those of docs/clients.md.
_OPTIONS = "disallowAdditionalPropertiesIfNotPresent=false,useOneOfDiscriminatorLookup=true,openApiNullable=false"
_SECONDS = 240  # the first build compiles Go's own library


def test_go(tmp_path: Path) -> None:
    """Prices are 64 bits wide, and a 409 has the type of its problem."""
    _generate("go", tmp_path, "--git-host=cartsvc.example", "--git-user-id=shop", "--git-repo-id=carts")
    (tmp_path / "cmd").mkdir()
    shutil.copy(_PROGRAMS / "main.go", tmp_path / "cmd")
    offline = {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    _run(["go", "mod", "edit", "-go=1.18"], tmp_path, **offline)  # the code needs no newer Go
    _run(["go", "vet", ".", "./cmd"], tmp_path, **offline)
    _run(["go", "build", "-o", "program", "./cmd"], tmp_path, **offline)
    with shop(WITH_AUTH) as (url, token):
        assert _run([tmp_path / "program", url, str(token)], tmp_path) == "max_quantity 999\n"


def test_java(tmp_path: Path) -> None:
    """The same; the libraries are those that the generator itself contains."""
    _generate("java", tmp_path, "--library=native")
    sources = [*tmp_path.glob("src/main/**/*.java"), *_PROGRAMS.glob("*.java")]
    _run(["javac", "-nowarn", "-d", "classes", "-cp", _jar(), *sources], tmp_path)
    with shop(WITH_AUTH) as (url, token):
        command: list[str | Path] = ["java", "-cp", f"{tmp_path / 'classes'}:{_jar()}", "Main", url, str(token)]
        assert _run(command, tmp_path) == "max_quantity 999\n"


def _generate(language: str, folder: Path, *arguments: str) -> None:
    command = ["java", "-jar", _jar(), "generate", "--input-spec", WITH_AUTH.path, "--generator-name", language]
    _run([*command, "--output", folder, f"--additional-properties={_OPTIONS}", *arguments], folder)


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
