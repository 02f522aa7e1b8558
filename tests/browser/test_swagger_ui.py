"""Swagger UI as a person meets it: it shows the calls and makes them, under a strict policy, from one host."""

from __future__ import annotations

import http.client
import json
import re
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import jwt
import pytest
from playwright.sync_api import expect

from tests.support.http_server import Quiet, serving
from tests.support.servers import serve
from tests.support.tokens import GUEST_SECRET, SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Watched
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser
PREFIX = "/shopcart"
SECONDS = 20
_STATUS = ".live-responses-table .response .response-col_status"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server under a name that is no loopback address: Swagger UI spares localhost the requests to other hosts."""
    with serve() as server:
        yield f"http://cartsvc.test:{server.port}"


def test_an_item_is_added_by_hand(watched: Watched, url: str) -> None:
    """Open, "Add an item", "Try it out", "Execute": there is the cart. Nothing complains, no other host is asked."""
    page = watched.page
    page.goto(f"{url}/swagger-ui")
    expect(page).to_have_title("cartsvc: Swagger UI")
    operation = _expand(page, "Add an item")
    expect(operation.locator(".opblock-summary-path")).to_have_text("/cart/{user_id}")

    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_placeholder("user_id").fill("bob")
    operation.get_by_role("textbox").last.fill('{"product_id": "tea", "quantity": 3, "options": {"size": "L"}}')
    operation.get_by_role("button", name="Execute").click()

    response = operation.locator(".live-responses-table")
    expect(response.locator(".response .response-col_status")).to_have_text("200")
    shown = json.loads(response.locator(".response-col_description .highlight-code code").first.inner_text())
    assert shown["user_id"] == "bob"
    assert [(item["product_id"], item["options"], item["quantity"]) for item in shown["items"]] == [
        ("tea", {"size": "L"}, 3)
    ]
    assert f"{url}/cart/bob" in watched.requested
    _assert_clean(watched, url)


def test_the_example_can_be_executed_as_it_stands(watched: Watched, url: str) -> None:
    """A person who fills in nothing gets alice's cart."""
    watched.page.goto(f"{url}/swagger-ui")
    operation = _expand(watched.page, "Add an item")
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()

    response = operation.locator(".live-responses-table")
    expect(response.locator(".response .response-col_status")).to_have_text("200")
    expect(response).to_contain_text('"user_id": "alice"')
    _assert_clean(watched, url)


def test_calls_are_made_behind_a_path_prefix(watched: Watched) -> None:
    """A proxy strips a prefix: the page, its document and the calls that it makes all have it."""
    with serve() as server, _stripping(server.port) as port:
        url = f"http://cartsvc.test:{port}"
        watched.page.goto(f"{url}{PREFIX}/")
        assert watched.page.url == f"{url}{PREFIX}/swagger-ui"
        operation = _expand(watched.page, "Add an item")
        operation.get_by_role("button", name="Try it out").click()
        operation.get_by_role("button", name="Execute").click()

        response = operation.locator(".live-responses-table")
        expect(response.locator(".response .response-col_status")).to_have_text("200")
        expect(response).to_contain_text('"user_id": "alice"')
        assert f"{url}{PREFIX}/cart/alice" in watched.requested
        _assert_clean(watched, url)


def test_every_operation_and_schema_opens(watched: Watched, url: str) -> None:
    """All that the page can show is shown without a complaint: nothing in it needs what the policy forbids."""
    page = watched.page
    page.goto(f"{url}/swagger-ui")
    expect(page.locator(".opblock")).not_to_have_count(0)
    for each in page.locator(".opblock-summary-control").all():
        each.click()
    expect(page.locator(".opblock.is-open")).to_have_count(page.locator(".opblock").count())
    # Straight in the page: each click moves what is below it.
    page.locator(".json-schema-2020-12-expand-deep-button").evaluate_all("buttons => buttons.forEach(b => b.click())")
    expect(page.locator("#swagger-ui")).not_to_contain_text("Could not render")
    expect(page.get_by_role("button", name="Authorize", exact=True)).to_have_count(0)
    _assert_clean(watched, url)


