"""Elements of chunked arrays by place: every chunk is decoded once and kept while there is room.

A random row of a compressed store costs the decoding of a chunk that holds many rows. Decoded chunks
are therefore kept, the least recently used leaving first, within a fixed number of bytes: a small atlas ends
up decoded in memory, a large one costs no more than the budget.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cfgen_scale.types import IntArray
from loaders.chunks import ChunkFiles
from loaders.gather import frozen
from loaders.runs import Runs

CACHE_BYTES = 512 * 2**20
RUN = 64  # neighbouring chunks fetched by one read
UNCHUNKED_BLOCK = 65_536


class BlockCache:
    """Decoded chunks of several arrays (zarr or HDF5) under one budget; safe to use from several threads."""

    def __init__(self, budget_bytes: int = CACHE_BYTES) -> None:
        self._budget = budget_bytes
        self._bytes = 0
        self._blocks: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()
        self._promised: dict[tuple[str, int], Future[NDArray[Any]]] = {}
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

    def promise(self, key: tuple[str, int]) -> tuple[Future[NDArray[Any]], bool]:
        """The block that a thread is making, and whether that is the caller, who must then `keep` it."""
        with self._lock:
            is_ours = key not in self._promised
            return self._promised.setdefault(key, Future()), is_ours

    def keep(self, key: tuple[str, int], make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Make the block that was promised, for this thread and those that wait for it."""
        with self._lock:
            promised = self._promised[key]
        try:
            block = make()
            self.put(key, block)
            promised.set_result(block)
        except BaseException as error:
            promised.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._promised[key]
        return block


class BlockArray:
    """One array (n, ...) read along its first axis through a cache; safe to use from several threads.

    ``name`` is its key in the cache, and with ``uri`` what an error names.
    """

    def __init__(self, array: Any, name: str, cache: BlockCache, *, uri: str = "") -> None:
        # What zarr would give for a chunk that is not there, a run of zeros, is no part of an atlas.
        is_zarr = isinstance(array, zarr.Array)
        self.array = array.with_config({"read_missing_chunks": False}) if is_zarr else array
        self.dtype = np.dtype(array.dtype).newbyteorder("=")
        self._name = name
        self._uri = uri
        self._cache = cache
        self._files = ChunkFiles.of(array)
        self._block = int(array.chunks[0]) if array.chunks else UNCHUNKED_BLOCK

    def gather(self, runs: Runs, out: NDArray[Any], *, limit: int | None = None) -> None:
        """Copy runs of elements into ``out``, cast to its dtype; with a ``limit``, see `Runs.copy`."""
        parts = dict(runs.by_chunk(self._block))
        for block, values in self._blocks(np.fromiter(parts, dtype=np.int64)):
            parts[block].copy(values, out, limit=limit, what=f"chunk {block} of {self._name} of {self._uri}")

    def take(self, places: IntArray) -> NDArray[Any]:
        """Elements at ``places`` (m,), which must ascend."""
        out = np.empty((len(places), *self.array.shape[1:]), dtype=self.dtype)
        of_place = places // self._block
        firsts = np.flatnonzero(np.diff(of_place, prepend=-1))
        ends = np.append(firsts, len(places))[1:]
        bounds = dict(zip(of_place[firsts].tolist(), zip(firsts, ends, strict=True), strict=True))
        for block, values in self._blocks(of_place[firsts]):
            lo, hi = bounds[block]
            np.take(values, places[lo:hi] - block * self._block, axis=0, out=out[lo:hi])
        return out

    def _blocks(self, blocks: IntArray) -> Iterator[tuple[int, NDArray[Any]]]:
        """Blocks with their elements: as soon as they are there, or in their order where no files are."""
        if self._files:
            yield from self._decoded(self._files, blocks)
        else:
            for run in _runs(blocks):
                yield from self._fetch(run).items()

    def _decoded(self, files: ChunkFiles, blocks: IntArray) -> Iterator[tuple[int, NDArray[Any]]]:
        """Two threads that want the same blocks decode half of them each: one that another has in the making
        is left for later."""
        waiting: list[tuple[int, Future[NDArray[Any]]]] = []
        for block in blocks.tolist():
            key = (self._name, block)
            values = self._cache.get(key)
            if values is None:
                promised, is_ours = self._cache.promise(key)
                if not is_ours:
                    waiting.append((block, promised))
                    continue
                values = self._cache.keep(key, partial(_frozen_chunk, files, block))
            yield block, values
        for block, promised in waiting:
            yield block, promised.result()

    def _fetch(self, blocks: IntArray) -> dict[int, NDArray[Any]]:
        """Neighbouring blocks, those not in the cache by one read from the first to the last of them."""
        found = {int(b): self._cache.get((self._name, int(b))) for b in blocks}
        missing = [b for b, values in found.items() if values is None]
        if missing:
            first = missing[0]
            run = self._read(first * self._block, (missing[-1] + 1) * self._block)
            for b in missing:
                # A copy, so that a block that stays in the cache does not hold the whole run.
                values = frozen(run[(b - first) * self._block : (b - first + 1) * self._block].copy())
                self._cache.put((self._name, b), values)
                found[b] = values
        return {b: values for b, values in found.items() if values is not None}

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        try:
            return np.asarray(self.array[start:stop], dtype=self.dtype)
        except PermissionError:
            raise
        except Exception as error:  # of HDF5, of zarr, of a codec, of a network: each has its own kinds
            raise OSError(
                f"elements {start:,} to {stop:,} of {self._name} of {self._uri} cannot be read: {error}. "
                f"Copy or write the store again."
            ) from error


def _frozen_chunk(files: ChunkFiles, block: int) -> NDArray[Any]:
    return frozen(files.read(block))


def _runs(blocks: IntArray) -> Iterator[IntArray]:
    """Runs of consecutive blocks, at most `RUN` long."""
    for run in np.split(blocks, np.flatnonzero(np.diff(blocks) != 1) + 1):
        for begin in range(0, len(run), RUN):
            yield run[begin : begin + RUN]
