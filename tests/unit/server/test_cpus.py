"""How many cores there are to use: those of the process, and the time that its container has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cartsvc.server.cpus import available_cpus

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may run on eight of the machine's cores, which are not the first ones."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(4, 12)), raising=False)


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("100000 100000\n", 1),
        ("5000 100000\n", 1),
        ("3200000 100000\n", 8),
        ("25000 10000\n", 3),
        ("", 8),
        ("soon\n", 8),
        ("many 100000\n", 8),
    ],
)
def test_a_container_of_cgroups_2(tmp_path: Path, text: str, cores: int) -> None:
    """cpu.max: a part of a core counts as a core, no limit leaves the process's own, and nonsense is no limit."""
    (tmp_path / "cpu.max").write_text(text)
    assert available_cpus(tmp_path) == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [
        ("-1", "100000", 8),
        ("0", "100000", 8),
        ("250000", "100000", 3),
        ("50000", "100000", 1),
        ("1600000", "100000", 8),
        ("100000", "0", 8),
        ("100000", None, 8),
    ],
)
def test_a_container_of_cgroups_1(tmp_path: Path, quota: str, period: str | None, cores: int) -> None:
    """cpu.cfs_quota_us: the same, with -1 for no limit."""
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    if period is not None:
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")
    assert available_cpus(tmp_path) == cores


def test_no_container(tmp_path: Path) -> None:
    """Without control groups they are those that the process may run on."""
    assert available_cpus(tmp_path / "absent") == 8


def test_a_system_that_cannot_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody knows on which cores a process may run they are the machine's; and one where not even that is known.

    A container's limit holds there too.
    """
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cpus(tmp_path) == 6
    (tmp_path / "cpu.max").write_text("200000 100000")
    assert available_cpus(tmp_path) == 2
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus(tmp_path) == 1
