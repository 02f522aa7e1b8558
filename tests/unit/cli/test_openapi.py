"""Test ``flask openapi``, which prints the document for generators of clients."""

from __future__ import annotations

import json

import pytest

from tests.support.api_client import make_client


@pytest.mark.parametrize("environ", [{}, {"CARTSVC_MAX_QUANTITY": "7", "CARTSVC_RATE_LIMIT": "9/minute"}])
def test_it_prints_the_document(environ: dict[str, str]) -> None:
    """The one that /openapi.json serves with these settings, one member a line, and nothing else."""
    client = make_client(environ=environ)
    printed = client.application.test_cli_runner().invoke(args=["openapi"])
    assert (printed.exit_code, printed.stderr) == (0, "")
    assert json.loads(printed.stdout) == client.get("/openapi.json").json
    assert len(printed.stdout.splitlines()) > 1000
