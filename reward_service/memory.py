"""What becomes of memory: what a batch frees is kept for the next one, what a reward frees is given back."""

import contextlib
import ctypes
import gc
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
KEPT_BYTES = 1 << 30
"""A batch's intermediate results are megabytes each."""


def keep_freed() -> None:
    """Let glibc's malloc keep what is freed. It gives large blocks back at once, and each page is zeroed anew.

    That took torch a twentieth of its time and more. Other allocators are left as they are.
    """
    if libc := _glibc():
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def settle_heap() -> None:
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
