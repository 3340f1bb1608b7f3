"""How this process keeps its memory."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
KEPT_BELOW = 2**30  # bytes


def reuse_memory() -> bool:
    """Let the C library keep freed blocks for the next step, instead of returning them to the system.

    A step's gradients are blocks of some 40 MB, which glibc maps afresh each time, so that the system clears
    every page of them again: a quarter of the time of writing them. The peak of memory stays what it is.
    Returns whether the C library has such a setting (glibc does; others are left as they are).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, KEPT_BELOW) and mallopt(M_TRIM_THRESHOLD, KEPT_BELOW))
