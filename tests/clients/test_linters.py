"""Linters of OpenAPI report nothing on the committed documents, except what is listed here with its reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.support.documents import DOCUMENTS, WITHOUT_AUTH
from tests.support.npm import run_package

pytestmark = pytest.mark.server
_HERE = Path(__file__).parent
# Redocly wants a 4xx of every operation. The health checks have no input, so they have none. Neither has POST /cart
# without tokens and a rate limit: it reads no body and no header.
_WITHOUT_4XX = {"/paths/~1healthz/get/responses", "/paths/~1readyz/get/responses"}
_GUEST = "/paths/~1cart/post/responses"
_REPORT = re.compile(r"(?m)^\{$")  # its first line, of each document

_PATHS = [document.path for document in DOCUMENTS]


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """Write a document in which an operation lacks its id and a description, and a component is not referred to.

    Each linter gets it in the same run as the others, because its start takes longer than its work.
    """
    document = _read(WITHOUT_AUTH.path)
    operation = document["paths"]["/cart/{user_id}"]["get"]
    del operation["operationId"], operation["responses"]["200"]["description"]
    document["components"]["schemas"]["Unused"] = {"type": "object"}
    written = tmp_path / "wrong.json"
    written.write_text(json.dumps(document))
    return written


def test_openapi_spec_validator(wrong: Path) -> None:
    """The documents are OpenAPI 3.1, and the wrong one is not."""
    faulty = [path for path in [*_PATHS, wrong] if list(OpenAPIV31SpecValidator(_read(path)).iter_errors())]
    assert faulty == [wrong]


def test_redocly(wrong: Path) -> None:
    """Its ruleset recommended-strict finds exactly the operations without a 4xx that cannot have one.

    In the wrong document it finds more.
    """
    arguments = ["--extends=recommended-strict", "--format=json", f"--max-problems={10**6}"]
    output = run_package("redocly", "lint", *arguments, *_PATHS, wrong, cwd=_HERE).output
    reports = [json.JSONDecoder().raw_decode(output, start.start())[0] for start in _REPORT.finditer(output)]
    *found, of_wrong = [[(each["ruleId"], each["location"][0]["pointer"]) for each in it["problems"]] for it in reports]
    for document, of_document in zip(DOCUMENTS, found, strict=True):
        expected = _WITHOUT_4XX | ({_GUEST} if document is WITHOUT_AUTH else set())
        assert sorted(of_document) == sorted(("operation-4xx-response", f"#{pointer}") for pointer in expected)
    assert "operation-operationId" in dict(of_wrong)


def test_spectral(wrong: Path) -> None:
    """Its ruleset spectral:oas finds nothing, not even a hint, except in the wrong document."""
    arguments = ["--ruleset", _HERE / "spectral.yaml", "--format=json"]
    output = run_package("spectral", "lint", *arguments, *_PATHS, wrong, cwd=_HERE).output
    found = [(Path(each["source"]), each["code"]) for each in json.loads(output[output.index("[") :])]
    assert {path for path, _ in found} == {wrong}
    assert (wrong, "oas3-unused-component") in found


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found
