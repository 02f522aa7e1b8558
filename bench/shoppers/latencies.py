"""Keep the times of requests by kind and second, and show them as a table and as a picture."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import ceil, floor, log10
from typing import TYPE_CHECKING

from bench.markdown import table
from bench.svg import LINE, MARGIN, WIDTH, add, begin, polyline, short

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_POINTS = 60  # of a line, at most
_DIGITS = 3  # of a time that is kept
# Lengths are in pixels.
_PANEL_HEIGHT, _PLOT_HEIGHT, _AXIS_WIDTH = 170, 90, 50
_PANEL_WIDTH = (WIDTH - MARGIN) / 2
_STYLE = """
  :root { --back: #ffffff; --text: #1f2328; --faint: #59636e; --rule: #d1d9e0 }
  .p50 { --ink: #0a5cc2 } .p95 { --ink: #8250df } .p99 { --ink: #c2410c }
  @media (prefers-color-scheme: dark) {
    :root { --back: #0d1117; --text: #f0f6fc; --faint: #9198a1; --rule: #3d444d }
    .p50 { --ink: #58a6ff } .p95 { --ink: #bc8cff } .p99 { --ink: #ff8a50 }
  }
  text { font: 12px system-ui, sans-serif; fill: var(--text) } .title { font-weight: 600 } .faint { fill: var(--faint) }
  .back { fill: var(--back) } .rule { stroke: var(--rule) }
  .line { fill: none; stroke: var(--ink); stroke-width: 2 } .name { fill: var(--ink) }
  .end { text-anchor: end } .middle { text-anchor: middle }
"""


class Latencies:
    """The times of a run: counts by kind, second and time, so that their number does not grow with the requests."""

    def __init__(self) -> None:
        self._times: dict[str, dict[int, Counter[float]]] = defaultdict(lambda: defaultdict(Counter))
        self._failed: Counter[str] = Counter()

    def add(self, kind: str, *, at_s: float, took_ms: float, failed: bool) -> None:
        """Count one request, sent ``at_s`` seconds after the start of the run."""
        self._times[kind][int(at_s)][_rounded(took_ms)] += 1
        self._failed[kind] += failed

    def table(self) -> str:
        """Return a table with a row for each kind of request."""
        rows = []
        for kind in sorted(self._times):
            times = _sum(self._times[kind])
            cells = [f"{percentile(times, share):,.1f}" for share in _SHARES.values()]
            rows.append([kind, f"{times.total():,}", f"{self._failed[kind]:,}", *cells, f"{max(times):,.1f}"])
        return table(["Request", "sent", "failed", *(f"{name} ms" for name in _SHARES), "max ms"], rows)

    def draw(self, title: str) -> str:
        """Return an SVG: for each kind of request, the percentiles over the time of the run."""
        picture = begin(title, _STYLE)
        add(picture.root, "text", title, kind="title", x=MARGIN, y=MARGIN + LINE)
        for n, name in enumerate(_SHARES):
            add(picture.root, "text", name, kind=f"name {name}", x=WIDTH - 160 + 50 * n, y=MARGIN + LINE)
        top, seconds = MARGIN + 2 * LINE, 1 + max((max(each) for each in self._times.values()), default=0)
        for n, kind in enumerate(sorted(self._times)):
            x, y = MARGIN + n % 2 * _PANEL_WIDTH, top + n // 2 * _PANEL_HEIGHT
            self._draw_panel(picture.root, kind, seconds, (x, y))
        return picture.finish(top + ceil(len(self._times) / 2) * _PANEL_HEIGHT)

    def _draw_panel(self, svg: Element, kind: str, seconds: int, corner: tuple[float, float]) -> None:
        per_point = ceil(seconds / _POINTS)
        groups: dict[int, Counter[float]] = defaultdict(Counter)
        for second, times in self._times[kind].items():
            groups[second // per_point].update(times)
        lines = {
            name: [((n + 0.5) * per_point, percentile(groups[n], share)) for n in sorted(groups)]
            for name, share in _SHARES.items()
        }
        highest = max(ms for line in lines.values() for _, ms in line)
        left, top = corner[0] + _AXIS_WIDTH, corner[1] + 2 * LINE
        right, bottom = corner[0] + _PANEL_WIDTH - MARGIN, top + _PLOT_HEIGHT
        title = f"{kind}: {_sum(self._times[kind]).total():,} requests, {self._failed[kind]:,} failed"
        add(svg, "text", title, kind="title", x=corner[0], y=corner[1] + LINE)
        for share in (0, 0.5, 1):
            y = bottom - share * _PLOT_HEIGHT
            add(svg, "line", kind="rule", x1=left, x2=right, y1=y, y2=y)
            add(svg, "text", f"{short(share * highest)} ms", kind="faint end", x=left - 6, y=y + 4)
        for second, kind_of_end in ((0, "faint"), (seconds, "faint end")):
            x = left + second / seconds * (right - left)
            add(svg, "text", f"{second} s", kind=kind_of_end, x=x, y=bottom + LINE)
        for name, line in lines.items():
            points = [
                (left + min(at, seconds) / seconds * (right - left), bottom - ms / highest * _PLOT_HEIGHT)
                for at, ms in line
            ]
            add(svg, "polyline", kind=f"line {name}", points=polyline(points))


def percentile(times: Counter[float], share: float) -> float:
    """Return the time within which this share of the requests had a response. Raises ValueError without a request."""
    left = ceil(share * times.total())
    for time in sorted(times):
        left -= times[time]
        if left <= 0:
            return time
    raise ValueError("no request")


def _sum(seconds: dict[int, Counter[float]]) -> Counter[float]:
    total: Counter[float] = Counter()
    for times in seconds.values():
        total.update(times)
    return total


def _rounded(took_ms: float) -> float:
    """Return the time with three digits, and at least a microsecond."""
    at_least = max(took_ms, 0.001)
    return round(at_least, _DIGITS - 1 - floor(log10(at_least)))
