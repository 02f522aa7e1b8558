"""What is shown: tables, the plot, and docs/performance.md, which is made from the published result."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from msgspec import structs

from bench import markdown, plot, publish, results, tables
from bench.loads import LOADS, SWEEP
from bench.subjects import LABELS, SUBJECTS
from tests.unit.bench.conftest import a_result, a_run, a_series

if TYPE_CHECKING:
    from pathlib import Path

    from bench.results import Result

_SVG = "{http://www.w3.org/2000/svg}"


# ---- tables ----


def test_a_table_is_aligned() -> None:
    """Text to the left, numbers to the right, in Markdown and in a terminal."""
    assert markdown.table(["Name", "n"], [["a", "1,000"], ["longer", "2"]]) == (
        "| Name   |     n |\n| ------ | ----: |\n| a      | 1,000 |\n| longer |     2 |"
    )


def _cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "---" not in line]


def test_a_load_is_compared_within_rounds() -> None:
    """The medians are 300 and 200 requests per second, and the ratio of the rounds is 2."""
    result = a_result([a_series("memory", 200, 400), a_series("fastapi", 100, 300), a_series("lmdb", 1, load="POST")])
    header, memory, fastapi = _cells(tables.load_table(result, "GET"))
    assert header == ["Served by", "requests/s", "x FastAPI sample", *header[3:6], "CPU µs", "spread"]
    assert memory == [LABELS["memory"], "300", "1.67", "1.0", "2.0", "3.0", "100", "67 %"]
    assert fastapi[2] == "1.00"


def test_a_load_without_the_sample_is_not_compared() -> None:
    """The other columns are shown."""
    assert _cells(tables.load_table(a_result([a_series("memory", 200)]), "GET"))[1][1:3] == ["200", "-"]


def test_lost_adds_are_shown(result: Result) -> None:
    """All rounds together, and only where a subject has lost some."""
    rows = _cells(tables.load_table(result, "hot cart"))
    assert [row[-1] for row in rows] == ["lost", *["0"] * (len(rows) - 2), "14"]
    assert _cells(tables.load_table(result, "GET"))[0][-1] == "spread"


def test_the_cpu_time_of_a_stores_server_is_shown_apart(result: Result) -> None:
    """As a second number."""
    shown = {row[0]: row[6] for row in _cells(tables.load_table(result, "GET"))}
    assert shown[LABELS["valkey"]] == "100 + 20"
    assert shown[LABELS["memory"]] == "100"


def test_connections_have_a_column_each(result: Result) -> None:
    """Those of the sweep, and the usual number between them."""
    header, *rows = _cells(tables.connections_table(result))
    assert header[1:] == ["1 connection", *(f"{n} connections" for n in (4, 16, 64, 256))]
    assert {cell for row in rows for cell in row[1:]} == {"1,100 (2.0 ms)"}
    assert LABELS["bare"] not in {row[0] for row in rows}


def test_telemetry_shows_what_each_part_adds(result: Result) -> None:
    """A line is added to ids; a run without telemetry has a sentence instead, and nothing in the report."""
    assert [row[1:] for row in _cells(tables.telemetry_table(result))] == [
        ["CPU µs", "added"],
        ["100.0", "-"],
        ["104.0", "4.0"],
        ["116.0", "16.0"],
        ["130.0", "26.0"],
    ]
    assert tables.telemetry_table(a_result([])) == "Not measured in this run."
    assert tables.telemetry_table(result) in tables.report(result)
    assert "telemetry" not in tables.report(a_result([]))


def test_the_report_has_everything(result: Result) -> None:
    """Each load, and what made the run noisy or incomplete."""
    text = tables.report(result)
    assert [load.what for load in LOADS if load.what not in text] == []
    assert "differ by 18 %, and of the least steady one by 18 %" in text
    assert "load average was 0.5" in text
    assert "1.2 % of the CPU time was stolen" in text
    missing = tables.conditions(a_result([], missing={"fastapi": "FastAPI cannot be installed: no network"}))
    assert "Not measured: FastAPI sample, dict, because FastAPI cannot be installed: no network." in missing


def test_an_incomplete_run_is_reported() -> None:
    """Without some subjects and sizes."""
    assert "not measured" in tables.report(a_result([a_series("memory", 1)]))
    assert "not measured" in tables.report(a_result([]))


# ---- the plot ----


def _drawn(result: Result) -> ET.Element:
    return ET.fromstring(plot.draw(result))  # noqa: S314 - our own text


def test_every_figure_has_a_bar_within_the_picture(result: Result) -> None:
    """One per load, subject and column; the longest leaves room for its number."""
    svg = _drawn(result)
    bars = [each for each in svg.iter(f"{_SVG}rect") if each.get("class", "").startswith("bar ")]
    series = [each for each in result.series if each.connections == 16]
    assert len(bars) == 3 * len(series)
    assert max(float(bar.attrib["x"]) + float(bar.attrib["width"]) for bar in bars) < float(svg.attrib["width"]) - 60
    height = float(svg.attrib["height"])
    assert max(float(each.attrib["y"]) for each in svg.iter() if "y" in each.attrib) < height
    assert svg.attrib["viewBox"] == f"0 0 960 {svg.attrib['height']}"


def test_bars_are_proportional() -> None:
    """Half as many requests, half as long."""
    svg = _drawn(a_result([a_series("memory", 500), a_series("fastapi", 1_000)]))
    widths = [float(each.attrib["width"]) for each in svg.iter(f"{_SVG}rect") if "bar" in each.get("class", "")]
    assert widths[0] == pytest.approx(widths[1] / 2, abs=0.1)


def test_curves_are_drawn_for_several_numbers_of_connections(result: Result) -> None:
    """One per subject that has the load; without a sweep, none."""
    curves = list(_drawn(result).iter(f"{_SVG}polyline"))
    assert len(curves) == len([subject for subject in SUBJECTS if not subject.loads])
    assert {len(curve.attrib["points"].split()) for curve in curves} == {len(SWEEP) + 1}
    assert list(_drawn(a_result([a_series("memory", 1, load="storefront")])).iter(f"{_SVG}polyline")) == []


def test_labels_of_curves_do_not_overlap(result: Result) -> None:
    """Although all curves end at the same point."""
    names = [each for each in _drawn(result).iter(f"{_SVG}text") if each.get("class", "").startswith("name ")]
    heights = sorted(float(each.attrib["y"]) for each in names)
    assert min(below - above for above, below in pairwise(heights)) >= 15


def test_every_subject_has_a_colour_in_light_and_dark() -> None:
    """The picture brings its own background for both."""
    style = _drawn(a_result([])).find(f"{_SVG}style")
    assert style is not None
    light, dark = f"{style.text}".split("prefers-color-scheme: dark")
    for part in (light, dark):
        assert set(re.findall(r"\.([\w-]+) { --ink", part)) == set(LABELS)
        assert "--back:" in part


def test_text_is_escaped() -> None:
    """A subject that is no longer known is shown by its name."""
    assert "a &lt; b" in plot.draw(a_result([a_series("a < b", 1)]))


# ---- results and the page ----


def test_a_result_is_read_as_it_was_written(result: Result, tmp_path: Path) -> None:
    """Every figure."""
    path = tmp_path / "new" / "result.json"
    results.write(result, path)
    assert results.read(path) == result
    assert path.read_text().endswith("}\n")


def test_a_round_has_plain_numbers() -> None:
    """Lost adds are counted, not measured."""
    assert a_run().lost == 0


def test_blocks_of_a_page_are_filled(result: Result) -> None:
    """Their text is replaced, and nothing else; again, nothing changes."""
    page = "before\n<!-- bench: goals -->\nold\n<!-- end -->\nafter\n<!-- bench: get -->\n<!-- end -->\n"
    filled = publish.fill(page, result)
    assert filled.startswith(f"before\n<!-- bench: goals -->\n{tables.goals_table(result)}\n<!-- end -->\nafter\n")
    assert "old" not in filled
    assert publish.fill(filled, result) == filled
    with pytest.raises(KeyError):
        publish.fill("<!-- bench: no such -->\n<!-- end -->", result)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with one block, which is published into together with the files next to it."""
    page = tmp_path / "performance.md"
    page.write_text("<!-- bench: goals -->\n<!-- end -->\n")
    monkeypatch.setattr(publish, "PAGE", page)
    monkeypatch.setattr(results, "PUBLISHED", tmp_path / "published.json")
    return page


