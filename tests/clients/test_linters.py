"""Linters of OpenAPI report nothing on the committed documents, except what is listed here with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.support.documents import DOCUMENTS, FOLDER, WITHOUT_AUTH, Document
from tests.support.npm import run_package

pytestmark = pytest.mark.server
_HERE = Path(__file__).parent
# Redocly wants a 4xx of every operation. The health checks have no input, so they have none. Neither has POST /cart
# without tokens and a rate limit: it reads no body and no header.
_WITHOUT_4XX = {"/paths/~1healthz/get/responses", "/paths/~1readyz/get/responses"}
_GUEST = "/paths/~1cart/post/responses"

_each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.file)


@_each_document
def test_openapi_spec_validator(document: Document) -> None:
    """The documents are OpenAPI 3.1."""
    assert list(OpenAPIV31SpecValidator(_read(document)).iter_errors()) == []


@_each_document
def test_redocly(document: Document) -> None:
    """Its ruleset recommended-strict finds exactly the operations without a 4xx that cannot have one."""
    arguments = ["--extends=recommended-strict", "--format=json", f"--max-problems={10**6}", document.path]
    output = run_package("redocly", "lint", *arguments, cwd=_HERE).output
    found = json.JSONDecoder().raw_decode(output[output.index('{\n  "totals"') :])[0]["problems"]
    expected = _WITHOUT_4XX | ({_GUEST} if document is WITHOUT_AUTH else set())
    assert sorted((each["ruleId"], each["location"][0]["pointer"]) for each in found) == sorted(
        ("operation-4xx-response", f"#{pointer}") for pointer in expected
    )


def test_spectral() -> None:
    """Its ruleset spectral:oas finds nothing, not even a hint."""
    arguments = ["--ruleset", _HERE / "spectral.yaml", "--fail-severity=hint", "--display-only-failures"]
    ended = run_package("spectral", "lint", *arguments, *(document.path for document in DOCUMENTS), cwd=_HERE)
    assert ended.returncode == 0, ended.output


def test_the_linters_find_what_is_wrong(tmp_path: Path) -> None:
    """An operation without its id and its descriptions, and a component that nothing refers to, are reported."""
    document = _read(WITHOUT_AUTH)
    operation = document["paths"]["/cart/{user_id}"]["get"]
    del operation["operationId"], operation["responses"]["200"]["description"]
    document["components"]["schemas"]["Unused"] = {"type": "object"}
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(document))
    assert list(OpenAPIV31SpecValidator(document).iter_errors())
    redocly = run_package("redocly", "lint", "--extends=recommended-strict", wrong, cwd=tmp_path)
    assert redocly.returncode == 1
    assert "operation-operationId" in redocly.output
    spectral = run_package("spectral", "lint", "--ruleset", _HERE / "spectral.yaml", "-F", "hint", wrong, cwd=_HERE)
    assert spectral.returncode == 1
    assert "oas3-unused-component" in spectral.output


def _read(document: Document) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / document.file).read_bytes())
    return found
