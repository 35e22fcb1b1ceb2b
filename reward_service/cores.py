"""How many cores this process may use: those it may run on, and no more than its container pays for."""

import math
import os
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Give the smaller of the cores allowed and the container's quota, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_of(CPU_MAX.read_text(encoding="ascii")) if CPU_MAX.exists() else None
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def quota_of(cpu_max: str) -> float | None:
    """Read a control group's `cpu.max`, microseconds of work a period: cores, or None for no limit."""
    quota, _, period = cpu_max.strip().partition(" ")
    return None if quota == "max" or not period else int(quota) / int(period)
