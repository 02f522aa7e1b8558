"""Tests of the pages for people: Swagger UI, all of it served by ourselves, under a policy that holds."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import pytest

from tests.support.api_client import problem

if TYPE_CHECKING:
    from tests.support.api_client import Client

ORIGIN = "http://localhost"


class _Page(HTMLParser):
    """The files that a page loads, and its parts that a strict policy forbids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"src", "href"} and value is not None:
                self.loads.append(value)
            if name.startswith("on") or (value or "").startswith("javascript:"):
                self.inline.append(f"{tag} {name}")
        self._in_script = tag == "script"

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.inline.append(data)
        self._in_script = False


@pytest.fixture
def page(client: Client) -> _Page:
    """The page, read."""
    return _Page(client.get("/swagger-ui").text)


def test_the_root_leads_to_swagger_ui(client: Client) -> None:
    """Relative, so that it works behind any path prefix."""
    response = client.get("/")
    assert (response.status_code, response.headers["Location"]) == (302, "swagger-ui")
    assert client.get("/", follow_redirects=True).request.path == "/swagger-ui"


def test_the_page_has_no_inline_script(page: _Page) -> None:
    """Trap: the package's own template has one, which the policy forbids."""
    assert page.inline == []
    assert _Page("<script>x()</script><a href='javascript:x'></a><b onclick=x>").inline == [
        "x()",
        "a href",
        "b onclick",
    ]


def test_the_page_loads_what_is_here(client: Client, page: _Page) -> None:
    """Trap: no other host. Everything it names is served by this app, with its own media type."""
    kinds = {".js": "text/javascript", ".css": "text/css", ".png": "image/png", ".json": "application/json"}
    assert len(page.loads) == 5
    for each in page.loads:
        address = urljoin(f"{ORIGIN}/swagger-ui", each)
        assert address.startswith(f"{ORIGIN}/")
        response = client.get(address.removeprefix(ORIGIN))
        assert (response.status_code, response.mimetype) == (200, kinds[each[each.rindex(".") :]])
        assert response.data


def test_the_page_starts_on_our_document(client: Client) -> None:
    """The start script names /openapi.json, relative as well."""
    assert 'url: "openapi.json"' in client.get("/swagger-ui/start.js").text


def test_the_policy(client: Client) -> None:
    """Scripts and connections of this origin only; neither inline nor evaluated; in no frame."""
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in client.get("/swagger-ui").headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy["script-src"]
    assert "unsafe-eval" not in str(policy)
    assert [name for name, value in policy.items() if "http" in value or "*" in value] == []


@pytest.mark.parametrize(
    "path",
    [
        "nope.js",
        "",
        "..",
        "%2e%2e",
        "..%2f__init__.py",
        "%2e%2e%2fflask_swagger_ui.py",
        "%2fetc%2fpasswd",
        "%00",
        "%ff",
        "a" * 5000,
    ],
)
def test_no_other_file_is_served(client: Client, path: str) -> None:
    """404 as a problem for whatever is no file of Swagger UI."""
    assert problem(client.get(f"/swagger-ui/{path}")) == (404, "not-found")
