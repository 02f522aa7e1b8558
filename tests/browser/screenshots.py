"""Take the screenshots of docs/images: `.venv/bin/pytest -m browser tests/browser/screenshots.py`. No suite runs this.

The fonts are those of the machine. Look at the images before you commit them.
"""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest
from playwright.sync_api import expect

from tests.support.demo import Demo, demo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

_FOLDER = Path(__file__).parents[2] / "docs" / "images"
_DESKTOP, _PHONE = (1200, 880), (390, 844)

# Returns the rows of an image as PNG has them: of each, the differences from its neighbours that compress best. Colours
# are rounded to multiples of 4, except those of areas, which takes a quarter of the bytes and cannot be seen.
_ROWS = """
async (source) => {
  const image = new Image();
  image.src = source;
  await image.decode();
  const { width, height } = image;
  const canvas = new OffscreenCanvas(width, height).getContext("2d");
  canvas.drawImage(image, 0, 0);
  const { data } = canvas.getImageData(0, 0, width, height);
  const pixels = new Uint32Array(data.buffer);
  const counts = new Map();
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  const rounded = data.map((value, index) =>
    counts.get(pixels[index >> 2]) > pixels.length / 500 ? value : Math.min(255, 4 * Math.round(value / 4)),
  );
  const values = rounded.filter((_, index) => index % 4 < 3);
  const nearest = (left, up, corner) => {
    const [toLeft, toUp, toCorner] = [up - corner, left - corner, left + up - 2 * corner].map(Math.abs);
    return toLeft <= toUp && toLeft <= toCorner ? left : toUp <= toCorner ? up : corner;
  };
  const filters = { 1: (left) => left, 2: (left, up) => up, 4: nearest };
  const rows = [];
  for (let row = 0; row < height; row += 1) {
    const at = (column, line) => (column < 0 || line < 0 ? 0 : values[line * width * 3 + column]);
    const candidates = Object.entries(filters).map(([type, expected]) => {
      const line = new Uint8Array(width * 3 + 1);
      line[0] = type;
      for (let each = 0; each < width * 3; each += 1) {
        line[each + 1] = at(each, row) - expected(at(each - 3, row), at(each, row - 1), at(each - 3, row - 1));
      }
      return { line, size: line.reduce((sum, value) => sum + Math.min(value, 256 - value), 0) };
    });
    rows.push(candidates.reduce((a, b) => (b.size < a.size ? b : a)).line);
  }
  return new Uint8Array(await new Blob(rows).arrayBuffer()).toBase64();
}
"""


class _Shot(NamedTuple):
    name: str
    size: tuple[int, int]
    scheme: Literal["light", "dark"]
    has_cart: bool


_SHOTS = [
    _Shot("demo-desktop-light", _DESKTOP, "light", has_cart=False),
    _Shot("demo-desktop-dark", (1200, 696), "dark", has_cart=True),
    _Shot("demo-phone-light", _PHONE, "light", has_cart=False),
    _Shot("demo-phone-dark", _PHONE, "dark", has_cart=True),
]


@pytest.fixture(scope="module")
def shop() -> Iterator[Demo]:
    """A demo for all screenshots."""
    with demo() as running:
        yield running


@pytest.mark.parametrize("shot", _SHOTS, ids=lambda shot: shot.name)
def test_screenshot(browser: Browser, shop: Demo, shot: _Shot) -> None:
    """An image takes less than 80 KB."""
    width, height = shot.size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=shot.scheme, locale="en", reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(shop.url)
    expect(page.locator(".product")).to_have_count(6)
    if shot.has_cart:
        _fill_cart(page)
    expect(page.locator("body.busy")).to_have_count(0)
    page.evaluate("scrollTo(0, 0)")
    image = page.screenshot()
    context.close()
    blank = browser.new_page()
    rows = blank.evaluate(_ROWS, "data:image/png;base64," + base64.b64encode(image).decode())
    blank.close()
    file = _FOLDER / f"{shot.name}.png"
    file.write_bytes(_png(width, height, base64.b64decode(rows)))
    assert file.stat().st_size < 80_000


def _fill_cart(page: Page) -> None:
    """Put four items into the cart and open it, with texts and without a message."""
    products = page.locator(".product")
    products.nth(0).get_by_role("radio", name="400 ml").check()
    products.nth(0).get_by_role("radio", name="Moss").check()
    for number in (0, 2, 0, 5):
        products.nth(number).get_by_role("button").click()
        expect(page.locator("body.busy")).to_have_count(0)
    page.locator("#open-cart").click()
    page.mouse.move(0, 0)
    for field, text in (("Engraving", "Hanna & Jo"), ("Gift note", "For your new kitchen.")):
        page.get_by_label(field).first.fill(text)
        page.get_by_label(field).first.blur()
        expect(page.locator("body.busy")).to_have_count(0)
        expect(page.locator(".toast.shown")).to_have_text("Saved.")
    expect(page.locator(".toast.shown")).to_have_count(0, timeout=20_000)


def _png(width: int, height: int, rows: bytes) -> bytes:
    """Return an image in RGB as PNG (ISO/IEC 15948)."""
    parts = {
        b"IHDR": struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(rows, 9),
        b"IEND": b"",
    }
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
