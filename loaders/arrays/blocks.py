"""Elements of chunked arrays by place: every chunk is decoded once and kept while there is room.

A random row of a compressed store costs the decoding of a chunk that holds many rows. Decoded chunks
are therefore kept, the least recently used leaving first, within a fixed number of bytes: a small atlas ends
up decoded in memory, a large one costs no more than the budget.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cfgen_scale.types import IntArray
from loaders.arrays.chunks import ChunkFiles
from loaders.arrays.gather import frozen
from loaders.arrays.kept import Kept
from loaders.arrays.runs import Runs

CACHE_BYTES = 512 * 2**20
FETCHED_AT_ONCE = 64  # chunks that one thread has fetched before it lets others have their share
DECODED_AT_ONCE = 8  # the same of chunks that are decoded here
TOGETHER_BYTES = 128 * 2**20  # of decoded chunks that one thread holds at a time, kept or not
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
        self._key = f"{uri}{array.name}"
        self._cache = cache
        self._files = ChunkFiles.of(array)
        self.block = int(array.chunks[0]) if array.chunks else UNCHUNKED_BLOCK
        block_bytes = self.block * self.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
        self._together = max(TOGETHER_BYTES // max(block_bytes, 1), 1)

    def gather(self, runs: Runs, out: NDArray[Any], *, limit: int | None = None) -> None:
        """Copy runs of elements into ``out``, cast to its dtype; with a ``limit``, see `CutRuns.copy`."""
        for cut in runs.cut(self.block).groups(self._together):
            cut.copy(self._blocks(cut.chunks), out, limit=limit, what=self._called)

    def take(self, places: IntArray) -> NDArray[Any]:
        """Elements at ``places`` (m,), which must ascend."""
        out = np.empty((len(places), *self.array.shape[1:]), dtype=self.dtype)
        of_place = places // self.block
        firsts = np.flatnonzero(np.diff(of_place, prepend=-1))
        ends = np.append(firsts, len(places))[1:]
        for begin in range(0, len(firsts), self._together):
            group = slice(begin, begin + self._together)
            blocks = of_place[firsts[group]]
            for block, values, lo, hi in zip(
                blocks, self._blocks(blocks), firsts[group], ends[group], strict=True
            ):
                np.take(values, places[lo:hi] - block * self.block, axis=0, out=out[lo:hi])
        return out

    def _called(self, block: int) -> str:
        return f"chunk {block} of {self._name} of {self._uri}"

    def _blocks(self, blocks: IntArray) -> list[Block]:
        """The elements of ``blocks`` (k,), which ascend."""
        keys = [(self._key, block) for block in blocks.tolist()]
        found = self._cache.get(keys, self._made, at_once=DECODED_AT_ONCE if self._files else FETCHED_AT_ONCE)
        return [found[key] for key in keys]

    def _made(self, keys: list[tuple[str, int]]) -> dict[tuple[str, int], Block]:
        """Blocks that are not in the cache; neighbours are read from the first to the last of them."""
        made: dict[tuple[str, int], Block] = {}
        for run in _runs([block for _, block in keys]):
            values = self._files.read(run[0], len(run)) if self._files else self._fetched(run)
            made |= zip(((self._key, block) for block in run), map(frozen, values), strict=True)
        return made

    def _fetched(self, run: list[int]) -> Iterator[NDArray[Any]]:
        elements = self._read(run[0] * self.block, (run[-1] + 1) * self.block)
        for begin in range(0, len(run) * self.block, self.block):
            # A copy, so that a block that stays in the cache does not hold the whole run.
            yield elements[begin : begin + self.block].copy()

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


def _runs(blocks: list[int]) -> Iterator[list[int]]:
    """Runs of consecutive blocks."""
    begin = 0
    for i in range(1, len(blocks) + 1):
        if i == len(blocks) or blocks[i] != blocks[i - 1] + 1:
            yield blocks[begin:i]
            begin = i
