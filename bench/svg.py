"""Write SVG pictures that are readable on light and on dark pages."""

from __future__ import annotations

from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

# All lengths are in pixels.
WIDTH, MARGIN, LINE = 960, 20, 18  # LINE is the distance of two lines of text


class Picture(NamedTuple):
    """A picture: its root element, and its background."""

    root: Element
    back: Element

    def finish(self, height: float) -> str:
        """Return the text of the picture, which has this height."""
        for element in self:
            element.set("height", str(height))
        self.root.set("viewBox", f"0 0 {WIDTH} {height}")
        indent(self.root, " ")
        return tostring(self.root, encoding="unicode") + "\n"


def begin(title: str, style: str) -> Picture:
    """Return an empty picture with a background of its own, because its page may be dark while the system is light."""
    root = Element("svg", xmlns="http://www.w3.org/2000/svg", role="img", width=str(WIDTH))
    add(root, "title", title)
    add(root, "style", style)
    return Picture(root, add(root, "rect", kind="back", width=WIDTH))


def add(parent: Element, tag: str, text: str | None = None, *, kind: str = "", **attributes: float | str) -> Element:
    """Add an element of this CSS class; numbers are rounded to tenths."""
    shown = {name: value if isinstance(value, str) else f"{value:.1f}" for name, value in attributes.items()}
    element = SubElement(parent, tag, {"class": kind, **shown} if kind else shown)
    element.text = text
    return element


def polyline(points: list[tuple[float, float]]) -> str:
    """Return the points of a line as SVG writes them."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def short(value: float) -> str:
    """Return a number with at least two digits."""
    return f"{value:.1f}" if 0 < value < 10 else f"{value:,.0f}"  # noqa: PLR2004 - as the docstring has it
