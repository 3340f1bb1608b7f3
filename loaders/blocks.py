"""Elements of chunked arrays by place: every chunk is decoded once and kept while there is room.

A random row of a compressed store costs the decoding of a chunk that holds many rows. Decoded chunks
are therefore kept, the least recently used leaving first, within a fixed number of bytes: a small atlas ends
up decoded in memory, a large one costs no more than the budget.
"""

import threading
from collections import OrderedDict
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfgen_scale.types import IntArray

CACHE_BYTES = 256 * 2**20
RUN = 64  # neighbouring chunks fetched by one read
UNCHUNKED_BLOCK = 65_536


class BlockCache:
    """Decoded chunks of several arrays (zarr or HDF5) under one budget; safe to use from several threads."""

    def __init__(self, budget_bytes: int = CACHE_BYTES) -> None:
        self._budget = budget_bytes
        self._bytes = 0
        self._blocks: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._blocks)

    def get(self, key: tuple[str, int]) -> NDArray[Any] | None:
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
            return self._blocks.get(key)

    def put(self, key: tuple[str, int], block: NDArray[Any]) -> None:
        with self._lock:
            if key in self._blocks or block.nbytes > self._budget:
                return
            self._blocks[key] = block
            self._bytes += block.nbytes
            while self._bytes > self._budget:
                self._bytes -= self._blocks.popitem(last=False)[1].nbytes


class BlockArray:
    """One array (n, ...) read along its first axis through a cache. ``name`` is its key in the cache."""

    def __init__(self, array: Any, name: str, cache: BlockCache) -> None:
        self.array = array
        self.dtype = np.dtype(array.dtype)
        self._name = name
        self._cache = cache
        self._block = int(array.chunks[0]) if array.chunks else UNCHUNKED_BLOCK

    def take(self, places: IntArray) -> NDArray[Any]:
        """Elements at ``places`` (m,), which must ascend."""
        out = np.empty((len(places), *self.array.shape[1:]), dtype=self.dtype)
        if not len(places):
            return out
        of_place = places // self._block
        firsts = np.flatnonzero(np.diff(of_place, prepend=-1))
        blocks = of_place[firsts]
        ends = np.append(firsts[1:], len(places))
        for begin, run in _runs(blocks):
            fetched = self._fetch(run)
            for i, block in enumerate(run, start=begin):
                lo, hi = firsts[i], ends[i]
                _take(fetched[int(block)], places[lo:hi] - block * self._block, out[lo:hi])
        return out

    def _fetch(self, blocks: IntArray) -> dict[int, NDArray[Any]]:
        """Neighbouring blocks, those not in the cache by one read from the first to the last of them."""
        found = {int(b): self._cache.get((self._name, int(b))) for b in blocks}
        missing = [b for b, values in found.items() if values is None]
        if missing:
            first = missing[0]
            run = self.array[first * self._block : (missing[-1] + 1) * self._block]
            for b in missing:
                # A copy, so that a block that stays in the cache does not hold the whole run.
                values = run[(b - first) * self._block : (b - first + 1) * self._block].copy()
                self._cache.put((self._name, b), values)
                found[b] = values
        return {b: values for b, values in found.items() if values is not None}


def _runs(blocks: IntArray) -> list[tuple[int, IntArray]]:
    """Runs of consecutive blocks, at most `RUN` long, each with the index of its first."""
    breaks = np.flatnonzero(np.diff(blocks) != 1) + 1
    begins = [0, *breaks.tolist(), len(blocks)]
    return [
        (begin, blocks[begin : min(begin + RUN, end)])
        for start, end in pairwise(begins)
        for begin in range(start, end, RUN)
    ]


def _take(block: NDArray[Any], places: IntArray, out: NDArray[Any]) -> None:
    if places[-1] - places[0] == len(places) - 1:
        out[...] = block[places[0] : places[-1] + 1]
    else:
        np.take(block, places, axis=0, out=out)
