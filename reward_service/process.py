"""Tune this process for the machine: usable cores, thread priorities, memory allocator, OpenMP."""

import contextlib
import ctypes
import gc
import math
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
NICENESS = 5
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
KEPT_BYTES = 1 << 30
"""A batch's intermediate results are megabytes each."""


def usable_cores() -> int:
    """Give the smaller of the cores allowed and the container's quota, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_of(CPU_MAX.read_text(encoding="ascii")) if CPU_MAX.exists() else None
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def quota_of(cpu_max: str) -> float | None:
    """Read a control group's `cpu.max`, microseconds of work a period: cores, or None for no limit."""
    quota, _, period = cpu_max.strip().partition(" ")
    return None if quota == "max" or not period else int(quota) / int(period)


def low_priority_executor(name: str) -> ThreadPoolExecutor:
    """Make a thread to compute on, which lets those that answer run first where cores are short.

    Threads that it starts, such as an engine's own, do the same. Linux alone has priorities of threads.
    """
    return ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_step_back)


def _step_back() -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def tune_malloc() -> None:
    """Let glibc's malloc keep what is freed. It gives large blocks back at once, and each page is zeroed anew.

    That took torch a twentieth of its time and more. Other allocators are left as they are.
    """
    if libc := _glibc():
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def freeze_and_trim_heap() -> None:
    """Give back what nobody has any more, and let no later collection look at what is left: that is all of torch.

    It was looked through every few requests: two fifths of what a small one cost.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    with contextlib.suppress(OSError, AttributeError):
        if sys.platform == "linux":
            libc = ctypes.CDLL(None)
            libc.gnu_get_libc_version  # noqa: B018 - musl has none
            return libc
    return None
