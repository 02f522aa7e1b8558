"""The page of docs/storefront.md, "Your own page": compiled by tsc, and opened in Chromium."""

from __future__ import annotations

import re
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.support.http_server import Quiet, serving
from tests.support.npm import run_package
from tests.support.servers import serve

if TYPE_CHECKING:
    from conftest import Watched

pytestmark = pytest.mark.browser

_ROOT = Path(__file__).parents[2]
_FILES = {"html": "index.html", "json": "tsconfig.json", "ts": "page.ts"}


class _Files(Quiet, SimpleHTTPRequestHandler):
    """Serves the files of a directory."""


def test_the_page_works_as_it_is(watched: Watched, tmp_path: Path) -> None:
    """Three files and cart.js make a page that adds, shows the cart and shows it again when it is opened again."""
    text = (_ROOT / "docs" / "storefront.md").read_text(encoding="utf-8")
    shutil.copy(_ROOT / "examples" / "storefront" / "cart.js", tmp_path)
    files = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(tmp_path)))
    with serving(files):
        origin = f"http://127.0.0.1:{files.server_port}"
        with serve(CARTSVC_CORS_ORIGINS=origin) as service:
            for language, name in _FILES.items():
                (block,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
                (tmp_path / name).write_text(block.replace("http://localhost:8080", service.url))
            compiled = run_package("tsc", cwd=tmp_path)
            assert (compiled.returncode, compiled.output) == (0, "")
            watched.page.goto(origin)
            for quantity in (1, 2):
                watched.page.get_by_role("button", name="Add a mug").click()
                expect(watched.page.get_by_role("listitem")).to_have_text(f"{quantity} × Mug: €{quantity * 18}.00")  # noqa: RUF001 - as on the page
            watched.page.reload()
            expect(watched.page.get_by_role("listitem")).to_have_text("2 × Mug: €36.00")  # noqa: RUF001 - as on the page
