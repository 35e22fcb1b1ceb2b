import gc
import resource
import weakref

import numpy as np
import pytest

from reward_service.process import _glibc, freeze_and_trim_heap, tune_malloc

needs_glibc = pytest.mark.skipif(_glibc() is None, reason="another allocator")
BLOCK_BYTES, PAGE_BYTES = 8_000_000, resource.getpagesize()


@pytest.fixture(autouse=True)
def unfreeze():
    yield
    gc.unfreeze()


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
