import gc
import platform
import resource
import weakref

import numpy as np
import pytest

from reward_service.process import freeze_and_trim_heap, parse_cpu_quota, tune_malloc, usable_cores

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
BLOCK_BYTES, PAGE_BYTES = 8_000_000, resource.getpagesize()


@pytest.fixture(autouse=True)
def unfreeze():
    yield
    gc.unfreeze()


@pytest.mark.parametrize(("cpu_max", "cores"), [("max 100000\n", None), ("150000 100000", 1.5), ("50000 100000", 0.5)])
def test_cpu_quota(cpu_max, cores):
    """A container's CPU quota is read in cores."""
    assert parse_cpu_quota(cpu_max) == cores


def test_at_least_one_core():
    """There is at least one usable core."""
    assert usable_cores() >= 1


class Cycle:
    """An object that references itself, as a model's modules do."""

    def __init__(self):
        self.me = self


def test_freeze_frees_older_garbage():
    """Freezing again frees what has become unreachable since the last time."""
    cycle = Cycle()
    freeze_and_trim_heap()
    reference = weakref.ref(cycle)
    del cycle
    gc.collect()
    assert reference() is not None, "frozen objects are not collected"
    freeze_and_trim_heap()
    assert reference() is None


def test_frozen_objects_are_not_scanned():
    """What is left after freezing is excluded from garbage collections."""
    freeze_and_trim_heap()
    assert gc.get_freeze_count() > 10 * len(gc.get_objects())


@needs_glibc
def test_freed_blocks_are_reused():
    """Allocating a block again causes no page faults."""
    tune_malloc()

    def page_faults(allocations):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(allocations):
            np.ones(BLOCK_BYTES, dtype=np.uint8)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    page_faults(2)
    assert page_faults(20) < BLOCK_BYTES / PAGE_BYTES
