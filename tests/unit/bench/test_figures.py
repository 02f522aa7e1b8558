"""What is computed: ratios and spreads, CPU times from /proc, wrk's figures, goals, estimates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench import estimate, proc, wrk
from bench.goals import Goal, goals
from bench.processes import Broken
from bench.ratios import ratio, spread
from bench.results import Telemetry
from tests.unit.bench.conftest import a_result, a_series, a_size

if TYPE_CHECKING:
    from pathlib import Path

    from bench.results import Result


# ---- ratios ----


def test_a_ratio_is_computed_within_each_round() -> None:
    """A slow machine halves both of the second round, which leaves the ratio as it is."""
    assert ratio([200, 100, 210], [100, 50, 100]) == 2
    assert ratio([10, 1, 1], [1, 1, 10]) == 1
    assert ratio([10, 20, 60], [10, 10, 20]) == 2  # medians: 20 / 10; rounds: 1, 2, 3
    assert ratio([30, 20, 10], [10, 20, 30]) == 1


def test_a_ratio_without_a_base_is_none() -> None:
    """Neither without rounds, nor with a base of 0; different numbers of rounds are an error."""
    assert ratio([], []) is None
    assert ratio([1, 1], [1, 0]) is None
    with pytest.raises(ValueError, match="shorter"):
        ratio([1, 2], [1])


def test_the_spread_is_a_share_of_the_median() -> None:
    """From the lowest to the highest round."""
    assert spread([90, 100, 130]) == 0.4
    assert spread([5]) == 0
    assert spread([]) == 0


# ---- /proc ----


def _process(proc_dir: Path, pid: int, parent: int, *ticks: int, name: str = "python") -> None:
    fields = ["S", str(parent), *["0"] * 9, *map(str, ticks), "20", "0"]
    (proc_dir / str(pid)).mkdir()
    (proc_dir / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")


def test_cpu_time_is_that_of_the_whole_tree(tmp_path: Path) -> None:
    """User and system time of a process, its descendants, and those that have ended; no other process."""
    second = round(1 / proc.cpu_seconds(1, _tick(tmp_path)))
    _process(tmp_path, 10, 1, 1 * second, 2 * second, 3 * second, 4 * second)
    _process(tmp_path, 30, 20, 100 * second, 0, 0, 0)
    _process(tmp_path, 20, 10, 0, 10 * second, 0, 0, name="a (b) c")
    _process(tmp_path, 40, 2, 1000 * second, 0, 0, 0)
    (tmp_path / "50").mkdir()  # has ended while it was read
    assert proc.cpu_seconds(10, tmp_path) == 120
    assert proc.cpu_seconds(20, tmp_path) == 110
    assert proc.cpu_seconds(99, tmp_path) == 0


def _tick(tmp_path: Path) -> Path:
    """Return a folder in which process 1 has used one tick of CPU time."""
    folder = tmp_path / "tick"
    folder.mkdir()
    _process(folder, 1, 0, 1, 0, 0, 0)
    return folder


def test_this_process_has_used_cpu_time() -> None:
    """The real /proc has the form that is expected."""
    assert proc.cpu_seconds(1) >= 0
    assert proc.cpu_times().total > 0
    assert isinstance(proc.cpu_model(), str)


def test_stolen_time_is_a_share_of_all_time(tmp_path: Path) -> None:
    """Of the time between two readings; guests' time is within user time, so it is not added again."""
    (tmp_path / "stat").write_text("cpu  10 0 10 70 0 0 0 10 5 5\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    before = proc.cpu_times(tmp_path)
    (tmp_path / "stat").write_text("cpu  20 0 20 130 0 0 0 30 9 9\n")
    assert before == (100, 10)
    assert proc.cpu_times(tmp_path).steal_percent_since(before) == 20
    assert before.steal_percent_since(before) == 0


def test_the_cpu_has_a_name(tmp_path: Path) -> None:
    """Empty on processors that have none."""
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A CPU: 2 GHz\n")
    assert proc.cpu_model(tmp_path) == "A CPU: 2 GHz"
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n")
    assert proc.cpu_model(tmp_path) == ""


# ---- wrk ----


def test_the_figures_of_wrk_are_read() -> None:
    """From the last line; times arrive in microseconds."""
    found = wrk.parse("Running 2s test\nbench is no figure\nbench 3000 1500000 1000 2500 40000 0 0 0\n")
    assert found == (3000, 1.5, 1.0, 2.5, 40.0)


@pytest.mark.parametrize("failures", ["1 0 0", "0 1 0", "0 0 1"])
def test_a_failed_request_is_an_error(failures: str) -> None:
    """A rejected one, a broken connection, no response in time: a load that fails costs less than one that works."""
    with pytest.raises(Broken, match="3000 responses"):
        wrk.parse(f"\nbench 3000 1500000 1000 2500 40000 {failures}\n")


def test_no_figures_are_an_error() -> None:
    """No responses at all, or no line."""
    with pytest.raises(Broken, match="0 responses"):
        wrk.parse("\nbench 0 1500000 0 0 0 0 0 0\n")
    with pytest.raises(Broken, match="unable to connect"):
        wrk.parse("unable to connect")


# ---- goals ----


def _outcomes(result: Result) -> dict[str, str]:
    return {goal.what: goal.outcome for goal in goals(result)}


def test_a_goal_is_met_at_its_bound() -> None:
    """A minimum from below, a maximum from above."""
    assert [Goal("x", value, 1.5, is_minimum=True).outcome for value in (1.4, 1.5, 1.6)] == ["missed", "met", "met"]
    assert [Goal("x", value, 1.5).outcome for value in (1.4, 1.5, 1.6)] == ["met", "met", "missed"]
    assert Goal("x", None, 1.5).outcome == "not measured"


def test_goals_compare_the_default_with_its_peers() -> None:
    """Twice the sample's GETs, and half of the bare app's."""
    found = _outcomes(
        a_result([a_series("memory", 200, 400), a_series("fastapi", 100, 200), a_series("bare", 400, 800)])
    )
    assert found["GET: requests per second, as a multiple of the FastAPI sample's"] == "met"
    assert found["GET: requests per second, as a share of the bare app's"] == "missed"
    assert found["GET: CPU per request, as a multiple of the FastAPI sample's"] == "met"
    assert found["POST: requests per second, as a multiple of the FastAPI sample's"] == "not measured"


def test_cpu_time_of_a_stores_server_counts(result: Result) -> None:
    """The sum decides."""
    assert result.runs("valkey", "GET", 16)[0].total_cpu_us == 120
    assert result.runs("valkey", "GET", 2) == []


def test_growth_is_measured_between_the_ends() -> None:
    """From the fewest to the most carts; a single size has no growth."""
    sizes = [a_size(1_000, 2_000, 12, 24), a_size(10, 500, 10, 20), a_size(100, 600, 99, 99)]
    found = {goal.what: goal for goal in goals(a_result([], sizes))}
    growth = found["CPU of a get of the store: growth from 10 to 1,000 carts"]
    assert (growth.measured, growth.outcome) == (1.2, "missed")
    assert found["bytes per cart of 5 items in memory"].measured == 2_000
    (get, *_) = [goal for goal in goals(a_result([], sizes[:1])) if goal.what.startswith("CPU of")]
    assert get.outcome == "not measured"


def test_telemetry_is_compared_within_each_round() -> None:
    """The second round was slow for all; the budget is that of the difference."""
    rounds = [
        Telemetry(none=100, ids=104, metrics=119, line=130),
        Telemetry(none=200, ids=204, metrics=220, line=230),
        Telemetry(none=100, ids=105, metrics=150, line=129),
    ]
    found = {goal.what: goal for goal in goals(a_result([], telemetry=rounds))}
    metrics, line = (
        found[f"CPU of {what}, µs per request"] for what in ("request ids and metrics", "a line of the log")
    )
    assert (metrics.measured, metrics.outcome) == (20, "met")
    assert (line.measured, line.outcome) == (26, "missed")
    assert {goal.outcome for goal in goals(a_result([]))} == {"not measured"}


# ---- estimates ----


def test_estimates_show_their_arithmetic(result: Result) -> None:
    """100 us a request, 10 us a write that takes turns, 20 us in Valkey."""
    one = estimate.one_machine(result)
    assert "1,000,000 / 100 = 10,000" in one
    assert "16 x 10,000 x 0.7 = 112,000" in one
    assert "35 % of the requests are writes of 10.0 µs" in one
    many = estimate.many_machines(result)
    assert "16 x 1,000,000 / 100 x 0.7 = 112,000" in many
    assert "1,000,000 / 20 x 0.7 = 35,000" in many
    assert "enough for 0.3 of the machines" in many
    assert "1,120,000 / 35,000, rounded up, is 32 primaries" in many


def test_the_parts_of_a_request_add_up(result: Result) -> None:
    """100 us in all, as much as the bare app: none are left but the store's."""
    assert estimate.split(result).splitlines()[2].split("|")[1:-1] == [
        " GET     ",
        "    100 ",
        "    100 ",
        "                       -10 ",
        "    10 ",
    ]
