"""The cores: how many this process may use (no more than its container pays for), and which of its threads go first."""

import contextlib
import math
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
NICENESS = 5


def usable_cores() -> int:
    """Give the smaller of the cores allowed and the container's quota, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_of(CPU_MAX.read_text(encoding="ascii")) if CPU_MAX.exists() else None
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def quota_of(cpu_max: str) -> float | None:
    """Read a control group's `cpu.max`, microseconds of work a period: cores, or None for no limit."""
    quota, _, period = cpu_max.strip().partition(" ")
    return None if quota == "max" or not period else int(quota) / int(period)


def compute_thread(name: str) -> ThreadPoolExecutor:
    """Make a thread to compute on, which lets those that answer run first where cores are short.

    Threads that it starts, such as an engine's own, do the same. Linux alone has priorities of threads.
    """
    return ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_step_back)


def _step_back() -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
