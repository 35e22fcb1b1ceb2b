"""Tune this process for the machine: usable cores, thread priorities, memory allocator, garbage collector, OpenMP."""

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
MALLOC_THRESHOLD_BYTES = 1 << 30
"""Above the size of any intermediate result of a batch, which are megabytes each."""


def usable_cores() -> int:
    """Return the number of usable cores: the CPU affinity or the container's CPU quota, whichever is smaller."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = parse_cpu_quota(CPU_MAX.read_text(encoding="ascii")) if CPU_MAX.exists() else None
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def parse_cpu_quota(cpu_max: str) -> float | None:
    """Return the cores that a control group's `cpu.max` (quota and period in microseconds) allows; None: no limit."""
    quota, _, period = cpu_max.strip().partition(" ")
    return None if quota == "max" or not period else int(quota) / int(period)


def configure_openmp(threads: int) -> None:
    """Set OpenMP's environment variables. Call it before torch is imported.

    Threads that spin for long take the core of the event loop, or of the thread they wait for; threads that do not spin
    at all add their wake-up time to every layer.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def low_priority_executor(name: str) -> ThreadPoolExecutor:
    """Return an executor of one compute thread, which yields to the event loop when cores are short.

    Threads that it starts, such as an engine's own, inherit the priority. Only Linux has priorities per thread.
    """
    return ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_lower_priority)


def _lower_priority() -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def tune_malloc() -> None:
    """Make glibc's malloc keep freed memory: it returns large blocks at once, and the kernel zeroes each page again.

    That took 5 % of torch's time or more, and half of the time of parsing a large body. Other allocators are left as
    they are.
    """
    if libc := _glibc():
        libc.mallopt(M_MMAP_THRESHOLD, MALLOC_THRESHOLD_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, MALLOC_THRESHOLD_BYTES)


def freeze_and_trim_heap() -> None:
    """Free what is unreachable, and exclude the rest, all of torch, from later garbage collections (`gc.freeze`).

    Collections every few requests took 40 % of the time of a small request.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    trim_heap()


def trim_heap() -> None:
    """Return freed memory to the system."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    with contextlib.suppress(OSError, AttributeError):
        if sys.platform == "linux":
            libc = ctypes.CDLL(None)
            libc.gnu_get_libc_version  # noqa: B018 - musl has none
            return libc
    return None