def test_what_people_fill_in_comes_first(watched: Watched, url: str) -> None:
    """The guest that all else may need is the first call; an operation has its path before its headers."""
    page = watched.page
    page.goto(f"{url}/swagger-ui")
    first = page.locator(".opblock").first
    expect(first.locator(".opblock-summary-method")).to_have_text("POST")
    expect(first.locator(".opblock-summary-path")).to_have_text("/cart")
    names = _expand(page, "Remove an item").locator(".parameters .parameter__name")
    expect(names).to_have_text(
        [re.compile("user_id"), re.compile("item_id"), "Idempotency-Key", "If-Match", "If-None-Match"]
    )


def test_an_opened_operation_is_short(watched: Watched, url: str) -> None:
    """The example of each problem is closed, and opens and closes by keyboard too."""
    page = watched.page
    page.goto(f"{url}/swagger-ui")
    operation = _expand(page, "Merge another cart into this one")
    problem = operation.get_by_role("button", name="Precondition failed.")
    expect(problem).to_have_attribute("aria-expanded", "false")
    expect(operation.locator(".responses-table .highlight-code")).to_have_count(1)  # of the 200
    box = operation.bounding_box()
    assert box is not None
    assert box["height"] < 2300
    problem.focus()
    page.keyboard.press("Enter")
    expect(operation.locator(".responses-table .highlight-code").nth(1)).to_contain_text(":precondition-failed")
    expect(problem).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Enter")
    expect(operation.locator(".responses-table .highlight-code")).to_have_count(1)
    _assert_clean(watched, url)


def test_an_etag_can_be_copied_with_its_quotes(watched: Watched, url: str) -> None:
    """The description of If-Match has them, and so has the ETag of a response."""
    page = watched.page
    page.goto(f"{url}/swagger-ui")
    operation = _expand(page, "Set the metadata of a cart")
    expect(operation.locator("tr[data-param-name=If-Match]")).to_contain_text('quotes: "3t6rahouFHt350Cy"')
    added = _execute(_expand(page, "Add an item"), path={"user_id": "tagged"})
    etag = re.search(r'etag: ("[!#-~]+")', added.locator(".headerline").filter(has_text="etag:").inner_text())
    assert etag
    body = '{"metadata": {"a": "b"}}'
    _execute(operation, path={"user_id": "tagged", "If-Match": etag[1]}, body=body)
    _assert_clean(watched, url)


def test_a_merge_is_seen_by_its_description(watched: Watched, url: str) -> None:
    """The example merges an absent guest; the description leads to one that exists."""
    page = watched.page
    page.goto(f"{url}/swagger-ui")
    merge = _expand(page, "Merge another cart into this one")
    expect(merge).to_contain_text("create a guest, add an item to its cart, and paste its user_id here")
    created = _execute(_expand(page, "Create a guest"), status="201")
    guest = json.loads(created.locator(".highlight-code code").first.inner_text())["user_id"]
    body = '{"product_id": "hat", "quantity": 1}'
    _execute(_expand(page, "Add an item"), path={"user_id": guest}, body=body)
    merged = _execute(merge, path={"user_id": "merged"}, body=json.dumps({"from_user_id": guest}))
    expect(merged).to_contain_text('"product_id": "hat"')
    _assert_clean(watched, url)


