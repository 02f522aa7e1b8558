"""Alerts and dashboard of deploy: they name metrics, labels and values that exist, and docs/alerts.md explains them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cartsvc.api.problems import PROBLEM_BY_ERROR, PROBLEM_BY_STATUS
from tests.support.metric_names import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).parents[2]
_PROMETHEUS = _ROOT / "deploy" / "prometheus"
_RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((_PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
_DASHBOARD: dict[str, Any] = json.loads((_ROOT / "deploy" / "grafana" / "cartsvc.json").read_text())
_RUNBOOK = (_ROOT / "docs" / "alerts.md").read_text()
_OF_PROMETHEUS = {"job", "instance"}  # labels that a scrape adds
_SERIES = {**NAMES, "up": ()}
_SERIES["db_client_operation_duration_seconds_bucket"] = (
    *NAMES["db_client_operation_duration_seconds_count"],
    "le",
)
_SERIES = {name: {*labels} | _OF_PROMETHEUS for name, labels in _SERIES.items()}
_VALUES = {
    "type": {kind.slug for kind in (*PROBLEM_BY_ERROR.values(), *PROBLEM_BY_STATUS.values())},
    "reason": {"boot", "recycled", "killed"},
    "db_operation_name": {"get", "update", "delete", "purge_expired", "ping"},
    "http_route": {"/cart.*"},
    "http_response_status_code": {"5.."},
}
_FUNCTIONS = {
    *("absent", "count", "histogram_quantile", "increase", "max", "min", "rate", "sum", "vector"),
    *("by", "offset", "or", "unless"),
}


def _panels() -> list[dict[str, Any]]:
    return [panel for panel in _DASHBOARD["panels"] if panel["type"] != "row"]


def _expressions() -> Iterator[tuple[str, str]]:
    """Yield where each expression is, and its text."""
    for rule in _RULES:
        yield rule["alert"], rule["expr"]
    for panel in _panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def _selectors(expression: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each series that an expression selects, with the values of its labels."""
    for name, matchers in re.findall(r"\b([a-z_]{2,})\{(.*?)\}(?=[\[\s)]|$)", expression):
        yield name, dict(re.findall(r'(\w+)(?:=~|!=|!~|=)"(.*?)"', matchers))


_each_expression = pytest.mark.parametrize(("place", "expression"), list(_expressions()))


@_each_expression
def test_every_series_exists(place: str, expression: str) -> None:
    """Each word of an expression is a function, a series with its labels, or a label to group by."""
    selected = list(_selectors(expression))
    assert selected, place
    for name, labels in selected:
        assert name in _SERIES
        assert set(labels) - _SERIES[name] == set()
        assert "job" in labels
        for label in {*labels} & {*_VALUES}:
            assert set(labels[label].split("|")) - _VALUES[label] == set()
    bare = re.sub(r'"[^"]*"|\[.*?\]', "", expression)
    grouped = {label for group in re.findall(r"\bby \((.*?)\)", bare) for label in group.split(", ")}
    known = {label for name, _ in selected for label in _SERIES[name]}
    assert grouped - known == set()
    words = set(re.findall(r"\b[a-z_]{2,}\b", re.sub(r"\{.*?\}", "", bare)))
    assert words - _FUNCTIONS - {name for name, _ in selected} - grouped == set()


def test_what_expressions_select_is_found() -> None:
    """Each series with its labels, with a range, an offset or neither behind it."""
    found = list(
        _selectors('sum by (job) (rate(a_total{job="x", type=~"b|c"}[5m])) / dd{job!="y"} unless e_f{} offset 1m')
    )
    assert found == [("a_total", {"job": "x", "type": "b|c"}), ("dd", {"job": "y"}), ("e_f", {})]


# ---- alerts ----


def test_every_alert_is_explained() -> None:
    """docs/alerts.md has one heading for each alert, in their order; each alert links to its own."""
    names = [rule["alert"] for rule in _RULES]
    assert re.findall(r"^## (Cartsvc\w+)$", _RUNBOOK, re.MULTILINE) == names
    links = [rule["annotations"]["runbook"] for rule in _RULES]
    assert links == [f"docs/alerts.md#{name.lower()}" for name in names]
    assert {rule["labels"]["severity"] for rule in _RULES} == {"page", "ticket"}


def test_every_alert_states_what_the_page_states() -> None:
    """Under each heading: whether it pages, and what to do."""
    sections = re.split(r"^## ", _RUNBOOK, flags=re.MULTILINE)
    for rule in _RULES:
        (section,) = [each for each in sections if each.startswith(f"{rule['alert']}\n")]
        severity = {"page": "**Page.**", "ticket": "**Ticket.**"}[rule["labels"]["severity"]]
        assert section.splitlines()[2].startswith(severity), rule["alert"]
        assert re.search(r"^\d\. |^- ", section, re.MULTILINE), rule["alert"]


def test_every_alert_is_tested() -> None:
    """alerts_test.yml, which promtool runs, lets each alert fire, and all of them be silent."""
    tests = yaml.safe_load((_PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    fired = {each["alertname"] for test in tests for each in test.get("alert_rule_test", []) if each.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in _RULES}
    assert [each["expr"] for test in tests for each in test.get("promql_expr_test", [])] == ["count(ALERTS)"]
    series = {each["series"] for test in tests for each in test["input_series"]}
    for each in series:
        ((name, labels),) = _selectors(each)
        assert set(labels) == _SERIES[name], each


# ---- dashboard ----


def test_the_dashboard_shows_every_metric() -> None:
    """Each metric is in a panel."""
    shown = {name for panel in _panels() for target in panel["targets"] for name, _ in _selectors(target["expr"])}
    assert set(NAMES) | {"up"} | {"db_client_operation_duration_seconds_bucket"} == shown


def test_the_dashboard_fits_any_prometheus() -> None:
    """Each panel takes its data source, its job and its servers from the variables."""
    variables = {each["name"]: each for each in _DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in _panels():
        assert {str(each["datasource"]) for each in (panel, *panel["targets"])} == {str(source)}
        for target in panel["targets"]:
            for name, labels in _selectors(target["expr"]):
                assert (labels["job"], labels["instance"]) == ("$job", "$instance"), name


def test_the_panels_have_room() -> None:
    """Ids are unique, no panel covers another one, and the rows are full."""
    assert max(Counter(panel["id"] for panel in _DASHBOARD["panels"]).values()) == 1
    cells = Counter(
        (x, y)
        for place in (panel["gridPos"] for panel in _DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    height = max(y for _, y in cells) + 1
    assert cells == Counter({(x, y): 1 for x in range(24) for y in range(height)})


# ---- syntax ----


def test_expressions_are_well_formed(tmp_path: Path) -> None:
    """Promtool parses all of them; without promtool, which the summary then reports, only the brackets are checked."""
    texts = [re.sub(r"\$__rate_interval", "5m", expression) for _, expression in _expressions()]
    promtool = shutil.which("promtool")
    if promtool is None:
        bare = [re.sub(r'"[^"]*"', "", text) for text in texts]
        assert [
            text for text in bare for pair in ("()", "[]", "{}") if text.count(pair[0]) != text.count(pair[1])
        ] == []
        return
    rules = [{"record": f"expression:{number}", "expr": text} for number, text in enumerate(texts)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    ended = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
