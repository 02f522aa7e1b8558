"""``python -m bench.publish``: make the last full run the published one, and write it into docs/performance.md.

The page has blocks between ``<!-- bench: NAME -->`` and ``<!-- end -->``, which this program fills.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench import estimate, results, tables
from bench.loads import GET, GET_500, HOT, POST, STOREFRONT
from bench.plot import draw
from bench.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.loads import Load
    from bench.results import Result

PAGE = ROOT / "docs" / "performance.md"
_BLOCK = re.compile(r"(<!-- bench: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _of(load: Load) -> Callable[[Result], str]:
    return lambda result: tables.load_table(result, load.name)


BLOCKS: dict[str, Callable[[Result], str]] = {
    "conditions": tables.conditions,
    "goals": tables.goals_table,
    "get": _of(GET),
    "post": _of(POST),
    "storefront": _of(STOREFRONT),
    "many items": _of(GET_500),
    "hot cart": _of(HOT),
    "connections": tables.connections_table,
    "sizes": tables.sizes_table,
    "telemetry": tables.telemetry_table,
    "split": estimate.split,
    "one machine": estimate.one_machine,
    "many machines": estimate.many_machines,
}


def fill(page: str, result: Result) -> str:
    """Return the page with its blocks filled. Raises KeyError if it has a block of another name."""
    return _BLOCK.sub(lambda found: f"{found[1]}{BLOCKS[found[2]](result)}\n{found[3]}", page)


def main(path: Path) -> None:
    """Publish the result in this file."""
    result = results.read(path)
    if result.mode != "full" or result.missing:
        sys.exit(f"bench.publish: {path.name} is not of a full run with all peers")
    page = fill(PAGE.read_text(encoding="utf-8"), result)
    results.write(result, results.PUBLISHED)
    results.PUBLISHED.with_suffix(".svg").write_text(draw(result), encoding="utf-8")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else results.FOLDER / "full.json")
