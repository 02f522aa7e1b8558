"""A strict TypeScript program of every operation, with openapi-typescript and openapi-fetch, on a real server."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.support.documents import DOCUMENTS, Document, code_of_page
from tests.support.npm import NODE_MODULES, run_node, run_package
from tests.support.shops import shop

pytestmark = pytest.mark.server
_SOURCES = Path(__file__).with_name("typescript")
_MARK = re.compile(r" // (TS\d+)$")
_ERROR = re.compile(r"(?m)^([\w.]+)\((\d+),\d+\): error (TS\d+): ")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.file)
def test_a_strict_program_uses_every_operation(document: Document, tmp_path: Path) -> None:
    """It compiles and runs, and the code of docs/clients.md compiles.

    Each mistake fails to compile: an unknown type of a problem, an unknown code of a fault.
    """
    for source in (*_SOURCES.iterdir(), _SOURCES.with_name("package.json")):
        shutil.copy(source, tmp_path)
    (tmp_path / "page.ts").write_text("declare const token: string;\n" + code_of_page("ts"))
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    generated = run_package("openapi-typescript", document.path, "--output", "schema.d.ts", cwd=tmp_path)
    assert generated.returncode == 0, generated.output
    compiled = run_package("tsc", "--project", ".", "--pretty", "false", cwd=tmp_path)
    found = {(file, int(line), code) for file, line, code in _ERROR.findall(compiled.output)}
    assert found == _mistakes(), compiled.output

    with shop(document) as (url, token):
        ran = run_node(tmp_path / "program.js", url, *([token] if token else []), cwd=tmp_path)
    assert ran.returncode == 0, ran.output
    operations = [
        operation["operationId"]
        for path in json.loads(document.path.read_bytes())["paths"].values()
        for operation in path.values()
        if "operationId" in operation
    ]
    assert sorted(json.loads(ran.output)) == sorted(operations)


def _mistakes() -> set[tuple[str, int, str]]:
    """Return the file, the line and the error of each marked line."""
    lines = (_SOURCES / "mistakes.ts").read_text(encoding="utf-8").splitlines()
    found = {("mistakes.ts", number, mark[1]) for number, line in enumerate(lines, 1) if (mark := _MARK.search(line))}
    assert len(found) > 5
    return found
