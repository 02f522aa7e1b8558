"""A strict TypeScript program of every operation, with openapi-typescript and openapi-fetch, on a real server."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.documents import DOCUMENTS, WITH_AUTH, Document, code_of_page
from tests.support.npm import NODE_MODULES, run_node, run_package

if TYPE_CHECKING:
    from tests.support.shops import Shop

pytestmark = pytest.mark.server
_SOURCES = Path(__file__).with_name("typescript")
_MARK = re.compile(r" // (TS\d+)$")
_ERROR = re.compile(r"(?m)^([\w./-]+)\((\d+),\d+\): error (TS\d+): ")


def test_a_strict_program_uses_every_operation(tmp_path: Path, shops: dict[str, Shop]) -> None:
    """It compiles with the types of each document and runs, and the code of docs/clients.md compiles.

    Each mistake fails to compile: an unknown type of a problem, an unknown code of a fault.
    """
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    for document in DOCUMENTS:
        folder = tmp_path / document.path.stem
        shutil.copytree(_SOURCES, folder)
        shutil.copy(_SOURCES.with_name("package.json"), folder)
        (folder / "page.ts").write_text("declare const token: string;\n" + code_of_page("ts"))
        generated = run_package("openapi-typescript", document.path, "--output", "schema.d.ts", cwd=folder)
        assert generated.returncode == 0, generated.output
    # All in one run, because most of its time goes into the libraries.
    settings = {"extends": f"./{WITH_AUTH.path.stem}/tsconfig.json", "files": sorted(map(str, tmp_path.glob("*/*.ts")))}
    (tmp_path / "tsconfig.json").write_text(json.dumps(settings))
    compiled = run_package("tsc", "--project", ".", "--pretty", "false", cwd=tmp_path)
    found = {(place, int(line), code) for place, line, code in _ERROR.findall(compiled.output)}
    assert found == {
        (f"{document.path.stem}/{place}", *mistake) for document in DOCUMENTS for place, *mistake in _mistakes()
    }, compiled.output
    for document in DOCUMENTS:
        assert _used(tmp_path / document.path.stem, shops[document.file]) == _operations(document)


def _used(folder: Path, served: Shop) -> list[str]:
    """Run the compiled program, and return the operations that it has used, sorted."""
    ran = run_node(folder / "program.js", *filter(None, served), cwd=folder)
    assert ran.returncode == 0, ran.output
    return sorted(json.loads(ran.output))


def _operations(document: Document) -> list[str]:
    """Return the ids of the document's operations, sorted."""
    return sorted(
        operation["operationId"]
        for path in json.loads(document.path.read_bytes())["paths"].values()
        for operation in path.values()
        if "operationId" in operation
    )


def _mistakes() -> set[tuple[str, int, str]]:
    """Return the file, the line and the error of each marked line."""
    lines = (_SOURCES / "mistakes.ts").read_text(encoding="utf-8").splitlines()
    found = {("mistakes.ts", number, mark[1]) for number, line in enumerate(lines, 1) if (mark := _MARK.search(line))}
    assert len(found) > 5
    return found
