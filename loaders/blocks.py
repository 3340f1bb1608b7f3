"""Elements of chunked arrays by place: every chunk is decoded once and kept while there is room.

A random row of a compressed store costs the decoding of a chunk that holds many rows. Decoded chunks
are therefore kept, the least recently used leaving first, within a fixed number of bytes: a small atlas ends
up decoded in memory, a large one costs no more than the budget.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
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
MOST_SPARE = 16  # chunks' memory kept for the next ones, of each size

type BlockKey = tuple[str, int]  # array and number of the chunk
type Decode = Callable[[NDArray[np.uint8]], NDArray[Any]]  # into the memory given


@dataclass(eq=False)
class Block:
    """A decoded chunk, read-only, and how many are reading it; its memory is used again when none is.

    ``memory`` is None where the array is not ours to write to.
    """

    values: NDArray[Any]
    memory: NDArray[np.uint8] | None
    readers: int
    is_cached: bool = False


class BlockCache:
    """Decoded chunks of several arrays (zarr or HDF5) under one budget; safe to use from several threads.

    `get` and `put` are for chunks that somebody else decodes. `hold` and `make` decode each chunk once,
    whichever thread wants it first, into the memory of a chunk that has left: to ask the system for memory
    takes as long as to decode, and chunks between larger arrays leave holes in it. Give a block back with
    `release`.
    """

    def __init__(self, budget_bytes: int = CACHE_BYTES) -> None:
        self._budget = budget_bytes
        self._bytes = 0
        self._blocks: OrderedDict[BlockKey, Block] = OrderedDict()
        self._promised: dict[BlockKey, tuple[Future[Block], list[int]]] = {}
        self._spare: dict[int, list[NDArray[np.uint8]]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._blocks)

    def get(self, key: BlockKey) -> NDArray[Any] | None:
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key].values
            return None

    def put(self, key: BlockKey, values: NDArray[Any]) -> None:
        with self._lock:
            self._insert(key, Block(values, None, readers=0))

    def hold(self, key: BlockKey) -> Block | Future[Block] | None:
        """The block; or the promise of it, if another thread is at it; or None: the caller must `make` it."""
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                self._blocks[key].readers += 1
                return self._blocks[key]
            if key in self._promised:
                promised, waiting = self._promised[key]
                waiting[0] += 1
                return promised
            self._promised[key] = Future(), [0]
            return None

    def make(self, key: BlockKey, decode: Decode, size: int) -> Block:
        """``decode`` into memory of ``size`` bytes the block for which `hold` gave None; others that wait get
        it too, or the error."""
        with self._lock:
            spare = self._spare.get(size)
            memory = spare.pop() if spare else np.empty(size, dtype=np.uint8)
        try:
            block = Block(frozen(decode(memory)), memory, readers=1)
        except BaseException as error:
            with self._lock:
                promised, _ = self._promised.pop(key)
            promised.set_exception(error)
            raise
        with self._lock:
            promised, waiting = self._promised.pop(key)
            block.readers += waiting[0]
            self._insert(key, block)
        promised.set_result(block)
        return block

    def release(self, block: Block) -> None:
        """The caller reads this block no more."""
        with self._lock:
            block.readers -= 1
            self._reclaim(block)

    def _insert(self, key: BlockKey, block: Block) -> None:
        if key in self._blocks or block.values.nbytes > self._budget:
            return
        self._blocks[key] = block
        block.is_cached = True
        self._bytes += block.values.nbytes
        while self._bytes > self._budget:
            _, oldest = self._blocks.popitem(last=False)
            oldest.is_cached = False
            self._bytes -= oldest.values.nbytes
            self._reclaim(oldest)

    def _reclaim(self, block: Block) -> None:
        if block.memory is None or block.readers or block.is_cached:
            return
        spare = self._spare.setdefault(block.memory.nbytes, [])
        if len(spare) < MOST_SPARE:
            spare.append(block.memory)


class BlockArray:
    """One array (n, ...) read along its first axis through a cache; safe to use from several threads.

    ``uri`` and ``name`` are its key in the cache, and what an error names.
    """

    def __init__(self, array: Any, name: str, cache: BlockCache, *, uri: str = "") -> None:
        # What zarr would give for a chunk that is not there, a run of zeros, is no part of an atlas.
        is_zarr = isinstance(array, zarr.Array)
        self.array = array.with_config({"read_missing_chunks": False}) if is_zarr else array
        self.dtype = np.dtype(array.dtype).newbyteorder("=")
        self._name = name
        self._uri = uri
        self._key = f"{uri}/{name}"
        self._cache = cache
        self._files = ChunkFiles.of(array)
        self.block = int(array.chunks[0]) if array.chunks else UNCHUNKED_BLOCK

    def gather(self, runs: Runs, out: NDArray[Any], *, limit: int | None = None) -> None:
        """Copy runs of elements into ``out``, cast to its dtype; with a ``limit``, see `Runs.copy`."""
        parts = dict(runs.by_chunk(self.block))
        for block, values in self._blocks(np.fromiter(parts, dtype=np.int64)):
            parts[block].copy(values, out, limit=limit, what=f"chunk {block} of {self._name} of {self._uri}")

    def take(self, places: IntArray) -> NDArray[Any]:
        """Elements at ``places`` (m,), which must ascend."""
        out = np.empty((len(places), *self.array.shape[1:]), dtype=self.dtype)
        of_place = places // self.block
        firsts = np.flatnonzero(np.diff(of_place, prepend=-1))
        ends = np.append(firsts, len(places))[1:]
        bounds = dict(zip(of_place[firsts].tolist(), zip(firsts, ends, strict=True), strict=True))
        for block, values in self._blocks(of_place[firsts]):
            lo, hi = bounds[block]
            np.take(values, places[lo:hi] - block * self.block, axis=0, out=out[lo:hi])
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
        waiting: list[tuple[int, Future[Block]]] = []
        for block in blocks.tolist():
            key = (self._key, block)
            held = self._cache.hold(key)
            if isinstance(held, Future):
                waiting.append((block, held))
            else:
                held = held or self._cache.make(key, partial(files.read, block), files.size)
                yield from self._lent(block, held)
        for block, promised in waiting:
            yield from self._lent(block, promised.result())

    def _lent(self, block: int, held: Block) -> Iterator[tuple[int, NDArray[Any]]]:
        try:
            yield block, held.values
        finally:
            self._cache.release(held)

    def _fetch(self, blocks: IntArray) -> dict[int, NDArray[Any]]:
        """Neighbouring blocks, those not in the cache by one read from the first to the last of them."""
        found = {int(b): self._cache.get((self._key, int(b))) for b in blocks}
        missing = [b for b, values in found.items() if values is None]
        if missing:
            first = missing[0]
            run = self._read(first * self.block, (missing[-1] + 1) * self.block)
            for b in missing:
                # A copy, so that a block that stays in the cache does not hold the whole run.
                values = frozen(run[(b - first) * self.block : (b - first + 1) * self.block].copy())
                self._cache.put((self._key, b), values)
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


def _runs(blocks: IntArray) -> Iterator[IntArray]:
    """Runs of consecutive blocks, at most `RUN` long."""
    for run in np.split(blocks, np.flatnonzero(np.diff(blocks) != 1) + 1):
        for begin in range(0, len(run), RUN):
            yield run[begin : begin + RUN]
