"""Large arrays from memory that is used again as soon as nobody refers to the array before.

The arrays of a batch are some tens of megabytes. The system maps such memory afresh for each and clears every
page of it, which takes about as long as to fill it with counts. Decoded chunks are smaller, but come and go
between those arrays, and would leave holes in the memory of the allocator; they are cut from arenas that are
large enough for huge pages, of which a gigabyte takes 512 faults instead of 262,144.
"""

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LEAST_BYTES = 2**16  # smaller arrays are numpy's own: the allocator keeps their memory
MOST_SPARE = 16  # blocks of each size that are kept, of those that are not cut from an arena
ARENA_BYTES = 2**25
ARENA_BELOW = 2**22  # numpy asks for huge pages from here on
STEPS = 8  # sizes of blocks from one power of two to the next


class ReusedMemory:
    """Arrays like those of `numpy.empty`; safe to use from several threads.

    Memory: what was in use at once, rounded up by an eighth at most, and what arenas have left.
    """

    def __init__(self) -> None:
        # Appending and popping of a deque are atomic. A lock would not do: an array may end anywhere, also
        # within the lock.
        self._spare: dict[int, deque[NDArray[np.uint8]]] = {}

    def empty(self, length: int, dtype: DTypeLike) -> NDArray[Any]:
        """An array (length,) of whatever was in memory."""
        dtype = np.dtype(dtype)
        n_bytes = int(length) * dtype.itemsize
        if n_bytes < LEAST_BYTES:
            return np.empty(length, dtype=dtype)
        size = rounded(n_bytes)
        is_cut = size < ARENA_BELOW
        spare = self._spare.setdefault(size, deque(maxlen=None if is_cut else MOST_SPARE))
        try:
            memory = spare.pop()
        except IndexError:
            arena = np.empty(ARENA_BYTES if is_cut else size, dtype=np.uint8)
            memory, *others = (arena[i * size : (i + 1) * size] for i in range(len(arena) // size))
            spare.extend(others)
        return np.frombuffer(_Lent(memory, spare), dtype=dtype, count=length)


class _Lent:
    """Memory that goes back to the spare blocks when the array made of it and all its views are gone."""

    def __init__(self, memory: NDArray[np.uint8], spare: "deque[NDArray[np.uint8]]") -> None:
        self._memory = memory
        self._spare = spare

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(self._memory)

    def __release_buffer__(self, view: memoryview) -> None:
        view.release()
        self._spare.append(self._memory)


def rounded(n_bytes: int) -> int:
    """The size of the block for so many bytes: up to an eighth more."""
    step = 1 << max(n_bytes.bit_length() - STEPS.bit_length(), 0)
    return -(-n_bytes // step) * step


REUSED = ReusedMemory()
