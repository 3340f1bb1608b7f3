"""Shuffling for stores in which neighbours are cheap to read together: blocks are shuffled, then their cells.

A *block* is a stretch of neighbouring places that one reading of the store yields (a slab of SOMA, a few
chunks of Zarr). In every epoch the blocks come in a new random sequence, which lanes (streaming/order.py) cut
into pieces; cells are shuffled within each block, or rather within a lane's part of it. Every lane reads one
block at a time, and its cells leave it in random order, some for each batch.
"""

from dataclasses import dataclass

import numpy as np

from cfgen_scale.types import IntArray
from loaders.streaming.permutation import key, permute, subkey


@dataclass(frozen=True, eq=False)
class Blocks:
    """Places 0 .. n - 1 cut into blocks: ``begins`` (blocks + 1,) int64 rises from 0 to n."""

    begins: IntArray

    def __post_init__(self) -> None:
        if len(self.begins) < 2 or self.begins[0] != 0 or (np.diff(self.begins) < 1).any():
            raise ValueError("blocks must begin at place 0 and hold at least one cell each.")

    @staticmethod
    def equal(n_cells: int, block_cells: int) -> "Blocks":
        """Blocks of ``block_cells`` places; the last one may be shorter."""
        return Blocks(np.append(np.arange(0, n_cells, block_cells), n_cells))

    @staticmethod
    def of(numbers: IntArray) -> "Blocks":
        """``numbers`` (n,) say in which block each place lies; they ascend."""
        first = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1))
        return Blocks(np.append(first, len(numbers)))

    @property
    def n_cells(self) -> int:
        return int(self.begins[-1])


class ShuffledBlocks:
    """One epoch's sequence of places: which place stands at which slot 0 .. n - 1. Memory: a few numbers
    for each block."""

    def __init__(self, blocks: Blocks, *, seed: int, epoch: int) -> None:
        n_blocks = len(blocks.begins) - 1
        sequence = permute(np.arange(n_blocks), n_blocks, key(seed, "blocks", epoch))
        self._places = blocks.begins[sequence]
        self._slots = np.append(0, np.cumsum(np.diff(blocks.begins)[sequence]))
        self._key = key(seed, "within blocks", epoch)

    def places(self, slots: IntArray, lane: IntArray, lower: IntArray, upper: IntArray) -> IntArray:
        """Places (m,) at ``slots`` of lanes ``lane``, which have the slots from ``lower`` to ``upper``."""
        block = np.searchsorted(self._slots, slots, side="right") - 1
        begin = np.maximum(self._slots[block], lower)
        size = np.minimum(self._slots[block + 1], upper) - begin
        shuffled = begin + permute(slots - begin, size, subkey(subkey(self._key, lane), block))
        return self._places[block] + shuffled - self._slots[block]
