"""Which cells make which batch: integers only, no reading.

A split has ``n_cells`` places, 0 .. n_cells - 1. In every epoch a new shuffled sequence of all places is cut
into L contiguous pieces, the *lanes*, and every global batch takes ``batch_cells / L`` cells from each lane.
Worker r of W serves lanes r, r + W, r + 2 W, ...: what a global batch holds does not depend on W, any W up to
L works, and a run goes on with another number of workers from ``cells_seen`` alone.

What does not fill the last batch of an epoch is one shorter batch; nothing is left out. All workers
make the same number of steps, and a worker's share of a short batch may be no cells at all.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cfgen_scale.types import IntArray
from loaders.streaming.permutation import key, permute
from loaders.streaming.shuffled_blocks import Blocks, ShuffledBlocks

MOST_LANES = 64


@dataclass(frozen=True)
class BatchPlan:
    """One worker's share of one global batch.

    places            (b,) int64, places in the split
    positions         (b,) int64, place of each of these cells in the global batch
    global_cells      cells of the global batch, over all workers
    cells_seen_after  the position of the sequence behind this batch
    """

    places: IntArray
    positions: IntArray
    global_cells: int
    cells_seen_after: int


class CellOrder(Protocol):
    """A sequence of global batches, whatever rule makes it: see `Order` for what each part means."""

    @property
    def n_cells(self) -> int: ...
    @property
    def steps_per_epoch(self) -> int: ...
    def after(self, cells_seen: int) -> int: ...
    def batch(self, cells_seen: int, *, rank: int = 0, world: int = 1) -> BatchPlan: ...
    def check_world(self, rank: int, world: int) -> None: ...


@dataclass(frozen=True)
class Order:
    """The sequence of batches of one split: a pure function of these fields and ``cells_seen``.

    n_cells       cells of the split
    batch_cells   cells of a global batch, over all workers
    seed          of the shuffle
    lanes         None takes the largest divisor of batch_cells up to 64
    blocks        None: any two cells may share a batch, for stores whose random rows cost little; else
                  neighbours are kept together for reading (streaming/shuffled_blocks.py)
    """

    n_cells: int
    batch_cells: int
    seed: int
    lanes: int | None = None
    blocks: Blocks | None = field(default=None, kw_only=True)
    _epochs: dict[int, ShuffledBlocks] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.n_cells < 1:
            raise ValueError("there are no cells to put in order: the split is empty.")
        if self.batch_cells < 1:
            raise ValueError(f"batch_cells must be at least 1, not {self.batch_cells}.")
        if self.lanes is None:
            object.__setattr__(self, "lanes", default_lanes(self.batch_cells))
        self._check_lanes(self.n_lanes)
        if self.blocks is not None and self.blocks.n_cells != self.n_cells:
            raise ValueError(f"blocks of {self.blocks.n_cells} cells are not those of {self.n_cells} cells.")

    def _check_lanes(self, lanes: int) -> None:
        if lanes < 1 or self.batch_cells % lanes:
            higher = math.ceil(self.batch_cells / max(lanes, 1)) * max(lanes, 1)
            raise ValueError(
                f"a batch of {self.batch_cells} cells cannot take equal shares from {lanes} lanes. "
                f"Set batch_cells to a multiple of {max(lanes, 1)}, such as {higher}, or leave lanes out "
                f"(then {default_lanes(self.batch_cells)})."
            )

    @property
    def n_lanes(self) -> int:
        assert self.lanes is not None
        return self.lanes

    @property
    def steps_per_epoch(self) -> int:
        """Global batches of an epoch, the short last one included."""
        return -(-self.n_cells // self.batch_cells)

    @property
    def digest(self) -> str:
        """sha256 of what the sequence is a function of: orders of one digest give the same places."""
        whole = hashlib.sha256(f"{self.n_cells}:{self.batch_cells}:{self.seed}:{self.n_lanes}".encode())
        if self.blocks is not None:
            whole.update(self.blocks.begins.astype("<i8").tobytes())
        return whole.hexdigest()

    def after(self, cells_seen: int) -> int:
        """``cells_seen`` behind the batch that begins at ``cells_seen``."""
        epoch, step = self._locate(cells_seen)
        return epoch * self.n_cells + min((step + 1) * self.batch_cells, self.n_cells)

    def batch(self, cells_seen: int, *, rank: int = 0, world: int = 1) -> BatchPlan:
        """Worker ``rank``'s share of the global batch that begins at ``cells_seen``.

        Raises ValueError if ``cells_seen`` is not where a batch begins, or for more workers than lanes.
        """
        self.check_world(rank, world)
        epoch, step = self._locate(cells_seen)
        begins, sizes, offsets = self._shares(step)
        lanes = np.arange(rank, self.n_lanes, world)
        taken = sizes[lanes]
        of_lane = np.repeat(lanes, taken)
        within_share = np.arange(len(of_lane)) - np.repeat(np.cumsum(taken) - taken, taken)
        return BatchPlan(
            places=self._places(epoch, of_lane, begins[of_lane] + within_share),
            positions=offsets[of_lane] + within_share,
            global_cells=int(sizes.sum()),
            cells_seen_after=self.after(cells_seen),
        )

    def check_world(self, rank: int, world: int) -> None:
        """Raise ValueError unless ``world`` workers can share the lanes and ``rank`` is one of them."""
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not one of {world} workers (0 to {world - 1}).")
        if world > self.n_lanes:
            raise ValueError(
                f"{world} workers cannot share the {self.n_lanes} lanes into which a batch of "
                f"{self.batch_cells} cells is divided. Use at most {self.n_lanes} workers, or more lanes "
                f"(lanes={world}) and a batch_cells that is a multiple of them."
            )

    def _locate(self, cells_seen: int) -> tuple[int, int]:
        """Epoch and step within it of the batch that begins at ``cells_seen``."""
        epoch, within = divmod(cells_seen, self.n_cells)
        if cells_seen < 0 or within % self.batch_cells:
            raise ValueError(
                f"cells_seen = {cells_seen} is not where a batch begins: epochs of {self.n_cells} cells in "
                f"batches of {self.batch_cells} do not stop there. Resume with the batch_cells and the "
                f"prepared atlas with which the run was started."
            )
        return epoch, within // self.batch_cells

    def _lane_begins(self) -> IntArray:
        """(L + 1,) where each lane begins in the epoch's sequence; sizes differ by at most one."""
        smaller, larger_lanes = divmod(self.n_cells, self.n_lanes)
        lanes = np.arange(self.n_lanes + 1, dtype=np.int64)
        return lanes * smaller + np.minimum(lanes, larger_lanes)

    def _shares(self, step: int) -> tuple[IntArray, IntArray, IntArray]:
        """Per lane (L,): first cell within the lane, cells taken, place of the first in the global batch.

        Every lane holds at least (full batches) * (share) cells, because batch_cells is a multiple of L;
        what is left in the lanes behind the full batches is the short last batch.
        """
        share = self.batch_cells // self.n_lanes
        begins = np.full(self.n_lanes, step * share, dtype=np.int64)
        lane_sizes = np.diff(self._lane_begins())
        is_full = (step + 1) * self.batch_cells <= self.n_cells
        sizes = np.full_like(begins, share) if is_full else lane_sizes - begins
        return begins, sizes, np.cumsum(sizes) - sizes

    def _places(self, epoch: int, lane: IntArray, within: IntArray) -> IntArray:
        """Places (m,) in the split of cells ``within`` (m,) of lanes ``lane`` (m,)."""
        begins = self._lane_begins()
        slots = begins[lane] + within
        if self.blocks is None:
            return permute(slots, self.n_cells, key(self.seed, "cells", epoch))
        return self._shuffled(self.blocks, epoch).places(slots, lane, begins[lane], begins[lane + 1])

    def _shuffled(self, blocks: Blocks, epoch: int) -> ShuffledBlocks:
        """The epoch's blocks, kept while batches of it are asked for."""
        shuffled = self._epochs.get(epoch) or ShuffledBlocks(blocks, seed=self.seed, epoch=epoch)
        # One thread may still be in the epoch before.
        for old in [e for e in list(self._epochs) if abs(e - epoch) > 1]:
            self._epochs.pop(old, None)
        self._epochs[epoch] = shuffled
        return shuffled


def default_lanes(batch_cells: int, most: int = MOST_LANES) -> int:
    """The largest divisor of ``batch_cells`` up to ``most``: of 64, 64 for 256 or 4,096, 50 for 100."""
    return max(d for d in range(1, min(batch_cells, most) + 1) if batch_cells % d == 0)


def sequential(n_cells: int, batch_cells: int, *, rank: int = 0, world: int = 1) -> Iterator[BatchPlan]:
    """Every place once and in order, for passes that do not train: batch k belongs to worker k mod W.

    A worker gets whole batches, so that it can write whole chunks. Workers' numbers of batches differ by at
    most one: do not communicate inside the pass.
    """
    if batch_cells < 1 or not 0 <= rank < world:
        raise ValueError(f"batch_cells {batch_cells}, rank {rank} of {world}: not a pass over cells.")
    for begin in range(rank * batch_cells, n_cells, world * batch_cells):
        places = np.arange(begin, min(begin + batch_cells, n_cells), dtype=np.int64)
        yield BatchPlan(places, places - begin, len(places), int(places[-1]) + 1)
