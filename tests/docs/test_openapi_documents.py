"""Hold the documents in docs/openapi to the code, because people generate clients from them."""

from __future__ import annotations

import pytest

from tests.support.api_client import make_client
from tests.support.documents import DOCUMENTS, FOLDER, Document


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.file)
def test_a_committed_document_is_the_one_of_the_code(document: Document) -> None:
    """Byte for byte what `flask openapi` prints with these settings."""
    printed = make_client(environ=document.environ).application.test_cli_runner().invoke(args=["openapi"])
    assert printed.exit_code == 0
    is_current = document.path.exists() and document.path.read_text(encoding="utf-8") == printed.stdout
    assert is_current, f"{document.file} is out of date. Renew it with:\n{document.command}"


def test_no_other_document_is_committed() -> None:
    """Every file of the folder is checked."""
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(document.file for document in DOCUMENTS)