def test_a_token_authorizes_calls(watched: Watched) -> None:
    """Without it a call is refused; with it, entered once, the call succeeds."""
    settings = {"CARTSVC_AUTH": "jwt", "CARTSVC_JWT_KEY": SECRET, "CARTSVC_GUEST_KEY": GUEST_SECRET}
    with serve(**settings) as server:
        url = f"http://cartsvc.test:{server.port}"
        page = watched.page
        page.goto(f"{url}/swagger-ui")
        operation = _expand(page, "Get a cart")
        _execute(operation, status="401")
        page.get_by_role("button", name="Authorize", exact=True).click()
        dialog = page.locator(".dialog-ux")
        expect(dialog).to_contain_text("A user token from the shop's issuer, or a guest token from POST /cart.")
        dialog.locator("input").fill(jwt.encode({"sub": "alice", "exp": int(time.time()) + 600}, SECRET, "HS256"))
        dialog.get_by_role("button", name="Apply credentials").click()
        dialog.get_by_role("button", name="Close").last.click()
        operation.get_by_role("button", name="Execute").click()
        expect(operation.locator(_STATUS)).to_have_text("200")
        refused = [text for text in watched.complaints if "401" not in text]
        assert refused == []


def test_the_root_leads_to_it_under_a_strict_policy(watched: Watched, url: str) -> None:
    """`/` ends at the page, whose policy lets nothing inline, nothing evaluated and no other host in."""
    arrived = watched.page.goto(f"{url}/")
    assert watched.page.url == f"{url}/swagger-ui"
    assert arrived is not None
    policy = dict(part.split(maxsplit=1) for part in arrived.headers["content-security-policy"].split("; "))
    assert policy["script-src"] == "'self'"
    assert policy["default-src"] == "'none'"
    assert {source for sources in policy.values() for source in sources.split()} == {"'none'", "'self'", "data:"}


def test_the_policy_is_enforced_and_complaints_are_heard(watched: Watched, url: str) -> None:
    """The tests above would have noticed: a script inside the page and a look at another host are stopped and told."""
    page = watched.page
    page.goto(f"{url}/swagger-ui")
    expect(page.locator(".opblock")).not_to_have_count(0)
    assert watched.complaints == []
    with page.expect_console_message():
        page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    with page.expect_console_message():
        page.evaluate("document.body.append(Object.assign(new Image(), {src: 'https://other.test/x.png'}))")
    assert page.evaluate("window.ran") is None
    assert [text for text in watched.complaints if "Content Security Policy" not in text] == []
    assert len(watched.complaints) == 2


@contextmanager
def _stripping(upstream: int) -> Iterator[int]:
    """A proxy that passes on what is below PREFIX, without it, and answers 404 to all else. Yields its port."""

    class Handler(Quiet, BaseHTTPRequestHandler):
        """One request."""

        def do_GET(self) -> None:
            """Pass it on."""
            if not self.path.startswith(f"{PREFIX}/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=SECONDS)
            try:
                headers = {name: value for name, value in self.headers.items() if name != "Connection"}
                connection.request(self.command, self.path.removeprefix(PREFIX), body or None, headers)
                response = connection.getresponse()
                data = response.read()
            finally:
                connection.close()
            self.send_response_only(response.status, response.reason)
            for name, value in response.getheaders():
                if name not in {"Connection", "Keep-Alive", "Transfer-Encoding"}:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET  # noqa: N815 - the name that http.server looks for

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(proxy):
        yield proxy.server_port


def _expand(page: Page, summary: str) -> Locator:
    operation = page.locator(".opblock").filter(has=page.get_by_text(summary, exact=True))
    operation.locator(".opblock-summary-control").click()
    return operation


def _execute(
    operation: Locator, *, path: dict[str, str] | None = None, body: str | None = None, status: str = "200"
) -> Locator:
    """Fill in an operation, execute it, and return the response, which must have this status."""
    operation.get_by_role("button", name="Try it out").click()
    for name, value in (path or {}).items():
        operation.get_by_placeholder(name, exact=True).fill(value)
    if body is not None:
        operation.locator("textarea").fill(body)
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(_STATUS)).to_have_text(status)
    return operation.locator(".live-responses-table")


def _assert_clean(watched: Watched, url: str) -> None:
    assert watched.complaints == []
    hosts = {urlsplit(asked).netloc for asked in watched.requested if not asked.startswith("data:")}
    assert hosts == {urlsplit(url).netloc}
