"""Find out how many CPUs this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def available_cpus(cgroups: Path = _CGROUPS) -> int:
    """Return how many CPUs the machine and the container allow this process to use, at least one.

    A limit of one and a half CPUs counts as two, so that the half is not left idle.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = _share(cgroups)
    return max(1, cores if share is None else min(cores, math.ceil(share)))


def _share(cgroups: Path) -> float | None:
    """Return the CPU limit of this control group (version 2 or 1) in CPUs, or None without a limit."""
    try:
        quota, period = (cgroups / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us, period_us = (
            int((cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
        )
        return quota_us / period_us if quota_us > 0 and period_us > 0 else None
    except (OSError, ValueError):
        return None
