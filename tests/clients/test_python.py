"""The client that openapi-python-client generates, at work on a real server."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.documents import DOCUMENTS, Document, code_of_page
from tests.support.programs import output_of

if TYPE_CHECKING:
    from tests.support.shops import Shop

pytestmark = pytest.mark.server
_PROGRAM = Path(__file__).with_name("python_program.py")
_BIN = Path(sys.executable).parent


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.file)
def test_a_generated_client_adds_gets_merges_and_deletes(
    document: Document, tmp_path: Path, shops: dict[str, Shop]
) -> None:
    """It is generated without a warning, and each result has its type; the code of docs/clients.md runs too."""
    generate = [_BIN / "openapi-python-client", "generate", "--meta=none", "--fail-on-warning"]
    _run([*generate, f"--path={document.path}", f"--output-path={tmp_path / 'cartsvc_client'}"], tmp_path)
    url, token = shops[document.file]
    page = f"token = {token or 'none'!r}\n{code_of_page('python').replace('https://carts.example', url)}"
    program = tmp_path / "program.py"
    program.write_text(f"{_PROGRAM.read_text()}\n{page}")
    output = _run([sys.executable, program, url, *([token] if token else [])], tmp_path)
    assert output == "204\n1\n"  # the program has deleted the cart, and the page adds one item


def _run(command: list[str | Path], folder: Path) -> str:
    """Run a command that finds the packages of this folder, and the ruff that formats generated code."""
    environ = os.environ | {"PATH": f"{_BIN}:{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    return output_of(command, cwd=folder, env=environ, timeout=60)
