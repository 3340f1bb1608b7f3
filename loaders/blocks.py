"""Elements of chunked arrays by place: every chunk is decoded once and kept while there is room.

A random row of a compressed store costs the decoding of a chunk that holds many rows. Decoded chunks
are therefore kept, the least recently used leaving first, within a fixed number of bytes: a small atlas ends
up decoded in memory, a large one costs no more than the budget.
"""

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cfgen_scale.types import IntArray
from loaders.chunks import ChunkFiles
from loaders.gather import frozen
from loaders.kept import Kept
from loaders.reused_memory import REUSED
from loaders.runs import Runs

CACHE_BYTES = 512 * 2**20
RUN = 64  # neighbouring chunks fetched by one read
UNCHUNKED_BLOCK = 65_536

type Block = NDArray[Any]  # a decoded chunk, read-only
type BlockCache = Kept[tuple[str, int], Block]  # by array and number of the chunk


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

    def _blocks(self, blocks: IntArray) -> Iterator[tuple[int, Block]]:
        """Blocks with their elements: as soon as they are there, or in their order where no files are."""
        if self._files:
            yield from self._decoded(self._files, blocks)
        else:
            for run in _runs(blocks):
                yield from self._fetched(run)

    def _decoded(self, files: ChunkFiles, blocks: IntArray) -> Iterator[tuple[int, Block]]:
        """Two threads that want the same blocks decode half of them each: one that another has in the making
        is left for later."""
        others: dict[int, Future[Block]] = {}
        for block in blocks.tolist():
            claim = self._cache.claim([(self._key, block)])
            for key in claim.mine:
                try:
                    values = frozen(files.read(block, REUSED.empty(files.size, np.uint8)))
                except BaseException as error:
                    self._cache.fail([key], error)
                    raise
                self._cache.deliver(key, values)
                yield block, values
            for values in claim.there.values():
                yield block, values
            for promised in claim.others.values():
                others[block] = promised
        for block, promised in others.items():
            yield block, promised.result()

    def _fetched(self, blocks: IntArray) -> Iterator[tuple[int, Block]]:
        """Neighbouring blocks, those not in the cache by one read from the first to the last of them."""
        claim = self._cache.claim([(self._key, block) for block in blocks.tolist()])
        found = claim.there
        try:
            if claim.mine:
                first, last = claim.mine[0][1], claim.mine[-1][1]
                run = self._read(first * self.block, (last + 1) * self.block)
                for key in claim.mine:
                    begin = (key[1] - first) * self.block
                    # A copy, so that a block that stays in the cache does not hold the whole run.
                    found[key] = frozen(run[begin : begin + self.block].copy())
                    self._cache.deliver(key, found[key])
        except BaseException as error:
            self._cache.fail(claim.mine, error)
            raise
        found |= {key: promised.result() for key, promised in claim.others.items()}
        return ((block, values) for (_, block), values in found.items())

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
