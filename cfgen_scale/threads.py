"""Compiled loops shared among as many threads as PyTorch uses."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


def in_parts(n: int, work: Callable[[int, int, int], object]) -> None:
    """Call ``work(part, first, last)`` for parts of 0 .. n, at most one for each thread that PyTorch uses.

    The calls run at once, so far as they release the GIL; this thread does the first. What a loop sums within
    parts depends on the number of threads in its last bits, as PyTorch's own sums do.
    """
    n_parts = max(1, min(torch.get_num_threads(), n))
    bounds = [n * part // n_parts for part in range(n_parts + 1)]
    others = [
        _pool(n_parts - 1, os.getpid()).submit(work, part, bounds[part], bounds[part + 1])
        for part in range(1, n_parts)
    ]
    work(0, bounds[0], bounds[1])
    for other in others:
        other.result()


@cache
def _pool(n_threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that live as long as the process; a fork has none of its parent's."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="compiled loops")