@pytest.mark.parametrize("part", [{"mode": "quick"}, {"missing": {"fastapi": "no network"}}])
def test_a_part_of_a_run_is_not_published(part: dict[str, Any], result: Result, page: Path) -> None:
    """Nothing is written."""
    results.write(structs.replace(result, **part), page.with_name("quick.json"))
    with pytest.raises(SystemExit, match=r"quick\.json is not of a full run"):
        publish.main(page.with_name("quick.json"))
    assert not results.PUBLISHED.exists()


def test_a_full_run_is_published(result: Result, page: Path) -> None:
    """As JSON, as a plot and in the page."""
    results.write(result, page.with_name("full.json"))
    publish.main(page.with_name("full.json"))
    assert results.read(page.with_name("published.json")) == result
    assert page.with_name("published.svg").read_text() == plot.draw(result)
    assert tables.goals_table(result) in page.read_text()


def test_the_page_shows_the_published_result() -> None:
    """docs/performance.md has every block, each as the published result has it; so has the plot.

    ``python -m bench.publish bench/results/published.json`` writes both again.
    """
    published, page = results.read(results.PUBLISHED), publish.PAGE.read_text()
    assert sorted(re.findall(r"<!-- bench: (.+?) -->", page)) == sorted(publish.BLOCKS)
    assert publish.fill(page, published) == page
    assert results.PUBLISHED.with_suffix(".svg").read_text() == plot.draw(published)


def test_the_published_result_is_complete() -> None:
    """A full run, with every load and without a missing peer. A new subject may be absent until the next full run."""
    published = results.read(results.PUBLISHED)
    measured = {(each.load, each.connections, each.subject) for each in published.series}
    assert (published.mode, published.missing) == ("full", {})
    assert {"memory", "bare", "fastapi"} <= {subject for _, _, subject in measured} <= set(LABELS)
    assert {(load, connections) for load, connections, _ in measured} == {
        (load.name, load.connections) for load in (*LOADS, *SWEEP)
    }
    assert {len(each.runs) for each in published.series} == {published.rounds}
