"""Draw a result as an SVG that is readable on light and on dark pages: bars per load, and lines over connections."""

from __future__ import annotations

from math import log2
from statistics import median
from typing import TYPE_CHECKING, NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from bench.loads import CONNECTIONS, LOADS, STOREFRONT
from bench.subjects import LABELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.results import Result, Run

# All lengths are in pixels.
_WIDTH, _MARGIN, _LABEL_WIDTH = 960, 20, 200
_LINE, _HEADING, _GAP = 18, 24, 20  # from one bar to the next; from a load's title to its first bar; after a load
_NUMBER_WIDTH = 60  # of the figure at the end of a bar
_CURVES_HEIGHT, _AXIS_HEIGHT = 200, 60

# The picture has a background of its own, because its page may be dark while the system is light.
_STYLE = """
  :root { --back: #ffffff; --text: #1f2328; --faint: #59636e; --rule: #d1d9e0 }
  .memory { --ink: #0a5cc2 } .one-worker { --ink: #6ea8e8 } .lmdb { --ink: #1a7f37 } .valkey { --ink: #8250df }
  .postgresql { --ink: #0f766e }
  .bare { --ink: #848d97 } .fastapi { --ink: #c2410c } .fastapi-typed { --ink: #e07b39 } .express { --ink: #b08800 }
  @media (prefers-color-scheme: dark) {
    :root { --back: #0d1117; --text: #f0f6fc; --faint: #9198a1; --rule: #3d444d }
    .memory { --ink: #58a6ff } .one-worker { --ink: #3b6ea5 } .lmdb { --ink: #3fb950 } .valkey { --ink: #bc8cff }
    .postgresql { --ink: #2dd4bf }
    .bare { --ink: #8b949e } .fastapi { --ink: #ff8a50 } .fastapi-typed { --ink: #b8622f } .express { --ink: #e3b341 }
  }
  text { font: 12px system-ui, sans-serif; fill: var(--text) } .title { font-weight: 600 } .faint { fill: var(--faint) }
  .back { fill: var(--back) } .bar { fill: var(--ink, var(--faint)) } .rule { stroke: var(--rule) }
  .line { fill: none; stroke: var(--ink, var(--faint)); stroke-width: 2 }
  .end { text-anchor: end } .middle { text-anchor: middle }
  .name { fill: var(--ink, var(--faint)) }
"""


class _Column(NamedTuple):
    title: str
    figure: Callable[[Run], float]


_COLUMNS = (
    _Column("requests per second", lambda run: run.rate),
    _Column("CPU per request, µs", lambda run: run.total_cpu_us),
    _Column("99th percentile, ms", lambda run: run.p99_ms),
)
_COLUMN_WIDTH = (_WIDTH - 2 * _MARGIN - _LABEL_WIDTH) / len(_COLUMNS)


def draw(result: Result) -> str:
    """Return the SVG."""
    svg = Element("svg", xmlns="http://www.w3.org/2000/svg", role="img", width=str(_WIDTH))
    _add(svg, "title", f"Requests per second, CPU time and 99th percentile by load, measured {result.date}")
    _add(svg, "style", _STYLE)
    back = _add(svg, "rect", kind="back", width=_WIDTH)
    y = _MARGIN + _LINE
    for n, column in enumerate(_COLUMNS):
        _add(svg, "text", column.title, kind="faint", x=_column_x(n), y=y)
    for load in LOADS:
        shown = {
            each.subject: each.runs
            for each in result.series
            if (each.load, each.connections) == (load.name, CONNECTIONS)
        }
        if shown:
            y = _draw_bars(svg, load.what, shown, y + _GAP)
    curves = _curves(result)
    if curves:
        y = _draw_curves(svg, curves, y + _GAP)
    for element in (svg, back):
        element.set("height", str(y + _MARGIN))
    svg.set("viewBox", f"0 0 {_WIDTH} {y + _MARGIN}")
    indent(svg, " ")
    return tostring(svg, encoding="unicode") + "\n"


def _column_x(n: int) -> float:
    return _MARGIN + _LABEL_WIDTH + n * _COLUMN_WIDTH


