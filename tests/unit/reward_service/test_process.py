import gc
import resource
import weakref

import numpy as np
import pytest

from reward_service.process import _glibc, freeze_and_trim_heap, tune_malloc

needs_glibc = pytest.mark.skipif(_glibc() is None, reason="another allocator")
BLOCK_BYTES, PAGE_BYTES = 8_000_000, resource.getpagesize()


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()


class Node:
    """Something that holds itself, as a model's modules do."""

    def __init__(self):
        self.me = self


def test_what_nobody_has_any_more_is_freed_though_it_was_settled_before():
    node = Node()
    freeze_and_trim_heap()
    gone = weakref.ref(node)
    del node
    gc.collect()
    assert gone() is not None, "a settled heap is not looked through"
    freeze_and_trim_heap()
    assert gone() is None


def test_what_is_left_is_looked_through_no_more():
    freeze_and_trim_heap()
    assert gc.get_freeze_count() > 10 * len(gc.get_objects())


@needs_glibc
def test_a_block_that_was_freed_is_used_again_as_it_is():
    tune_malloc()

    def pages_zeroed(times):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(times):
            np.ones(BLOCK_BYTES, dtype=np.uint8)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    pages_zeroed(2)
    assert pages_zeroed(20) < BLOCK_BYTES / PAGE_BYTES
