"""Chromium, and pages in it that take down what they ask for and complain about."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, ConsoleMessage, Page

# cartsvc.test stands for a host that is no loopback address, which pages treat in ways of their own. Names below
# localhost are this machine. No other name is found: what asks for one fails on any machine, with or without a network.
_OURS = ("cartsvc.test", "localhost", "*.localhost")
_HOSTS = ", ".join(
    [*(f"MAP {name} 127.0.0.1" for name in _OURS), "MAP * ~NOTFOUND", "EXCLUDE 127.0.0.1"],
)
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules={_HOSTS}",
]


class Watched:
    """A page; every URL that it asked for; every error and warning of its console, broken policies included."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requested: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._note)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests. It is started without asking whether it is there: a missing one is a failure."""
    with sync_playwright() as playwright:
        chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        started = playwright.chromium.launch(executable_path=chromium, args=_ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    """A page without cookies and caches of other tests."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    yield Watched(context.new_page())
    context.close()
