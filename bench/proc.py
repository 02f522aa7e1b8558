"""Read CPU times from /proc."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")  # in a second
_STEAL = 7  # the place of stolen time in the first line of /proc/stat


class _Process(NamedTuple):
    parent: int
    ticks: int


def cpu_seconds(root: int, proc: Path = PROC) -> float:
    """Return the CPU time, user and system, of a process and its descendants, ended ones included; 0 if it has ended.

    A descendant that has ended counts in its parent, which has waited for it.
    """
    processes = {int(path.name): _read(path) for path in proc.glob("[0-9]*")}
    tree, added = {root}, True
    while added:
        found = {pid for pid, each in processes.items() if each and each.parent in tree} - tree
        tree, added = tree | found, bool(found)
    ticks = [each.ticks for pid, each in processes.items() if each and pid in tree]
    return sum(ticks) / _TICKS


def _read(path: Path) -> _Process | None:
    try:
        text = (path / "stat").read_text(errors="replace")
    except OSError:  # it has ended in the meantime
        return None
    fields = text.rpartition(")")[2].split()  # the name in front may contain blanks and brackets
    return _Process(parent=int(fields[1]), ticks=sum(map(int, fields[11:15])))


class CpuTimes(NamedTuple):
    """The CPU time of the whole machine, idle time included, and how much of it other guests of its host took."""

    total: int
    stolen: int

    def steal_percent_since(self, before: CpuTimes) -> float:
        """Return which share of the time since then was stolen."""
        total = self.total - before.total
        return 100 * (self.stolen - before.stolen) / total if total else 0


def cpu_times(proc: Path = PROC) -> CpuTimes:
    """Read the CPU times of the machine."""
    fields = [int(each) for each in (proc / "stat").read_text().splitlines()[0].split()[1:9]]
    return CpuTimes(sum(fields), fields[_STEAL])


def cpu_model(proc: Path = PROC) -> str:
    """Return the name of the processor, or an empty text."""
    lines = [line.partition(":") for line in (proc / "cpuinfo").read_text().splitlines()]
    return next((value.strip() for name, _, value in lines if name.strip() in {"model name", "Processor"}), "")
