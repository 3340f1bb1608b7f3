"""How this process keeps its memory."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
KEPT_BELOW = 2**30  # bytes
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # PyTorch reads it at its first allocation


def reuse_memory() -> None:
    """Keep freed blocks for the next step instead of returning them to the system; ask for huge pages.

    The gradients of a step are blocks of some 40 MB. glibc maps such blocks afresh each time, and the system
    clears every page of them again: 25 ms for one of 39 MB, which then takes 1.7 ms to write. The peak of
    memory stays what it is. To be called before the first tensor is made; other C libraries than glibc, and
    a setting of the environment, are left as they are.
    """
    os.environ.setdefault(HUGE_PAGES, "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT_BELOW)
        mallopt(M_TRIM_THRESHOLD, KEPT_BELOW)
