"""The demo of examples/storefront in Chromium, as a shopper uses it: with the mouse, the keyboard, in two languages."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.support.demo import Demo, demo
from tests.support.npm import NODE_MODULES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from conftest import Watched
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser

_REJECTED = "Failed to load resource: the server responded with a status of 4"  # Chromium reports each 409 and 412


@pytest.fixture(scope="module")
def shop() -> Iterator[Demo]:
    """A demo that all tests of the module share; each has its own browser, so its own guest."""
    with demo() as running:
        yield running


@pytest.fixture
def page(watched: Watched, shop: Demo) -> Iterator[Page]:
    """The page in English. It requests nothing but its own files and the cart service, under its strict policy."""
    _open(watched.page, shop)
    yield watched.page
    assert [text for text in watched.complaints if not text.startswith(_REJECTED)] == []
    assert [url for url in watched.requested if not url.startswith((shop.url, shop.service, "data:"))] == []


def _open(page: Page, shop: Demo) -> None:
    page.goto(shop.url)
    expect(_product(page, "Stoneware mug")).to_be_visible()


# ---- a shop ----


def test_a_guest_buys_in_two_tabs(page: Page, shop: Demo) -> None:
    """Both tabs show what the other has done: adds, steps, another variant, texts, and the order."""
    other = page.context.new_page()
    _open(other, shop)
    _add(other, "Canvas bag")
    _cart_button(other).click()
    page.bring_to_front()  # because Chromium draws a hidden tab once a second
    _product(page, "Stoneware mug").get_by_role("radio", name="400 ml").check()
    _add(page, "Stoneware mug")
    for tab in (page, other):
        expect(_cart_button(tab)).to_have_text(re.compile(r"Cart\s*2"))
    _cart_button(page).click()

    mug, bag = _line(page, "Stoneware mug"), _line(page, "Canvas bag")
    mug.get_by_role("button", name="One more").click()
    bag.get_by_role("combobox", name="Colour").select_option("Ink")
    mug.get_by_label("Engraving").fill("Hanna & Jo")
    mug.get_by_label("Engraving").press("Enter")
    page.get_by_label("Gift note").fill("For your kitchen.\nYours, Kim")
    page.get_by_label("Gift note").blur()

    mug, bag = _line(other, "Stoneware mug"), _line(other, "Canvas bag")
    expect(mug.locator("output")).to_have_text("2")
    expect(mug.locator(".price")).to_have_text("€45.00")
    expect(mug.get_by_label("Engraving")).to_have_value("Hanna & Jo")
    expect(bag.locator("select")).to_have_value("ink")
    expect(other.get_by_label("Gift note")).to_have_value("For your kitchen.\nYours, Kim")
    expect(other.locator("#subtotal")).to_have_text("€67.00")

    _line(page, "Canvas bag").get_by_role("button", name="Remove").click()
    expect(_line(other, "Canvas bag")).to_have_count(0)
    other.bring_to_front()
    other.get_by_role("button", name="Order").click()
    _shows(other, re.compile("Thank you. Your order has the number [0-9]{5}"))
    for tab in (page, other):
        expect(tab.get_by_text("Nothing in it yet.")).to_be_visible()


def test_another_variant_joins_the_one_in_the_cart(page: Page) -> None:
    """Two variants become one item, with the price of that variant; the focus stays on the select."""
    _add(page, "Teapot")
    _shows(page, "Teapot is in the cart.")
    _product(page, "Teapot").get_by_role("radio", name="Sand").check()
    _add(page, "Teapot")
    _cart_button(page).click()
    expect(_line(page, "Teapot")).to_have_count(2)
    select = _line(page, "Teapot").nth(1).get_by_role("combobox")
    select.focus()
    select.select_option("Ink")
    expect(_line(page, "Teapot")).to_have_count(1)
    expect(_line(page, "Teapot").get_by_role("status")).to_have_text("2")
    expect(_line(page, "Teapot").get_by_role("combobox")).to_be_focused()


# ---- the network ----


def test_lost_messages_are_seen_and_nothing_is_doubled(page: Page) -> None:
    """Of an add, a request and a response are lost; the third attempt is a replay, and the cart has one item."""
    page.get_by_role("radio", name="Now and then").check()
    _add(page, "Teapot")
    _shows(page, "The request was lost. Trying again …")
    _shows(page, "The response was lost. Trying again with the same key …")
    _shows(page, "Teapot is in the cart. Done after 3 attempts, and applied once.")
    expect(_cart_button(page)).to_have_text(re.compile(r"Cart\s*1"))
    wire = page.get_by_role("list", name="On the wire").get_by_role("listitem")
    outcomes = [row.split()[-2:] for row in wire.all_inner_texts()][:3]
    assert outcomes == [["applied", "before"], ["response", "lost"], ["request", "lost"]]
    keys = {row.split("key ")[1][:4] for row in wire.all_inner_texts()[:3]}
    assert len(keys) == 1


def test_without_a_network_the_same_click_can_be_tried_again(page: Page) -> None:
    """After four attempts there is a message with a button; the fifth has the same key, and the click counts once."""
    _add(page, "Notebook")
    _shows(page, "Notebook is in the cart.")
    page.get_by_role("radio", name="All of it").check()
    _add(page, "Notebook")
    _shows(page, "No connection. Please check whether the cart is right.")
    page.get_by_role("radio", name="No", exact=True).check()
    page.get_by_role("button", name="Try again").click()
    _shows(page, "Notebook is in the cart. Done after 5 attempts, and applied once.")
    expect(_cart_button(page)).to_have_text(re.compile(r"Cart\s*2"))


def test_a_412_is_resolved_before_the_eyes(page: Page) -> None:
    """An engraving meets a cart that another device has changed: a note reports it, and both changes are kept."""
    page.get_by_role("button", name="Change it elsewhere").click()
    _shows(page, "Put a mug, a board or a notebook into the cart first.")
    _add(page, "Bread board")
    _shows(page, "Bread board is in the cart.")
    page.get_by_role("button", name="Change it elsewhere").click()
    _shows(page, "Another device has added a candle. Now write an engraving in the cart.")
    _cart_button(page).click()
    expect(_line(page, "Scented candle")).to_have_count(0)
    _line(page, "Bread board").get_by_label("Engraving").fill("Kim")
    _line(page, "Bread board").get_by_label("Engraving").press("Enter")
    _shows(page, "The cart had changed elsewhere (412). Your change was applied to the newer cart.")
    expect(_line(page, "Scented candle")).to_have_count(1)
    expect(page.locator("#subtotal")).to_have_text("€63.00")
    expect(_line(page, "Bread board").get_by_label("Engraving")).to_have_value("Kim")


# ---- users ----


def test_a_sign_in_merges_and_reaches_the_other_tab(page: Page, shop: Demo) -> None:
    """The guest's items move into Ada's cart in both tabs; after the sign-out they are hers alone."""
    other = page.context.new_page()
    _open(other, shop)
    page.bring_to_front()
    _add(page, "Stoneware mug")
    _sign_in(page, "Ada")
    _shows(page, "Signed in as Ada. This is your cart now.")
    for tab in (page, other):
        expect(tab.get_by_role("button", name="Ada", exact=True)).to_be_visible()
        expect(_cart_button(tab)).to_have_text(re.compile(r"Cart\s*1"))
    page.get_by_role("button", name="Ada", exact=True).click()
    page.get_by_role("button", name="Sign out").click()
    _shows(page, "Signed out.")
    expect(_cart_button(page)).to_have_text(re.compile(r"Cart\s*$"))
    _add(page, "Teapot")
    _sign_in(page, "Ada")
    expect(_cart_button(page)).to_have_text(re.compile(r"Cart\s*2"))


def test_a_merge_that_does_not_fit_lets_the_shopper_choose(page: Page) -> None:
    """Both carts stay until the shopper decides; then what fits is moved, and what did not is named."""
    _sign_in(page, "Grace")
    _add(page, "Canvas bag")
    _cart_button(page).click()
    _step(page, "Canvas bag", to=9)
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Grace", exact=True).click()
    page.get_by_role("button", name="Sign out").click()
    _shows(page, "Signed out.")
    _add(page, "Canvas bag")
    _add(page, "Teapot")
    _shows(page, "Teapot is in the cart.")
    _sign_in(page, "Grace")
    _shows(page, "At most 9 of one item.")
    expect(_cart_button(page)).to_have_text(re.compile(r"Cart\s*9"))
    page.get_by_role("button", name="Move what fits").click()
    _shows(page, re.compile("Canvas bag: At most 9 of one item."))
    expect(_cart_button(page)).to_have_text(re.compile(r"Cart\s*10"))


# ---- messages ----


def test_faults_are_shown_in_german(page: Page) -> None:
    """A limit, a currency and a text that is too long: each by its code, in the language that the shopper chose."""
    page.get_by_label("Language").select_option("Deutsch")
    assert page.locator("html").get_attribute("lang") == "de"
    _add(page, "Steinzeugbecher", button="In den Warenkorb")
    _shows(page, "Steinzeugbecher liegt im Warenkorb.")
    page.get_by_label("Währung").select_option("JPY")
    expect(_product(page, "Teekanne").locator(".price")).to_have_text("9.800\xa0¥")
    _add(page, "Teekanne", button="In den Warenkorb")
    _shows(page, "Die Preise im Warenkorb sind in EUR.")
    _cart_button(page).click()
    _step(page, "Steinzeugbecher", to=9, button="Eins mehr")
    _line(page, "Steinzeugbecher").get_by_role("button", name="Eins mehr").click()
    _shows(page, "Höchstens 9 Stück je Artikel.")
    expect(_line(page, "Steinzeugbecher").get_by_role("status")).to_have_text("9")
    page.get_by_label("Geschenkbotschaft").fill("x" * 121)
    page.get_by_label("Geschenkbotschaft").blur()
    _shows(page, "Höchstens 120 Zeichen.")
    page.reload()
    expect(page.get_by_role("heading", name="Dinge für den Esstisch")).to_be_visible()


def test_both_languages_have_the_same_words(page: Page) -> None:
    """Each text of the page exists in both, so none is shown in the wrong one."""
    tables = page.evaluate("async () => (await import('./words.js')).WORDS")
    assert sorted(tables["en"]) == sorted(tables["de"])
    named = page.evaluate("[...document.querySelectorAll('[data-text]')].map((each) => each.dataset.text)")
    assert set(named) - {*tables["en"]} == set()


# ---- everyone ----


def test_the_keyboard_is_enough(page: Page) -> None:
    """From the skip link to the order without a mouse; the focus stays in the drawer, and returns from it."""
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the products")).to_be_focused()
    page.keyboard.press("Enter")
    _tab_to(page, _product(page, "Stoneware mug").get_by_role("radio", name="Clay"))
    page.keyboard.press("ArrowRight")
    expect(_product(page, "Stoneware mug").get_by_role("img", name="Stoneware mug, Moss, 250 ml")).to_be_visible()
    _tab_to(page, _product(page, "Stoneware mug").get_by_role("button"))
    page.keyboard.press("Enter")
    _shows(page, "Stoneware mug is in the cart.")
    _tab_to(page, _product(page, "Teapot").get_by_role("button"))
    page.keyboard.press("Enter")
    _shows(page, "Teapot is in the cart.")
    _tab_to(page, _cart_button(page), back=True)
    page.keyboard.press("Enter")

    more = _line(page, "Stoneware mug").get_by_role("button", name="One more")
    _tab_to(page, more)
    page.keyboard.press("Enter")
    expect(_line(page, "Stoneware mug").get_by_role("status")).to_have_text("2")
    expect(more).to_be_focused()
    _tab_to(page, _line(page, "Stoneware mug").get_by_role("button", name="Remove"))
    page.keyboard.press("Enter")
    expect(_line(page, "Stoneware mug")).to_have_count(0)
    expect(_line(page, "Teapot").get_by_role("button", name="Remove")).to_be_focused()
    page.keyboard.press("Escape")
    expect(_cart_button(page)).to_be_focused()
    page.keyboard.press("Enter")
    _tab_to(page, page.get_by_role("button", name="Order"))
    page.keyboard.press("Enter")
    _shows(page, re.compile("^Thank you."))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(browser: Browser, shop: Demo, scheme: Literal["light", "dark"], width: int) -> None:
    """On the page, in the empty drawer, the full one and the dialog, with messages; and nothing is too wide."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce", bypass_csp=True
    )
    page = context.new_page()
    _open(page, shop)
    page.get_by_label("Language").select_option("Deutsch")
    page.evaluate((NODE_MODULES / "axe-core" / "axe.min.js").read_text())
    _is_accessible(page)
    _cart_button(page).click()
    _is_accessible(page)
    page.keyboard.press("Escape")
    _add(page, "Brotschneidebrett", button="In den Warenkorb")
    _shows(page, "Brotschneidebrett liegt im Warenkorb.")
    _is_accessible(page)
    _cart_button(page).click()
    page.get_by_label("Geschenkbotschaft").fill("x" * 121)
    page.get_by_label("Geschenkbotschaft").blur()
    _shows(page, "Höchstens 120 Zeichen.")
    _is_accessible(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Anmelden").click()
    _is_accessible(page)
    context.close()


def _is_accessible(page: Page) -> None:
    found = page.evaluate("async () => (await axe.run()).violations")
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# ---- parts of the page ----


def _product(page: Page, name: str) -> Locator:
    return page.locator(".product").filter(has=page.get_by_role("heading", name=name))


def _add(page: Page, name: str, *, button: str = "Add to cart") -> None:
    _product(page, name).get_by_role("button", name=button).click()


def _cart_button(page: Page) -> Locator:
    return page.locator("#open-cart")


def _line(page: Page, name: str) -> Locator:
    return page.locator(".line").filter(has=page.get_by_role("heading", name=name))


def _step(page: Page, name: str, *, to: int, button: str = "One more") -> None:
    shown = _line(page, name).get_by_role("status")
    for _ in range(to - int(shown.inner_text())):
        _line(page, name).get_by_role("button", name=button).click()
    expect(shown).to_have_text(str(to))
    expect(page.locator("body")).not_to_have_class(re.compile("busy"))


def _sign_in(page: Page, name: str) -> None:
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("button", name=f"Sign in as {name}").click()
    expect(page.get_by_role("button", name=name, exact=True)).to_be_visible()


def _shows(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.locator(".toast.shown [role=status]")).to_have_text(text, timeout=20_000)


def _tab_to(page: Page, target: Locator, *, back: bool = False) -> None:
    """Press Tab until the element has the focus; fail if it cannot be reached."""
    for _ in range(80):
        if target.evaluate("(element) => element === document.activeElement"):
            return
        page.keyboard.press("Shift+Tab" if back else "Tab")
    pytest.fail(f"not reached by Tab: {json.dumps(target.inner_text())}")