def _draw_bars(svg: Element, title: str, shown: dict[str, list[Run]], top: int) -> int:
    """Draw a load: a row per subject, a bar per figure. Each figure has its own scale. Return where it ends."""
    _add(svg, "text", title, kind="title", x=_MARGIN, y=top)
    rows = {subject: top + _HEADING + n * _LINE for n, subject in enumerate(shown)}
    for subject, y in rows.items():
        _add(svg, "text", LABELS.get(subject, subject), x=_MARGIN, y=y)
    for n, column in enumerate(_COLUMNS):
        values = {subject: median(map(column.figure, runs)) for subject, runs in shown.items()}
        scale = (_COLUMN_WIDTH - _NUMBER_WIDTH) / (max(values.values()) or 1)
        for subject, value in values.items():
            x, y = _column_x(n), rows[subject]
            _add(svg, "rect", kind=f"bar {subject}", x=x, y=y - 11, width=max(value * scale, 1), height=13, rx=2)
            _add(svg, "text", _short(value), kind="faint", x=x + value * scale + 6, y=y)
    return top + _HEADING + _LINE * len(shown)


def _curves(result: Result) -> dict[str, dict[int, float]]:
    """Return requests per second by subject and number of connections, for subjects with several numbers."""
    curves: dict[str, dict[int, float]] = {}
    for each in result.series:
        if each.load == STOREFRONT.name:
            curves.setdefault(each.subject, {})[each.connections] = median(run.rate for run in each.runs)
    return {subject: dict(sorted(curve.items())) for subject, curve in curves.items() if len(curve) > 1}


def _draw_curves(svg: Element, curves: dict[str, dict[int, float]], top: int) -> int:
    """Draw requests per second over the number of connections, which doubles at equal distances."""
    _add(svg, "text", "storefront: requests per second by number of connections", kind="title", x=_MARGIN, y=top)
    left, right, bottom = _MARGIN + _AXIS_HEIGHT, _WIDTH - _LABEL_WIDTH - _MARGIN, top + _CURVES_HEIGHT + _HEADING
    counts = sorted({count for curve in curves.values() for count in curve})
    highest = max(rate for curve in curves.values() for rate in curve.values())

    def place(count: int, rate: float) -> tuple[float, float]:
        across = log2(count / counts[0]) / log2(counts[-1] / counts[0])
        return left + across * (right - left), bottom - rate / highest * _CURVES_HEIGHT

    for rate in (0, highest / 2, highest):
        y = place(1, rate)[1]
        _add(svg, "line", kind="rule", x1=left, x2=right, y1=y, y2=y)
        _add(svg, "text", _short(rate), kind="faint end", x=left - 8, y=y + 4)
    for count in counts:
        _add(svg, "text", str(count), kind="faint middle", x=place(count, 0)[0], y=bottom + _LINE)
    for subject, curve in curves.items():
        points = [place(*point) for point in curve.items()]
        _add(svg, "polyline", kind=f"line {subject}", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points))
    ends = {subject: place(*max(curve.items()))[1] for subject, curve in curves.items()}
    for subject, y in _apart(ends):
        _add(svg, "text", LABELS.get(subject, subject), kind=f"name {subject}", x=right + 8, y=y + 4)
    return bottom + _AXIS_HEIGHT // 2


def _apart(ends: dict[str, float]) -> Iterator[tuple[str, float]]:
    """Move labels down so that each is a line below the one above it."""
    above = float("-inf")
    for subject, y in sorted(ends.items(), key=lambda end: end[1]):
        above = max(y, above + _LINE - 3)
        yield subject, above


def _add(parent: Element, tag: str, text: str | None = None, *, kind: str = "", **attributes: float | str) -> Element:
    """Add an element of this CSS class; numbers are rounded to tenths."""
    shown = {name: value if isinstance(value, str) else f"{value:.1f}" for name, value in attributes.items()}
    element = SubElement(parent, tag, {"class": kind, **shown} if kind else shown)
    element.text = text
    return element


def _short(value: float) -> str:
    """Return a number with at least two digits."""
    return f"{value:.1f}" if 0 < value < 10 else f"{value:,.0f}"  # noqa: PLR2004 - as the docstring has it
