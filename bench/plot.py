"""Draw a result as an SVG that is readable on light and on dark pages: bars per load, and lines over connections."""

from __future__ import annotations

from math import log2
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from bench.loads import CONNECTIONS, LOADS, STOREFRONT
from bench.subjects import LABELS
from bench.svg import LINE, MARGIN, WIDTH, add, begin, polyline, short

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from xml.etree.ElementTree import Element

    from bench.results import Result, Run

# All lengths are in pixels.
_LABEL_WIDTH = 200
_HEADING, _GAP = 24, 20  # from a load's title to its first bar; after a load
_NUMBER_WIDTH = 60  # of the figure at the end of a bar
_CURVES_HEIGHT, _AXIS_HEIGHT = 200, 60

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
_COLUMN_WIDTH = (WIDTH - 2 * MARGIN - _LABEL_WIDTH) / len(_COLUMNS)


def draw(result: Result) -> str:
    """Return the SVG."""
    picture = begin(f"Requests per second, CPU time and 99th percentile by load, measured {result.date}", _STYLE)
    svg = picture.root
    y = MARGIN + LINE
    for n, column in enumerate(_COLUMNS):
        add(svg, "text", column.title, kind="faint", x=_column_x(n), y=y)
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
    return picture.finish(y + MARGIN)


def _column_x(n: int) -> float:
    return MARGIN + _LABEL_WIDTH + n * _COLUMN_WIDTH


def _draw_bars(svg: Element, title: str, shown: dict[str, list[Run]], top: int) -> int:
    """Draw a load: a row per subject, a bar per figure. Each figure has its own scale. Return where it ends."""
    add(svg, "text", title, kind="title", x=MARGIN, y=top)
    rows = {subject: top + _HEADING + n * LINE for n, subject in enumerate(shown)}
    for subject, y in rows.items():
        add(svg, "text", LABELS.get(subject, subject), x=MARGIN, y=y)
    for n, column in enumerate(_COLUMNS):
        values = {subject: median(map(column.figure, runs)) for subject, runs in shown.items()}
        scale = (_COLUMN_WIDTH - _NUMBER_WIDTH) / (max(values.values()) or 1)
        for subject, value in values.items():
            x, y = _column_x(n), rows[subject]
            add(svg, "rect", kind=f"bar {subject}", x=x, y=y - 11, width=max(value * scale, 1), height=13, rx=2)
            add(svg, "text", short(value), kind="faint", x=x + value * scale + 6, y=y)
    return top + _HEADING + LINE * len(shown)


def _curves(result: Result) -> dict[str, dict[int, float]]:
    """Return requests per second by subject and number of connections, for subjects with several numbers."""
    curves: dict[str, dict[int, float]] = {}
    for each in result.series:
        if each.load == STOREFRONT.name:
            curves.setdefault(each.subject, {})[each.connections] = median(run.rate for run in each.runs)
    return {subject: dict(sorted(curve.items())) for subject, curve in curves.items() if len(curve) > 1}


def _draw_curves(svg: Element, curves: dict[str, dict[int, float]], top: int) -> int:
    """Draw requests per second over the number of connections, which doubles at equal distances."""
    add(svg, "text", "storefront: requests per second by number of connections", kind="title", x=MARGIN, y=top)
    left, right, bottom = MARGIN + _AXIS_HEIGHT, WIDTH - _LABEL_WIDTH - MARGIN, top + _CURVES_HEIGHT + _HEADING
    counts = sorted({count for curve in curves.values() for count in curve})
    highest = max(rate for curve in curves.values() for rate in curve.values())

    def place(count: int, rate: float) -> tuple[float, float]:
        across = log2(count / counts[0]) / log2(counts[-1] / counts[0])
        return left + across * (right - left), bottom - rate / highest * _CURVES_HEIGHT

    for rate in (0, highest / 2, highest):
        y = place(1, rate)[1]
        add(svg, "line", kind="rule", x1=left, x2=right, y1=y, y2=y)
        add(svg, "text", short(rate), kind="faint end", x=left - 8, y=y + 4)
    for count in counts:
        add(svg, "text", str(count), kind="faint middle", x=place(count, 0)[0], y=bottom + LINE)
    for subject, curve in curves.items():
        points = [place(*point) for point in curve.items()]
        add(svg, "polyline", kind=f"line {subject}", points=polyline(points))
    ends = {subject: place(*max(curve.items()))[1] for subject, curve in curves.items()}
    for subject, y in _apart(ends):
        add(svg, "text", LABELS.get(subject, subject), kind=f"name {subject}", x=right + 8, y=y + 4)
    return bottom + _AXIS_HEIGHT // 2


def _apart(ends: dict[str, float]) -> Iterator[tuple[str, float]]:
    """Move labels down so that each is a line below the one above it."""
    above = float("-inf")
    for subject, y in sorted(ends.items(), key=lambda end: end[1]):
        above = max(y, above + LINE - 3)
        yield subject, above
